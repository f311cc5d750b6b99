"""The rules a document must pass."""

from __future__ import annotations

from pydantic import Field

from llmyard.core.config import Config


class Quality(Config):
    """Limits a document is kept within; one set for both languages, lengths in characters."""

    min_characters: int = Field(20, ge=1, description="Chinese says in 20 characters what English says in 60.")
    max_characters: int = Field(1_000_000, ge=1)
    min_letter_share: float = Field(0.5, ge=0, le=1, description="Letters and Chinese characters of all non-space.")
    max_markup_share: float = Field(0.2, ge=0, le=1, description="Characters inside <tags> of all.")
    max_replacement_share: float = Field(0.005, ge=0, le=1, description="U+FFFD and other traces of wrong decoding.")
