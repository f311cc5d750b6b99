"""How texts are disturbed: to have more of them to learn from, or to see whether a model stands it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config

Kind = Literal[
    "synonyms", "insertion", "deletion", "swap", "order", "typos", "homophones", "lookalikes", "traditional", "width"
]


class Disturbance(Config):
    """Which disturbances, and how much of a text each changes at most; 0 leaves a kind out.

    Numbers, names and words that negate are neither moved nor left out nor misspelt.
    """

    synonyms: float = Field(0.0, ge=0, le=1, description="Words that others of the same meaning stand for.")
    insertion: float = Field(0.0, ge=0, le=1, description="Words put in, to all words: synonyms of some of them.")
    deletion: float = Field(0.0, ge=0, le=1, description="Words left out.")
    swap: float = Field(0.0, ge=0, le=1, description="Words that change places with another one of their clause.")
    order: float = Field(0.0, ge=0, le=1, description="Words that move behind some of those that follow them.")
    window: int = Field(3, ge=1, le=100, description="Words that one of `order` moves past at most.")
    typos: float = Field(0.0, ge=0, le=1, description="English words of four letters and more with a wrong key.")
    homophones: float = Field(0.0, ge=0, le=1, description="Chinese characters that others of their sound stand for.")
    lookalikes: float = Field(0.0, ge=0, le=1, description="Chinese characters that others of their looks stand for.")
    traditional: float = Field(
        0.0, ge=0, le=1, description="Chinese words in traditional characters, or in simplified ones."
    )
    width: float = Field(0.0, ge=0, le=1, description="Words and marks in full width, or in half width.")
    ways: Literal["one", "all"] = Field(
        "one", description="Whether a text is disturbed in one of the kinds above, which is drawn, or in all of them."
    )
    seed: int = Field(0, ge=0)

    def kinds(self) -> dict[Kind, float]:
        """Returns the kinds that are wanted, in the order they are taken, with their shares."""
        shares: dict[Kind, float] = {
            "synonyms": self.synonyms,
            "insertion": self.insertion,
            "deletion": self.deletion,
            "swap": self.swap,
            "order": self.order,
            "typos": self.typos,
            "homophones": self.homophones,
            "lookalikes": self.lookalikes,
            "traditional": self.traditional,
            "width": self.width,
        }
        return {kind: share for kind, share in shares.items() if share}

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.kinds():
            raise ValueError("no kind of disturbance has a share: give one, such as `synonyms: 0.1`, or leave it out")
        return self
