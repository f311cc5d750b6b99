"""Where documents and task examples come from."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from llmyard.core.config import Config

Language = Literal["en", "zh"]


def _absolute(path: str) -> str:
    return path if path.startswith(("$", "~")) or "://" in path else os.path.abspath(path)


# Made absolute where the job is read: Ray's workers have other working directories. Variables are replaced later.
SourcePath = Annotated[str, AfterValidator(_absolute)]


class SmallWorldDocuments(Config):
    """Documents of the synthetic bilingual corpus; needs no network and no files."""

    kind: Literal["smallworld"] = "smallworld"
    profile: Literal["dev", "standard", "large"] = Field("dev", description="How large, and how many names.")
    seed: int = Field(7, ge=0)
    documents: int | None = Field(None, ge=1, description="Overrides the profile's number of documents.")


class Files(Config):
    """Documents from text, JSON or tab-separated files."""

    kind: Literal["files"] = "files"
    name: str = Field("files", description="Name of the source in reports and in the shards' lineage.")
    paths: tuple[SourcePath, ...] = Field(min_length=1, description="Files, folders or globs; $VARIABLES are replaced.")
    format: Literal["text", "json", "jsonl", "tsv"] = "text"
    columns: tuple[int, ...] = Field((0,), min_length=1, description="tsv: a line's text is these columns' texts.")
    text_fields: tuple[str, ...] = Field(
        ("text",), min_length=1, description="json, jsonl: the first of these that a record has is its text."
    )
    document: Literal["file", "paragraph"] = Field(
        "file", description="text: one document a file, or paragraphs gathered up to `document_characters`."
    )
    document_characters: int = Field(2000, ge=1, le=1_000_000)


DocumentSource = Annotated[SmallWorldDocuments | Files, Field(discriminator="kind")]


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


class Records(Config):
    """Examples as JSON lines of the task's own record schema, one file a split."""

    kind: Literal["records"] = "records"
    train: SourcePath
    validation: SourcePath
    test: SourcePath
    max_bad_share: float = Field(0.01, ge=0, le=1, description="More bad records than this stop the job.")


ExampleSource = Annotated[SmallWorldExamples | ParallelText | Records, Field(discriminator="kind")]
