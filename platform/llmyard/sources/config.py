"""Where documents and task examples come from."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from llmyard.core.config import Config, SourcePath, absolute

Language = Literal["en", "zh"]
_NAME = "Name of the source in reports, in the shards' lineage and in mixtures."
_WEIGHT = "How many times as often as its own size the source is drawn in training: 1 everywhere is once an epoch."


class SmallWorldDocuments(Config):
    """Documents of the synthetic bilingual corpus; needs no network and no files."""

    kind: Literal["smallworld"] = "smallworld"
    profile: Literal["dev", "standard", "large"] = Field("dev", description="How large, and how many names.")
    seed: int = Field(7, ge=0)
    documents: int | None = Field(None, ge=1, description="Overrides the profile's number of documents.")
    bias: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Adds sentences in which a trade depends on he or she this strongly, to find the bias again: 0 not "
        "at all, 1 wholly. Unset, no such sentences.",
    )
    name: str = Field("smallworld", description=_NAME)
    weight: float = Field(1.0, gt=0, description=_WEIGHT)


Format = Literal["auto", "text", "json", "jsonl", "tsv", "csv", "parquet", "html", "warc", "wet"]


class Limits(Config):
    """What a record or a file may be before it is quarantined, and how much may be quarantined."""

    max_record_bytes: int = Field(16 << 20, ge=1, description="A longer record is quarantined; the rest goes on.")
    max_decompressed_ratio: float = Field(
        200.0,
        gt=1,
        description="A .gz or .zst file that grows more than this is a decompression bomb: its rest is left.",
    )
    max_decompressed_bytes: int = Field(1 << 40, ge=1, description="More than this of one .gz or .zst file is left.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="More bad records than this stop the job.")


class Files(Config):
    """Documents from files, on this machine or on any filesystem that pyarrow knows; ``.gz`` and ``.zst`` are read."""

    kind: Literal["files"] = "files"
    name: str = Field("files", description=_NAME)
    paths: tuple[SourcePath, ...] = Field(
        min_length=1,
        description="Files, folders (with what is below) or globs; s3://, gs://, hdfs:// too; $VARIABLES are replaced.",
    )
    format: Format = Field("text", description="auto: by each file's suffix.")
    columns: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="tsv: a line's text is these columns' texts."
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="csv: what stands between two cells.")
    text_fields: tuple[str, ...] = Field(
        ("text",),
        min_length=1,
        description="json, jsonl, csv, parquet: the first of these that a record has is its text.",
    )
    language: Language | None = Field(None, description="The language of all documents; guessed where none is named.")
    language_field: str | None = Field(None, description="json, jsonl, csv, parquet: the field with the language.")
    url_field: str | None = Field(None, description="json, jsonl, csv, parquet: the field with the address.")
    document: Literal["file", "paragraph"] = Field(
        "file", description="text: one document a file, or paragraphs gathered up to `document_characters`."
    )
    document_characters: int = Field(2000, ge=1, le=1_000_000)
    part: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = Field(
        (0.0, 1.0), description="text, a document a file: from where to where, as shares of the file's characters."
    )
    split: Literal["train", "validation", "test"] | None = Field(
        None, description="Where all its documents go; unset, a hash of the text decides."
    )
    share: float = Field(1.0, gt=0, le=1, description="Keep this share of the documents, chosen by their ids.")
    max_bytes: int | None = Field(None, ge=1, description="Stop taking files or parts of files after so many bytes.")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.part[0] >= self.part[1]:
            raise ValueError(f"part {self.part} is empty: its first number must be the smaller one")
        if self.part != (0.0, 1.0) and (self.format, self.document) != ("text", "file"):
            raise ValueError("`part` cuts plain text, a document a file: set format: text and document: file")
        return self


def _absolute_folder(dataset: str) -> str:
    return absolute(dataset) if dataset.startswith((".", "/")) else dataset


class HubDataset(Config):
    """Documents of a data set of the Hugging Face hub, or of a local folder in its layout; streamed, never executed."""

    kind: Literal["hub"] = "hub"
    name: str = Field("hub", description=_NAME)
    dataset: Annotated[str, AfterValidator(_absolute_folder)] = Field(
        min_length=1, description="A name on the hub, or a local folder that begins with `.`, `/`, `~` or `$`."
    )
    config: str | None = Field(None, description="The data set's configuration, where it has several.")
    split: str = "train"
    revision: str | None = Field(None, description="A commit, branch or tag on the hub; it is resolved to its commit.")
    text_field: str = "text"
    language: Language | None = Field(None, description="The language of all documents; guessed where none is named.")
    language_field: str | None = None
    url_field: str | None = None
    share: float = Field(1.0, gt=0, le=1, description="Keep this share of the documents, chosen by their ids.")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)


class SmallWorldExamples(Config):
    """Task examples of the synthetic corpus, with ground truth and harder test splits."""

    kind: Literal["smallworld"] = "smallworld"
    seed: int = Field(7, ge=0)
    profile: Literal["dev", "standard", "large"] = "dev"
    train: int = Field(6000, ge=1, description="Number of training examples.")
    validation: int = Field(200, ge=1)
    test: int = Field(200, ge=1, description="Examples in each test split.")


class ParallelText(Config):
    """Sentence pairs in tab-separated files; split by distinct sentence of the first language, so that none leaks."""

    kind: Literal["parallel"] = "parallel"
    paths: tuple[SourcePath, ...] = Field(min_length=1)
    columns: tuple[int, int] = Field((0, 1), description="Columns of the two languages.")
    languages: tuple[Language, Language] = ("en", "zh")
    seed: int = Field(7, ge=0)
    validation_share: float = Field(0.01, gt=0, lt=0.5)
    test_share: float = Field(0.02, gt=0, lt=0.5)
    max_bad_share: float = Field(0.01, ge=0, le=1, description="More bad lines than this stop the job.")


ExampleFormat = Literal[
    "jsonl", "squad", "messages", "alpaca", "sharegpt", "semeval", "finre", "fewrel", "conll", "babi", "sgd",
    "crosswoz", "qmsum",
]  # fmt: skip
# The tasks that a format's records are for; those of `jsonl` and `rows` are for any, in the task's own schema.
# Of a sentence with two entities, or of the sentence alone: a relation is its label then.
RELATIONS = ("relation_classification", "classification")
FORMAT_TASKS: dict[str, tuple[str, ...]] = {
    "squad": ("question_answering",),
    "babi": ("question_answering",),
    "messages": ("dialogue", "instruction"),
    "alpaca": ("dialogue", "instruction"),
    "sharegpt": ("dialogue", "instruction"),
    "sgd": ("dialogue",),
    "crosswoz": ("dialogue",),
    "semeval": RELATIONS,
    "finre": RELATIONS,
    "fewrel": RELATIONS,
    "conll": ("knowledge_graph",),
    "qmsum": ("summarization",),
}
Paths = SourcePath | Annotated[tuple[SourcePath, ...], Field(min_length=1)]
_PATHS = "A path or several: files, folders (with what is below) or globs."
_COLUMNS = "Field of the task's schema: where it stands in a row; a dot leads into an object, as in translation.zh."
_LABELS = (
    "What a row says as label or relation: the name it is learned by; rows that say anything else are quarantined."
)
_SHARE = "Of the training examples where no {} ones are named; an article, dialogue or text is never divided."


def paths_of(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the paths that a field of :class:`Records` names."""
    return (given,) if isinstance(given, str) else given or ()


class _Dealt(Config):
    """Examples whose missing splits are dealt out of the training ones, by a hash of what they are about."""

    seed: int = Field(7, ge=0, description="Of the hash that deals the splits that are not named.")
    validation_share: float = Field(0.05, gt=0, lt=0.5, description=_SHARE.format("validation"))
    test_share: float = Field(0.1, gt=0, lt=0.5, description=_SHARE.format("test"))
    language: Language | None = Field(None, description="Of records that name none; unset, their letters tell.")
    columns: dict[str, str] = Field({}, description=_COLUMNS)
    labels: dict[str, str] | None = Field(None, description=_LABELS)
    max_bad_share: float = Field(0.01, ge=0, le=1, description="More bad records than this stop the job.")

    def _refuse_columns(self, format_: str, plain: str) -> None:
        for field in ("columns", "labels"):
            if format_ != plain and getattr(self, field):
                raise ValueError(f"`{field}` is for format: {plain}; {format_} says itself where everything stands")


class Records(_Dealt):
    """Examples from files: JSON lines of the task's own record schema, or a format that data sets come in."""

    kind: Literal["records"] = "records"
    format: ExampleFormat = Field(
        "jsonl", description="jsonl: of the task's own schema, or brought to it by `columns`."
    )
    train: Paths = Field(description=_PATHS)
    validation: Paths | None = Field(None, description=f"{_PATHS} Unset, a share of the training examples.")
    test: Paths | None = Field(None, description=f"{_PATHS} Unset, a share of the training examples.")
    repair_offsets: bool = Field(
        True, description="squad: an answer that does not stand where it says is taken from the nearest place it does."
    )

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        self._refuse_columns(self.format, "jsonl")
        return self


class HubExamples(_Dealt):
    """Examples of a data set of the Hugging Face hub, or of a local folder in its layout; streamed, never executed."""

    kind: Literal["hub"] = "hub"
    dataset: Annotated[str, AfterValidator(_absolute_folder)] = Field(
        min_length=1, description="A name on the hub, or a local folder that begins with `.`, `/`, `~` or `$`."
    )
    config: str | None = Field(None, description="The data set's configuration, where it has several.")
    revision: str | None = Field(None, description="A commit, branch or tag on the hub; it is resolved to its commit.")
    format: Literal["rows", "messages", "alpaca", "sharegpt"] = Field(
        "rows", description="rows: of the task's own schema, or brought to it by `columns`."
    )
    train: str = Field("train", min_length=1, description="The data set's name for the split.")
    validation: str | None = Field(None, min_length=1, description="Unset, a share of the training examples.")
    test: str | None = Field(None, min_length=1, description="Unset, a share of the training examples.")

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        self._refuse_columns(self.format, "rows")
        return self


class Answers(_Dealt):
    """Records that a stage of kind `predict` made: the answers of another model."""

    kind: Literal["answers"] = "answers"
    records: str = Field(description="Name of the records artifact.")


ExampleSource = Annotated[
    SmallWorldExamples | ParallelText | Records | HubExamples | Answers, Field(discriminator="kind")
]


SMALLWORLD_TASKS = ("translation", "summarization", "question_answering", "knowledge_graph", "dialogue")


def unfit(source: ExampleSource, task: str) -> str | None:
    """Returns why a source holds no examples of a task; None where it may."""
    tasks = FORMAT_TASKS.get(getattr(source, "format", ""))
    if tasks is not None and task not in tasks:
        return f"format {getattr(source, 'format', '')} holds examples of {' and '.join(tasks)}, not of {task}"
    if isinstance(source, SmallWorldExamples) and task not in SMALLWORLD_TASKS:
        return f"kind smallworld holds examples of {', '.join(SMALLWORLD_TASKS)}, not of {task}: give `data`"
    if isinstance(source, ParallelText) and task != "translation":
        return f"kind parallel holds examples of translation, not of {task}"
    return None


class TaskTexts(Config):
    """The texts of a task's training examples as documents; held-out ones are not read unless that is asked for."""

    kind: Literal["task_texts"] = "task_texts"
    name: str = Field("task_texts", description=_NAME)
    task: str = Field(description="What the examples are for, such as question_answering.")
    data: ExampleSource
    fields: tuple[str, ...] = Field((), description="Fields of the records; unset, all that hold texts.")
    held_out: bool = Field(
        False, description="Read held-out splits too: for an index of what can be asked about, not to train on."
    )
    language: Language | None = Field(None, description="Of all documents, where the records name none.")
    share: float = Field(1.0, gt=0, le=1, description="Keep this share of the documents, chosen by their ids.")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)


SLOTS = ("subject", "relation", "object")


def _template(text: str) -> str:
    for slot in re.findall(r"\{([^{}]*)\}", text):
        if slot not in SLOTS:
            raise ValueError(
                f"{text!r} has the placeholder {{{slot}}}; there are {{subject}}, {{relation}}, {{object}}"
            )
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise ValueError(f"{text!r} has a curly bracket that is no placeholder's")
    if "{subject}" not in text or "{object}" not in text:
        raise ValueError(f"{text!r} says a triple only with both {{subject}} and {{object}}")
    return text


Template = Annotated[str, Field(max_length=2000), AfterValidator(_template)]
Templates = Template | Annotated[tuple[Template, ...], Field(min_length=1)]


class Triples(Config):
    """Sentences that say the triples of a knowledge graph, so that a model learns them from its corpus.

    Lines are subject, relation, object, between tabs; further cells are not read. A graph's own table of triples is
    read too. Few sentences make a short document: see `quality.min_characters`.
    """

    kind: Literal["triples"] = "triples"
    name: str = Field("triples", description=_NAME)
    paths: tuple[SourcePath, ...] = Field(
        min_length=1,
        description="Tab-separated files, folders (with what is below) or globs; s3://, gs://, hdfs:// too; $VARIABLES "
        "are replaced.",
    )
    templates: dict[str, dict[Language, Templates]] = Field(
        {},
        description="By relation and language, the sentence of a triple, or several that are taken in turn by a hash "
        "of it: {lives_in: {zh: '{subject}住在{object}。'}}. Other relations are said by a sentence that names them.",
    )
    language: Language | None = Field(
        None, description="Of all sentences; unset, that of a triple's subject, or else its object, by its letters."
    )
    group: bool = Field(
        True, description="Neighbouring lines about one subject make one document; sort the file by subject for that."
    )
    document_characters: int = Field(
        2000, ge=1, le=1_000_000, description="With `group`: about how long a document is; what is more begins another."
    )
    split: Literal["train", "validation", "test"] | None = Field(
        None, description="Where all its documents go; unset, a hash of the text decides."
    )
    share: float = Field(1.0, gt=0, le=1, description="Keep this share of the documents, chosen by their ids.")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)


DocumentSource = Annotated[SmallWorldDocuments | Files | HubDataset | TaskTexts | Triples, Field(discriminator="kind")]
