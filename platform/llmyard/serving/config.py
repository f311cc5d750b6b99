"""How an endpoint runs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from llmyard.core.config import Config
from llmyard.text.config import Toxicity


class Limits(Config):
    """What an endpoint takes, and how much of it."""

    max_body_bytes: int = Field(1_000_000, ge=1, description="Larger bodies get 413.")
    body_seconds: float = Field(10.0, gt=0, description="Bodies that take longer to come get 408.")
    max_new_tokens: int = Field(1024, ge=1, description="More are refused.")
    max_tokens_under_way: int = Field(
        131_072, ge=1, description="Read and written by all requests of a replica at once; beyond it they get 429."
    )
    deadline_seconds: float = Field(120.0, gt=0, description="An answer that takes longer is broken off, with 504.")
    harmful_words: Toxicity | None = Field(None, description="Lists of words that are neither taken nor written.")


class Canary(Config):
    """A new version that answers a share of the requests to a model, until it does worse."""

    model: str = Field(description="The new version, named as the others.")
    beside: str = Field(description="Name of the model of this endpoint whose requests it shares.")
    weight: float = Field(0.1, gt=0, le=1, description="Share of the requests.")
    least_requests: int = Field(50, ge=1, description="So many must have been answered before it is judged.")
    most_failing: float = Field(0.02, ge=0, le=1, description="Share of failures more than the old version's.")
    most_slower: float = Field(1.5, gt=0, description="Times as long as the old version a token may take.")


class Scale(Config):
    """How many replicas an endpoint has. Each holds all models, and computes with its own CPUs."""

    least: int = Field(1, ge=0, description="0: none while nobody asks; the first request then waits for a start.")
    most: int = Field(1, ge=1)
    cpus: int = Field(1, ge=1, description="Of each replica; as many threads compute.")
    requests_per_replica: float = Field(16.0, gt=0, description="Under way at each; more of them, and one is added.")
    up_seconds: float = Field(5.0, ge=0, description="So long there are more before one is added.")
    down_seconds: float = Field(120.0, ge=0, description="So long there are fewer before one goes.")
    tries: int = Field(3, ge=1, description="Starts of a replica that fails, before the endpoint is given up.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"most is {self.most}, less than least ({self.least})")
        return self


class Endpoint(Config):
    """One endpoint: the models behind it, where it listens, what it refuses."""

    models: tuple[str, ...] = Field(min_length=1, description="References of checkpoints.")
    index: str | None = Field(None, description="Reference of an index, for questions that come without a text.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    limits: Limits = Limits()
    scale: Scale = Scale(tries=1)  # a checkpoint that does not load here will not the next time either


def url_of(host: str, port: int) -> str:
    """Returns the address of what listens at host:port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
