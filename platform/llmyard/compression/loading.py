"""A saved model as it is run: as it was trained, or with integer weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmyard.compression.quantized_linear import FIELD
from llmyard.core.errors import RequestError
from llmyard.models import families

GGUF = "model.gguf"


def load(folder: str | Path, integers: bool = True) -> Any:
    """Returns the model saved in a folder, in evaluation mode. Weights of a GGUF file become floating-point numbers.

    Args:
        folder: Of the model.
        integers: Keep weights that are integers, for inference; else those of GPTQ and AWQ become floating-point
            numbers too, for training.

    Raises:
        RequestError: The folder holds no model, or one that needs code of its own; one with integer weights of
            llmyard's, where none are wanted.
        CorruptArtifact: Weights are missing, or fit no layer.
    """
    from llmyard.compression import packed_weights
    from llmyard.compression.quantizing import restore

    at = Path(folder, "config.json")
    if at.exists() and FIELD in json.loads(at.read_text(encoding="utf-8")):
        if not integers:
            raise RequestError(f"{folder} holds integer weights, which are not trained", "begin with the original")
        return restore(families.unfilled(folder), folder)
    if at.exists() and packed_weights.is_packed(folder):
        return packed_weights.load(folder, integers)
    if Path(folder, GGUF).exists():
        return families.load(folder, gguf=GGUF)
    return families.load(folder)
