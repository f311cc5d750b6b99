"""Held-out examples that stand in the training ones, by what the model is asked."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from llmyard.sources.corpus import digest
from llmyard.sources.records import Record

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Leak:
    """How much of a held-out split was seen in training.

    Attributes:
        examples: Held-out examples.
        leaked: Those of them whose input is one of training.
        ids: The first few of these.
    """

    examples: int
    leaked: int
    ids: tuple[str, ...]


def leaked(train: Iterable[bytes], held_out: Iterable[tuple[str, bytes]], shown: int = _SHOWN) -> Leak:
    """Returns which held-out examples stand in the training ones.

    Memory grows with the held-out examples only.

    Args:
        train: Keys of the training inputs, as :func:`input_key` or :func:`key_of` gives them.
        held_out: Id and key of each held-out example.
        shown: How many ids to give.
    """
    examples = list(held_out)
    seen = {key for _, key in examples}.intersection(train)
    ids = [id_ for id_, key in examples if key in seen]
    return Leak(len(examples), len(ids), tuple(ids[:shown]))


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
