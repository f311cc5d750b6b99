"""What models have to be before any other program's format is made of them: whole, and in floating-point numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from llmyard.compression.quantized_linear import FIELD, is_quantized
from llmyard.core.errors import RequestError
from llmyard.models import families
from llmyard.tokens.tokenizer import FILE, Tokenizer

# What is in the way, and what can be done; () where nothing is.
Fault = tuple[str, str] | tuple[()]

_ADAPTER = ("it is an adapter, not a whole model", "merge it into its base: train it with `merge: true`")
_INTEGERS = ("its weights are integers already", "export the model that it was made of, and choose `weights`")
_PACKED = ("its weights are packed by another program", "unpack them into floating-point numbers first")


def config_of(model: Any) -> Any:
    """Returns the config of a model, of a config, or of the content of a ``config.json``; fields may be missing."""
    return SimpleNamespace(**model) if isinstance(model, Mapping) else getattr(model, "config", model)


def unfit(model: Any) -> Fault:
    """Returns what keeps a model from being exported to whatever format.

    Args:
        model: A model, its config, or the content of its ``config.json``.
    """
    if isinstance(model, nn.Module):
        if any(".lora_" in name for name, _ in model.named_parameters()):
            return _ADAPTER
        if is_quantized(model):
            return _INTEGERS
    config = config_of(model)
    if getattr(config, FIELD, None) is not None:
        return _INTEGERS
    return _PACKED if getattr(config, "quantization_config", None) is not None else ()


def load_whole(folder: Path, fault_of: Callable[[Any], Fault]) -> tuple[Any, Tokenizer]:
    """Returns the model and the tokenizer of a checkpoint that can be exported.

    Args:
        folder: Of the checkpoint.
        fault_of: Returns what is in the way of exporting the model of a config; asked before the weights are read.

    Raises:
        RequestError: It is an adapter, or something else is in the way.
        CorruptArtifact: Weights are missing.
    """
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{folder} holds no config.json", "name the folder of a saved model") from None
    fault = _ADAPTER if (folder / "adapter_config.json").exists() else fault_of(written)
    if not fault:
        model = families.load(folder)
        fault = fault_of(model)  # what a config.json leaves out, the model's own config says
    if fault:
        raise RequestError(f"{folder} cannot be exported: {fault[0]}", fault[1])
    return model, Tokenizer.load(folder / FILE)


def token_name(tokenizer: Tokenizer, id_: int) -> str | None:
    """Returns the name of a token; None of an id that the tokenizer does not have."""
    name = tokenizer.name_of(id_)
    return name if id_of(tokenizer, name) == id_ else None


def id_of(tokenizer: Tokenizer, name: str) -> int | None:
    """Returns the id of a token's name; None where no token has it."""
    try:
        return tokenizer.control(name)
    except KeyError:
        return None


def check_size(tokenizer: Tokenizer, rows: int) -> None:
    """Raises RequestError for a tokenizer that has ids which its model does not know."""
    if tokenizer.vocab_size > rows:
        raise RequestError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {rows}", "give the model's own tokenizer"
        )
