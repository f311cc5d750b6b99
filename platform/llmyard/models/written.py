"""What a saved model says of its shape in ``config.json``, read without loading it: no torch, so at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Families whose positions are learned, and the field that says how many there are.
_LEARNED = {
    "gpt2": "n_positions",
    "bert": "max_position_embeddings",
    "llmyard_span_tagger": "max_tokens",
    "llmyard_text_classifier": "max_tokens",
    "llmyard_transformer": "max_tokens",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a saved model.

    Attributes:
        family: As transformers calls it.
        vocab_size: Rows of its embedding.
        hidden_size: Width of its embedding.
        positions: Most tokens it reads; None where nothing learned bounds it.
    """

    family: str
    vocab_size: int
    hidden_size: int
    positions: int | None


def shape_of(file: Path) -> Shape:
    """Returns what a ``config.json`` says; 0 for what it does not."""
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    family = str(written.get("model_type", ""))
    width = next((written[name] for name in ("hidden_size", "n_embd", "d_model") if name in written), 0)
    positions = written.get(_LEARNED[family]) if family in _LEARNED else None
    if written.get("positions") == "sinusoidal":
        positions = None
    return Shape(family, int(written.get("vocab_size", 0)), int(width), None if positions is None else int(positions))
