"""What ``index`` is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmyard.stages.naming import Stage

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Index(Stage):
    """Passages of a prepared corpus, found by the words of a question (BM25).

    Their texts are decoded from the shards: as they were cleaned, and without what a tokenizer of WordPiece or of
    characters does not know.
    """

    kind: Literal["index"] = "index"
    shards: str = Field(description="Name of the shards of a prepared corpus.")
    splits: tuple[Split, ...] = Field(
        SPLITS, min_length=1, description="Splits of it to be found; those that are empty add none."
    )
    passage_characters: int = Field(600, ge=50, le=100_000, description="Of a passage at most; cut between sentences.")
