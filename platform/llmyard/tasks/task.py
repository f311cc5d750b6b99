"""The task protocol: one definition of records, template, targets, decoding and metrics, which training, evaluation
and serving share. Adding a task is one file and its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llmyard.core.errors import LlmyardError
from llmyard.tokens.tokenizer import Tokenizer

Record = dict[str, Any]
Labels = Mapping[str, Sequence[str]]


class BadExample(LlmyardError):
    """A record does not fit the task's schema; it is quarantined with its place."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A record as a shard keeps it.

    Attributes:
        ids: Prompt and target in one sequence.
        target_start: Offset where the target begins; only what follows is learned. 0 for labelled sequences.
        labels: One a token, for tasks that tag; None for tasks that write.
        pairs: Flat triples (relation, subject's first token, object's first token).
    """

    ids: list[int]
    target_start: int = 0
    labels: list[int] | None = None
    pairs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are written unless the request says otherwise; temperature 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of the text with its type; offsets in characters."""

    text: str
    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a tagging model finds in a text."""

    entities: tuple[Entity, ...]
    triples: tuple[tuple[str, str, str], ...]


class Task(Protocol):
    """A task.

    Attributes:
        name: As in job files and routes.
        revision: Grows when records are encoded or prompted otherwise; part of the fingerprint.
        output: ``text`` is answered by generation, ``spans`` by annotation.
        metric: Name of the key metric in :meth:`score`.
        decoding: Defaults.
    """

    name: str
    revision: int
    output: Literal["text", "spans"]
    metric: str
    decoding: Decoding

    def check(self, record: Record) -> Record:
        """Returns the record if it fits the schema; raises BadExample with the reason."""

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns the label names that occur, sorted; {} for tasks without labels."""

    def encode(self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels) -> list[EncodedExample | None]:
        """Returns training examples; None for one that is longer than the limits."""

    def text(self, record: Record) -> str:
        """Returns the text that a tagging model reads for a record."""

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the ids that precede the target in training, for a record without its answer."""

    def score(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, float]:
        """Returns the metrics of predictions (texts, or annotations) for records with answers."""

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the name and the predictions of a method that learns nothing."""


def need(record: Record, field: str, kind: type, task: str) -> Any:
    """Returns a field of a record; raises BadExample if it is missing, empty or of another type."""
    value = record.get(field)
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise BadExample(f"a {task} record needs {field!r} ({kind.__name__}), got {value!r:.60}", "mend the record")
    return value
