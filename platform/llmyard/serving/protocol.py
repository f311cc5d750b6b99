"""What requests and answers of all routes share."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from llmyard.generation.engine import Likely
from llmyard.tokens.tokenizer import Tokenizer

MAX_TOP_LOGPROBS = 5
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Said = Annotated[Text, StringConstraints(pattern=r"\S")]  # more than spaces
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stops = Stop | Annotated[list[Stop], Field(max_length=4)] | None


class Request(BaseModel):
    """A request; fields we do not know are refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")


class Telling(Request):
    """A request that may ask how likely the tokens of its answer were."""

    logprobs: bool = Field(False, description="Whether how likely each token was is told.")
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS, description="So many of the likeliest tokens, too.")

    @model_validator(mode="after")
    def _told_of(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with `logprobs: true`")
        return self

    def told(self) -> int | None:
        """Returns how many of the likeliest tokens are told of; None where nothing is."""
        return self.top_logprobs if self.logprobs else None


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, read: int, written: int) -> Usage:
        """Returns the counts of an answer."""
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class TokenShare(BaseModel):
    """A token and its log-probability, in nats."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenShare):
    """A token of an answer, with the likeliest ones at its place."""

    top_logprobs: list[TokenShare]


def shown(likely: Likely, tokenizer: Tokenizer) -> TokenLogprob:
    """Returns how likely a token was, as OpenAI tells it."""
    head = _share(likely.token_id, likely.logprob, tokenizer)
    return TokenLogprob(**head, top_logprobs=[TokenShare(**_share(*each, tokenizer)) for each in likely.top])


# No number in JSON is less than any other: a token that could not come at all has this.
_LEAST = -9999.0


def _share(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, str | float | list[int]]:
    spelled = tokenizer.spelling(token)
    text = spelled.decode("utf-8", "replace")
    return {"token": text, "logprob": max(_LEAST, logprob), "bytes": list(spelled)}
