"""How an endpoint runs."""

from __future__ import annotations

from pydantic import Field

from llmyard.core.config import Config


class Endpoint(Config):
    """One endpoint: the models behind it, where it listens, what it refuses."""

    models: tuple[str, ...] = Field(min_length=1, description="References of checkpoints.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_new_tokens: int = Field(1024, ge=1)
