"""What tells whether a held-out example stands in the training ones: a key of what the model is asked."""

from __future__ import annotations

import unicodedata

from llmyard.sources.corpus import digest
from llmyard.sources.records import Record


def key_of(text: str) -> bytes:
    """Returns 128 bits that stand for a text; case, width of letters and amount of white space do not matter."""
    return digest(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


def input_key(record: Record) -> bytes:
    """Returns the key of what a model is asked of a record."""
    return key_of(input_of(record))


def input_of(record: Record) -> str:
    """Returns what a model is asked of a record: all but its answer; of a conversation all but the last reply."""
    turns = record.get("messages")
    if isinstance(turns, list):
        replies = [at for at, turn in enumerate(turns) if isinstance(turn, dict) and turn.get("role") == "assistant"]
        before = turns[: replies[-1]] if replies and replies[-1] == len(turns) - 1 else turns
        return "\n".join(str(turn.get("content")) for turn in before if isinstance(turn, dict))
    entities = [record[end].get("text") for end in ("subject", "object") if isinstance(record.get(end), dict)]
    fields = ("query", "question", "text", "text_pair", "context", "source")
    return "\n".join([str(record[name]) for name in fields if record.get(name)] + [str(each) for each in entities])
