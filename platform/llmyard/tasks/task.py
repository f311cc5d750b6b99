"""The task protocol: one definition of records, template, targets, decoding and metrics, which training, evaluation
and serving share. Adding a task is one file and its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llmyard.core.errors import LlmyardError
from llmyard.metrics.measure import Measure
from llmyard.tokens.tokenizer import CHINESE, ENGLISH, Tokenizer

Record = dict[str, Any]
Labels = Mapping[str, Sequence[str]]
Output = Literal["text", "spans", "label"]
# How a model reads and writes: an encoder labels, a decoder goes on writing, an encoder-decoder reads and then writes.
Form = Literal["encoder", "decoder", "encoder_decoder"]
FORMS: dict[str, Form] = {
    "bert": "encoder", "span_tagger": "encoder", "text_classifier": "encoder",
    "gpt2": "decoder", "llama": "decoder",
    "transformer": "encoder_decoder", "t5": "encoder_decoder",
}  # fmt: skip
LANGUAGE_TOKENS = {"en": ENGLISH, "zh": CHINESE}


class BadExample(LlmyardError):
    """A record does not fit the task's schema; it is quarantined with its place."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A record, or a part of it, as a shard keeps it.

    Attributes:
        ids: Prompt and target in one sequence.
        target_start: Offset where the target begins; only what follows is learned. 0 for labelled sequences.
        labels: One a token. Tasks that tag: the tags. Tasks that choose a label: which part of the input a token is of.
            Tasks that write: 1 where a token is learned, 0 where it is only read; None if all from ``target_start`` on
            are learned.
        pairs: Flat triples (relation, subject's first token, object's first token), or the label.
    """

    ids: list[int]
    target_start: int = 0
    labels: list[int] | None = None
    pairs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are written unless the request says otherwise; temperature 0 is greedy.

    With a ``json_schema`` nothing else than JSON that follows it is written. The four behind it hold an answer to a
    length, a language, and to words and runs of tokens that do not stand in it. ``end_tokens`` end it, by their names.
    With a ``regex`` only what matches it is written. ``top_logprobs``: how likely each token was is told, and which so
    many were the likeliest.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    json_schema: str | None = None
    min_new_tokens: int = 0
    language: str | None = None
    forbidden: tuple[str, ...] = ()
    no_repeat: int = 0
    end_tokens: tuple[str, ...] = ()
    regex: str | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of the text with its type; offsets in characters.

    Attributes:
        score: Of an answer to a question, in nats: how much likelier it is than that there is none.
    """

    text: str
    type: str
    start: int
    end: int
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a tagging model finds in a text."""

    entities: tuple[Entity, ...]
    triples: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Marked:
    """A text to be labelled, with the parts of it that the label is about.

    Attributes:
        text: All of it.
        spans: (start, end) of each part, in characters; none where the label is of the text as a whole.
        numbers: Which part each span is of, from 1 on, where several are of one; (): each is a part of its own.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen label.

    Attributes:
        label: The likeliest; of a model that writes what it wrote, which may be no label at all.
        shares: Probability of each label; empty of a model that writes.
    """

    label: str
    shares: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A task, for one form of model.

    A model that writes is asked by :meth:`prompt` and answers a text. A model that labels is given :meth:`inputs`, one
    or several for each record, and answers an :class:`Annotation` or a :class:`Choice` for each. :meth:`prediction`
    makes of either what :meth:`measures` compares.

    Attributes:
        name: As in job files and routes.
        revision: Grows when records are encoded or prompted otherwise; part of the fingerprint.
        output: What the model answers: ``text`` is generated, ``spans`` are tagged, a ``label`` is chosen.
        metric: Name of the key metric among :meth:`measures`.
    """

    name: str
    revision: int
    output: Output
    metric: str

    def check(self, record: Record) -> Record:
        """Returns the record if it fits the schema; raises BadExample with the reason."""

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns the label names that occur, sorted; {} for a model that writes."""

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns the training examples of each record; None for one that is longer than the limits."""

    def cases(self, record: Record) -> list[Record]:
        """Returns what of a record is asked and measured: itself, or each turn of a conversation.

        All methods below take cases.
        """

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Returns what a model that labels reads for a record."""

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the ids that precede the target in training, for a record without its answer."""

    def excess(self, record: Record, tokenizer: Tokenizer) -> tuple[int, int]:
        """Returns by how many tokens what is asked is longer than what may be read at once (0 or less: it is not), and
        how many those are. :meth:`prompt` would cut it.
        """

    def choices(self, record: Record) -> list[str] | None:
        """Returns the answers of which the likeliest is taken; None where the answer is written freely."""

    def decoding(self, labels: Labels) -> Decoding:
        """Returns how a model writes that was trained with such labels."""

    def then(self, record: Record, answer: Any) -> Record | None:
        """Returns what a model that labels is asked next, with what it has found so far as the last of ``read``; None
        where its answer is complete. :func:`llmyard.tasks.tagging.with_read` puts the answers together.
        """

    def prediction(self, record: Record, answer: Any) -> Any:
        """Returns what :meth:`measures` takes.

        Args:
            record: As asked.
            answer: The text that was written, or what was found in each of :meth:`inputs`.
        """

    def measures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns the metrics of predictions for records with answers."""

    def figures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, float]:
        """Returns further figures, of the answers as a whole: nothing can be said of one example alone."""

    def signatures(self, records: Sequence[Record]) -> dict[str, str]:
        """Returns how figures were computed, by their names, where others compute them in other ways."""

    def bucket(self, prediction: Any, record: Record) -> str:
        """Returns the kind of error that a prediction makes, or "right"."""

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the name and the predictions of a method that learns little."""


def need(record: Record, field: str, kind: type, task: str) -> Any:
    """Returns a field of a record; raises BadExample if it is missing, empty or of another type."""
    value = record.get(field)
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise BadExample(f"a {task} record needs {field!r} ({kind.__name__}), got {value!r:.60}", "mend the record")
    return value


def language_of(record: Record, field: str = "language") -> str:
    """Returns the language that a record names; raises BadExample for one that is not supported."""
    if record.get(field) not in LANGUAGE_TOKENS:
        raise BadExample(f"{field} is {record.get(field)!r}", f"supported: {', '.join(LANGUAGE_TOKENS)}")
    return str(record[field])
