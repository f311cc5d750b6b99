"""Tokenizer and shard settings."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from llmyard.core.config import Config

_SAMPLE = "How many documents the vocabulary is learned from; at most 32 MiB of text."
_COVERAGE = "Share of the sample's characters that get tokens of their own; the rarest of the rest do not."


class BpeTokenizer(Config):
    """A byte-level BPE tokenizer trained on a sample of the corpus."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(8000, ge=300, le=262_144)
    split_han: bool = Field(
        False, description="No token spans two Chinese characters: longer sequences, but exact spans for tagging tasks."
    )
    sample_documents: int = Field(20_000, ge=1, description=_SAMPLE)


class UnigramTokenizer(Config):
    """A unigram tokenizer (Kudo 2018): of all ways to cut a text, the likeliest."""

    kind: Literal["unigram"] = "unigram"
    vocab_size: int = Field(8000, ge=300, le=262_144)
    split_han: bool = Field(False, description="As for `bpe`.")
    sample_documents: int = Field(20_000, ge=1, description=_SAMPLE)
    byte_fallback: bool = Field(
        True, description="Characters without a token are written as bytes; without it they are lost as unknown."
    )
    coverage: float = Field(0.9995, gt=0, le=1, description=_COVERAGE)


class WordPieceTokenizer(Config):
    """A WordPiece tokenizer as BERT's: Chinese character by character, spaces and unknown characters are lost."""

    kind: Literal["wordpiece"] = "wordpiece"
    vocab_size: int = Field(8000, ge=300, le=262_144)
    sample_documents: int = Field(20_000, ge=1, description=_SAMPLE)
    coverage: float = Field(0.9995, gt=0, le=1, description=_COVERAGE)


class CharacterTokenizer(Config):
    """A tokenizer of single characters, those of a sample; others are lost as unknown."""

    kind: Literal["character"] = "character"
    vocab_size: int = Field(20_000, ge=16, le=262_144, description="At most; there are no more than characters.")
    sample_documents: int = Field(20_000, ge=1, description=_SAMPLE)
    coverage: float = Field(1.0, gt=0, le=1, description=_COVERAGE)


class ExtendedTokenizer(Config):
    """A given tokenizer with more tokens, learned from the corpus; what it had keeps its ids."""

    kind: Literal["extension"] = "extension"
    extend: str = Field(description="Name of a tokenizer artifact.")
    new_tokens: int = Field(4000, ge=1, le=262_144)
    script: Literal["any", "han"] = Field(
        "any", description="`han`: words with Chinese characters or marks only, so that other texts keep their ids."
    )
    sample_documents: int = Field(20_000, ge=1, description=_SAMPLE)


TrainedTokenizer = BpeTokenizer | UnigramTokenizer | WordPieceTokenizer | CharacterTokenizer
LearnedTokenizer = TrainedTokenizer | ExtendedTokenizer


def kind(value: Any) -> str:
    """Returns which of the tokenizer's settings are meant: ``bpe`` where neither ``kind`` nor ``extend`` is given."""
    if isinstance(value, str):
        return "name"
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return str(given.get("kind", "extension" if "extend" in given else "bpe"))


TokenizerChoice = Annotated[
    Annotated[BpeTokenizer, Tag("bpe")]
    | Annotated[UnigramTokenizer, Tag("unigram")]
    | Annotated[WordPieceTokenizer, Tag("wordpiece")]
    | Annotated[CharacterTokenizer, Tag("character")]
    | Annotated[ExtendedTokenizer, Tag("extension")]
    | Annotated[str, Tag("name")],
    Discriminator(kind),
]


class Splits(Config):
    """Shares of the documents held out of training, chosen by a hash of the text after cleaning.

    Near copies of one text never stand in two splits where ``deduplicate`` is among the cleaning steps.
    """

    validation: float = Field(0.02, ge=0, lt=0.5)
    test: float = Field(0.0, ge=0, lt=0.5)


Packing = Literal["concatenate", "best_fit", "document"]
Share = Annotated[float, Field(ge=0)]
Shares = Annotated[dict[str, Share], Field(min_length=1)]


def _drawn(shares: dict[str, float]) -> None:
    if not any(shares.values()):
        raise ValueError(f"no source has a share above 0: {shares}")


class CurriculumPhase(Config):
    """Other shares for the first part of training."""

    until: float = Field(gt=0, lt=1, description="Where the phase ends, as a share of all samples of the run.")
    shares: Shares = Field(description="As in `mixture`.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        _drawn(self.shares)
        return self


class Mixture(Config):
    """How often each source is drawn in training; a source with a larger share than its size repeats sooner."""

    shares: Shares | None = Field(
        None,
        description="A share for every source by its name, relative to each other; 0 leaves one out. "
        "Without them the sources' weights decide.",
    )
    curriculum: tuple[CurriculumPhase, ...] = Field(
        (), description="Phases before, in order; after the last of them `shares` hold."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.shares is not None:
            _drawn(self.shares)
        ends = [phase.until for phase in self.curriculum]
        if any(one >= two for one, two in pairwise(ends)):
            raise ValueError(f"the curriculum's `until` must grow from phase to phase, not {ends}")
        return self

    def named(self) -> list[dict[str, float]]:
        """Returns the shares of all phases that name their sources."""
        phases = [phase.shares for phase in self.curriculum]
        return phases if self.shares is None else [*phases, self.shares]
