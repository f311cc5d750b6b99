"""What is looked at while a model trains; none of it changes the result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmyard.core.config import Config


class Samples(Config):
    """Texts that the model writes while it trains."""

    every_steps: int = Field(500, ge=1)
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(
        (), max_length=8, description="What it goes on with; unset, the beginning of a held-out text of each source."
    )
    tokens: int = Field(40, ge=1, le=400, description="Most tokens it writes each time.")


class Profile(Config):
    """A trace of some steps by torch's profiler, and what takes memory in them."""

    after_steps: int = Field(10, ge=0, description="Steps before; the first ones are not like the others.")
    steps: int = Field(3, ge=1, le=100)
