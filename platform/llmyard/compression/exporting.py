"""Which models are written in which other program's format."""

from __future__ import annotations


def why_not(format: str, weights: str, family: str, labels: bool) -> str:
    """Returns why a model cannot be exported; "" if it can.

    Args:
        format: ``ctranslate2`` or ``gguf``.
        weights: Numbers that its weights become.
        family: Of the model, as checkpoints name it.
        labels: Whether it labels texts, instead of writing.
    """
    return "not yet"
