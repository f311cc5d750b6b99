"""What an example is about, and which split it is dealt to where none is named: none is about what another split is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from llmyard.core.seeds import unit
from llmyard.sources.config import HubExamples, Records
from llmyard.sources.leaks import key_of
from llmyard.sources.records import BadRecord, Record

HELD_OUT = ("validation", "test")


def group_of(record: Record) -> str:
    """Returns what all examples share that must not be divided: an article, a dialogue, a text, what a user says.

    A record's field ``group`` says so. Where it has none, it is the context or the text that it is about; of a
    translation the side in the language that comes first in the alphabet, so that both directions stand together; of a
    conversation all that the user says.
    """
    given = record.get("group")
    if given is not None and str(given).strip():
        return str(given)
    for field in ("context", "text"):
        if isinstance(record.get(field), str):
            return str(record[field])
    if isinstance(record.get("source"), str):
        sides = [(str(record.get(f"{side}_language")), str(record.get(side))) for side in ("source", "target")]
        return min(sides)[1]
    turns = record.get("messages")
    if isinstance(turns, list):
        return "\n".join(str(turn.get("content")) for turn in turns if _is_user(turn))
    return json.dumps({name: value for name, value in record.items() if name != "id"}, sort_keys=True, default=str)


def _is_user(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "user"


def is_named(source: Records | HubExamples, split: str) -> bool:
    """Returns whether a source names where a split stands; else its examples are dealt out of the training ones."""
    return split == "train" or getattr(source, split) is not None


def split_of(group: str, source: Records | HubExamples) -> str:
    """Returns the split that an example among the training ones is dealt to."""
    place = unit(source.seed, int.from_bytes(key_of(group)[:8], "big"))
    edge = 0.0
    for split in reversed(HELD_OUT):  # the test split does not change when validation files are named later on
        edge += 0.0 if is_named(source, split) else float(getattr(source, f"{split}_share"))
        if place < edge:
            return split
    return "train"


def dealt(
    found: Iterable[Record | BadRecord], source: Records | HubExamples, split: str
) -> Iterator[Record | BadRecord]:
    """Yields the records of a split, of those that stand where it is read from.

    What is bad there counts once: for the split that the place is named for.
    """
    if split != "train" and is_named(source, split):
        yield from found
        return
    for item in found:
        if isinstance(item, BadRecord):
            if split == "train":
                yield item
        elif split_of(group_of(item), source) == split:
            yield item
