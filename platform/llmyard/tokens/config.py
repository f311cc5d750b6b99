"""Tokenizer and shard settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmyard.core.config import Config


class BpeTokenizer(Config):
    """A byte-level BPE tokenizer trained on a sample of the corpus."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(8000, ge=300, le=262_144)
    split_han: bool = Field(
        False, description="No token spans two Chinese characters: longer sequences, but exact spans for tagging tasks."
    )
    sample_documents: int = Field(20_000, ge=1, description="How many documents the merges are learned from.")


class Splits(Config):
    """Shares of the documents held out of training, chosen by a hash of the text after deduplication."""

    validation: float = Field(0.02, ge=0, lt=0.5)
    test: float = Field(0.0, ge=0, lt=0.5)
