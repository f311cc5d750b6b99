"""A saved model as it is run: as it was trained, or with integer weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmyard.compression.quantized_linear import FIELD
from llmyard.models import families

GGUF = "model.gguf"


def load(folder: str | Path) -> Any:
    """Returns the model saved in a folder, in evaluation mode. Weights of a GGUF file become floating-point numbers.

    Raises:
        RequestError: The folder holds no model, or one that needs code of its own.
        CorruptArtifact: Weights are missing, or fit no layer.
    """
    from llmyard.compression.quantizing import restore

    at = Path(folder, "config.json")
    if at.exists() and FIELD in json.loads(at.read_text(encoding="utf-8")):
        return restore(families.unfilled(folder), folder)
    if Path(folder, GGUF).exists():
        return families.load(folder, gguf=GGUF)
    return families.load(folder)
