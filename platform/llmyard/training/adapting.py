"""A model made ready for its way of fine-tuning: which weights are trained, and how fast."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.growing import replace
from llmyard.models.written import shape_of
from llmyard.training.methods import Frozen, Full, Lora, Method, PromptTuning
from llmyard.training.quantized import quantize

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PART = "default"
_LAYER = re.compile(r"\.(\d+)\.")


def adapt(model: Any, method: Method, known_rows: int) -> None:
    """Changes a model in place, so that training it trains what the method says; the rest needs no gradients.

    Vectors of tokens that the base did not have, and heads that are new, are trained whatever the method.

    Args:
        model: With the weights of its base.
        method: How it is tuned.
        known_rows: How many rows of its embeddings are the base's.

    Raises:
        RequestError: The model has nothing that the method could train, or fewer layers than are to be frozen.
    """
    match method:
        case Full():
            return
        case Frozen():
            _freeze(model, method)
            if method.embeddings:
                _only_new_rows(model, known_rows)
        case Lora():
            if method.quantize is not None:
                quantize(model)
            _inject(model, method)
            _only_new_rows(model, known_rows)
        case PromptTuning():
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            _only_new_rows(model, known_rows)


def rate_scales(model: nn.Module, method: Method) -> dict[str, float]:
    """Returns the share of the learning rate that each parameter gets, by its name; the heads and what is new get all.

    The topmost layer has ``layer_decay``, each below it that much of the one above, the embeddings that of the lowest.
    """
    decay = getattr(method, "layer_decay", 1.0)
    if decay == 1.0:
        return {}
    depths = dict(_depths(model))
    top = max(depths.values(), default=0)
    return {name: decay ** (top + 1 - depth) for name, depth in depths.items()}


def _depths(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yields how deep the parameters of the layers (from 1 on) and of the embeddings (0) lie, by their names."""
    embeddings = {id(each) for each in _embeddings(model).parameters()}
    for name, parameter in model.named_parameters():
        found = _LAYER.search(f".{name}.")
        if not is_of_base(model, name):
            continue
        if id(parameter) in embeddings or "embed" in name or re.search(r"\.(wte|wpe)\.", f".{name}."):
            yield name, 0
        elif found is not None:
            yield name, int(found.group(1)) + 1


def _freeze(model: Any, method: Frozen) -> None:
    depths = dict(_depths(model))
    top = max(depths.values(), default=0)
    if method.layers > top:
        raise RequestError(f"method.layers is {method.layers}, the model has {top}", f"set {top} at most")
    for name, parameter in model.named_parameters():
        depth = depths.get(name)
        if depth is not None and (1 <= depth <= method.layers or (depth == 0 and method.embeddings)):
            parameter.requires_grad_(False)


def _inject(model: Any, method: Lora) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    targets = list(method.targets) or sorted(_matrices(model))
    if not targets:
        raise RequestError("the model has no matrices inside its layers for LoRA", "name `method.targets`")
    config = LoraConfig(
        r=method.rank, lora_alpha=method.alpha, lora_dropout=method.dropout, target_modules=targets,  # type: ignore[arg-type]
        fan_in_fan_out=any(isinstance(each, Conv1D) for each in model.modules()),
    )  # fmt: skip
    try:
        inject_adapter_in_model(config, model, adapter_name=_PART)
    except ValueError as error:
        raise RequestError(f"LoRA: {error}", "name `method.targets` by the ends of the model's own names") from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or not is_of_base(model, name))


def is_of_base(model: Any, name: str) -> bool:
    """Returns whether a parameter was pretrained: the heads of a labelling model, and what tells the parts of a text
    apart, are new, and are trained too.
    """
    from llmyard.models.text_encoder import TextEncoder

    if not isinstance(model, TextEncoder):
        return True
    tells_parts = bool(getattr(model.config, "parts", 0)) and name.endswith("token_type_embeddings.weight")
    return name.startswith("bert.") and not tells_parts


def _matrices(model: nn.Module) -> set[str]:
    """Returns the last parts of the names of all matrices inside the layers."""
    from transformers.pytorch_utils import Conv1D

    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and _LAYER.search(f".{name}.")
    }


def _rows(model: Any) -> dict[str, nn.Parameter]:
    """Returns what has a row for each token: the input and output matrices, shared ones once, and the output's bias."""
    output = model.get_output_embeddings()
    found: dict[str, Any] = {
        "input": _embeddings(model).weight,
        "output": getattr(output, "weight", None),
        "output_bias": getattr(output, "bias", None),
    }
    return {
        name: each
        for name, each in found.items()
        if each is not None and (name == "input" or each is not found["input"])
    }


def _only_new_rows(model: Any, known: int) -> None:
    """Trains of the embeddings the rows from ``known`` on alone."""
    for parameter in _rows(model).values():
        if known < len(parameter):
            parameter.requires_grad_(True)
            parameter.register_hook(functools.partial(_without, known))  # type: ignore[no-untyped-call]
            parameter.first_trained_row = known  # type: ignore[attr-defined]


def _without(known: int, gradient: Tensor) -> Tensor:
    kept = gradient.clone()
    kept[:known] = 0
    return kept


def _embeddings(model: Any) -> nn.Module:
    return model.get_input_embeddings()  # type: ignore[no-any-return]


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Returns what an adapted model has beside its base: all that was trained, by its name; of embeddings the new rows,
    as ``rows/input`` and so on.
    """
    found = {
        f"rows/{name}": each.detach()[each.first_trained_row :]
        for name, each in _rows(model).items()
        if hasattr(each, "first_trained_row")
    }
    apart = {id(each) for each in _rows(model).values()}
    return found | {
        _without_part(name): each.detach()
        for name, each in model.named_parameters()
        if each.requires_grad and id(each) not in apart
    }


def _without_part(name: str) -> str:
    return name.replace(f".{_PART}", "")


def save_adapter(model: Any, method: Lora | PromptTuning, base: str, folder: Path) -> None:
    """Writes the adapter of a model: its weights, the model's config, and what it was put on.

    Args:
        model: Adapted.
        method: As adapted.
        base: Reference of the checkpoint that it goes with.
        folder: Where to.
    """
    from safetensors.torch import save_file

    weights = {name: each.cpu().contiguous() for name, each in adapter_weights(model).items()}
    save_file(weights, folder / WEIGHTS)
    config = {"base": base, "method": method.model_dump(mode="json")}
    (folder / ADAPTER).write_text(json.dumps(config, indent=1), encoding="utf-8")
    model.config.save_pretrained(str(folder))


def load_adapted(base: Path, folder: Path) -> Any:
    """Returns a base with a saved adapter, LoRA's matrices added to its own: it answers as fast as the base does.

    Raises:
        CorruptArtifact: The adapter is of another model.
    """
    from safetensors.torch import load_file

    from llmyard.models.families import like, load

    method = TypeAdapter(Method).validate_python(json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["method"])
    weights = load_file(folder / WEIGHTS)
    model = load(base)
    with torch.no_grad():
        for name, parameter in _rows(model).items():
            rows = weights.pop(f"rows/{name}", None)
            if rows is not None:
                known = written_rows(folder) - len(rows)
                replace(model, parameter, nn.Parameter(torch.cat([parameter[:known], rows.to(parameter.dtype)])))
    model = like(model, folder)
    if isinstance(method, Lora):
        _inject(model, method)
    there = {_without_part(name): each for name, each in model.named_parameters() if _without_part(name) in weights}
    if set(there) != set(weights) or any(there[name].shape != each.shape for name, each in weights.items()):
        odd = ", ".join(sorted(set(there) ^ set(weights))[:3]) or "other shapes"
        raise CorruptArtifact(f"{folder}: the adapter is of another model ({odd})", "load it on its own base")
    with torch.no_grad():
        for name, each in weights.items():
            there[name].copy_(each)
    merge(model)
    return model.eval()


def written_rows(folder: Path) -> int:
    """Returns how many rows the embeddings of an adapted model have."""
    return shape_of(folder / "config.json").vocab_size


def merge(model: nn.Module) -> None:
    """Adds LoRA's matrices to those of the base, and takes them away; a model without any stays as it is."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
