"""Trained models with weights of 8 or 4 bits, for inference on CPUs.

Of a model's linear layers (GPT-2's ``Conv1D`` among them) the weights are made integers; embeddings, norms and the
output layer stay as they are. Tensors are all that is saved: which layers they belong to stands in ``config.json``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llmyard.compression.int4 import GROUP_SIZES, Int4Linear
from llmyard.compression.int8 import Int8Linear
from llmyard.compression.quantized_linear import FIELD, QuantizedLinear, is_quantized
from llmyard.core.errors import CorruptArtifact, RequestError

Kind = Literal["int8_dynamic", "int8_static", "int4"]

_LEAST_WEIGHTS = 4_096  # of a layer; below, it is as fast and hardly larger as it is


@dataclass(frozen=True)
class Scheme:
    """How a model is quantised.

    Attributes:
        kind: ``int8_dynamic``: weights and activations of 8 bits, each token with a scale of its own. ``int8_static``:
            the scales of activations are measured beforehand, which is faster and less exact. ``int4``: weights of 4
            bits, activations in bfloat16; smallest, but slower than float32 where many tokens are read at once.
        group_size: Weights of 4 bits that share a scale: 128, 64 or 32. A layer whose width is no multiple of it takes
            the next smaller size.
        skip: Names of layers that stay in float32, as ``fnmatch`` reads them: ``*.mlp.c_proj``.
        output: Quantise the output layer too. Where it is the embedding itself, it becomes a copy.
    """

    kind: Kind
    group_size: int = 64
    skip: tuple[str, ...] = ()
    output: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise RequestError(f"there is no quantisation {self.kind!r}", f"known: {', '.join(get_args(Kind))}")
        if self.group_size not in GROUP_SIZES:
            known = ", ".join(map(str, GROUP_SIZES))
            raise RequestError(f"group_size is {self.group_size}", f"groups have one of {known} weights")


@dataclass(frozen=True)
class Quantized:
    """What was done to a model.

    Attributes:
        description: What :func:`prepare` needs; it stands in the model's config, and so in ``config.json``.
        changed: Names of the layers with integer weights.
        left: Names of the other linear layers, and why they were left.
        bytes_before: Of all weights and buffers.
        bytes_after: As held in memory.
    """

    description: dict[str, Any]
    changed: tuple[str, ...]
    left: Mapping[str, str]
    bytes_before: int
    bytes_after: int


@torch.no_grad()
def quantize(
    model: Any, scheme: Scheme, batches: Iterable[Any] = (), run: Callable[[Any], Any] | None = None
) -> Quantized:
    """Returns what was changed in a model that is quantised in place; it is not trained any more.

    Args:
        model: As trained, in evaluation mode.
        scheme: How.
        batches: Inputs like those that it will read, to measure activations with; for ``int8_static`` only.
        run: Runs the model on one of them; by default a batch holds the model's named arguments.

    Raises:
        RequestError: It is quantised already; a name to skip fits no layer; nothing is left to quantise, or nothing
            to measure with; its output layer cannot be quantised.
    """
    if is_quantized(model):
        raise RequestError("the model is quantised already", "quantise the one that was trained")
    before = bytes_of(model)
    linears, left = _chosen(model, scheme)
    ranges: dict[str, tuple[float, float]] = {}
    if scheme.kind == "int8_static":
        ranges = _ranges(model, linears, batches, run or (lambda batch: model(**batch)))
        left |= {name: "no batch reached it" for name in linears if name not in ranges}
        linears = {name: layer for name, layer in linears.items() if name in ranges}
    if not linears:
        raise RequestError("no linear layer of the model can be quantised", "see what skip names, or take a larger one")
    for name, linear in linears.items():
        layer = _layer_for(linear, scheme.kind, scheme.group_size)
        layer.take(_weight(linear))
        if isinstance(layer, Int8Linear) and layer.static:
            layer.take_range(*ranges[name])
        _replace(model, linear, layer.to(linear.weight.device))
    model.requires_grad_(False)
    description = {"kind": scheme.kind, "group_size": scheme.group_size, "layers": list(linears)}
    _describe(model, description)
    return Quantized(description, tuple(linears), left, before, bytes_of(model))


def prepare(model: Any, description: Mapping[str, Any]) -> None:
    """Gives a model the layers that a quantised one has, in place, without their weights.

    Args:
        model: Of the same shape, with any weights.
        description: Of the quantised one, from its ``config.json``.

    Raises:
        CorruptArtifact: The description is of another model.
    """
    modules = dict(model.named_modules())
    try:
        kind, group_size = description["kind"], description["group_size"]
        linears = [modules[name] for name in description["layers"]]
        layers = [_layer_for(linear, Scheme(kind).kind, group_size) for linear in linears]
    except (KeyError, TypeError, AttributeError, RequestError) as error:
        what = f"the model's {FIELD} does not fit it: {type(error).__name__}: {error}".partition("\n")[0]
        raise CorruptArtifact(what, "quantise the trained model again") from None
    for linear, layer in zip(linears, layers, strict=True):
        _replace(model, linear, layer)
    model.requires_grad_(False)
    _describe(model, description)


@torch.no_grad()
def restore(model: Any, folder: str | Path) -> Any:
    """Returns a model with the weights of a quantised one, which ``families.save`` wrote.

    Args:
        model: Made from the ``config.json`` of the folder, with any weights; it is changed in place.
        folder: Of the quantised one.

    Raises:
        RequestError: The config is that of a model that is not quantised.
        CorruptArtifact: Weights are missing, or fit no layer.
    """
    description = getattr(model.config, FIELD, None)
    if description is None:
        raise RequestError(f"the model in {folder} is not quantised", "load it like any other")
    prepare(model, description)
    try:
        read = load_file(Path(folder, "model.safetensors"))
    except FileNotFoundError:
        raise RequestError(f"{folder} holds no model.safetensors", "name the folder of a quantised model") from None
    try:
        found = model.load_state_dict(read, strict=False)
    except RuntimeError as error:  # what torch raises for weights of other sizes
        said = f"the weights in {folder} do not fit its config: {str(error).splitlines()[-1].strip()}"
        raise CorruptArtifact(said, "quantise the trained model again") from None
    # Of tied weights one alone is saved.
    own = {name: each.data_ptr() for name, each in model.state_dict(keep_vars=True).items()}
    there = {own[name] for name in read if name in own}
    wrong = [name for name in found.missing_keys if own[name] not in there] + list(found.unexpected_keys)
    if wrong:
        said = f"the weights in {folder} and its config disagree on {', '.join(sorted(wrong)[:3])}"
        raise CorruptArtifact(said, "quantise the trained model again")
    return model.eval()


def bytes_of(model: nn.Module) -> int:
    """Returns how much memory a model's weights and buffers take; tied ones count once."""
    held: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            tensors = module.held()
        else:
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for each in tensors:
            place = id(each) if each.layout != torch.strided else each.data_ptr()
            held[place] = each.numel() * each.element_size()
    return sum(held.values())


def _chosen(model: Any, scheme: Scheme) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the linear layers that a scheme changes, and why the others are left."""
    # Subclasses of nn.Linear are not called where their weight alone is used (as in nn.MultiheadAttention).
    linears = {name: each for name, each in model.named_modules() if type(each) in (nn.Linear, Conv1D)}
    unknown = [pattern for pattern in scheme.skip if not any(fnmatchcase(name, pattern) for name in linears)]
    if unknown:
        known = ", ".join(list(linears)[:4])
        raise RequestError(f"skip names {unknown[0]!r}, which fits no layer", f"layers are {known} and others")
    outputs = _output_layers(model, linears)
    if scheme.output and not outputs:
        family = getattr(model.config, "model_type", type(model).__name__)
        raise RequestError(
            f"the output layer of {family} cannot be quantised",
            "it has none, or multiplies by its embedding without a layer for it: leave output unset",
        )
    left: dict[str, str] = {}
    for name, layer in linears.items():
        width = _weight(layer).shape[1]
        if any(fnmatchcase(name, pattern) for pattern in scheme.skip):
            left[name] = "skip names it"
        elif name in outputs and not scheme.output:
            left[name] = "it is the output layer"
        elif layer.weight.numel() < _LEAST_WEIGHTS:
            left[name] = "it is small"
        elif scheme.kind == "int4" and not _group_size(width, scheme.group_size):
            left[name] = f"its width {width} is no multiple of {GROUP_SIZES[-1]}"
    return {name: layer for name, layer in linears.items() if name not in left}, left


def _output_layers(model: Any, linears: Mapping[str, Any]) -> set[str]:
    """Returns the names of the layers whose outputs are logits of tokens."""
    embeddings = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {name for name, layer in linears.items() if layer is output or id(layer.weight) in embeddings}


def _group_size(width: int, wanted: int) -> int:
    """Returns the largest size of a group, up to the wanted one, that divides a layer's width; 0 where none does."""
    return next((size for size in GROUP_SIZES if size <= wanted and width % size == 0), 0)


def _weight(linear: Any) -> Tensor:
    """Returns (N, K); GPT-2's layers keep it the other way round."""
    weight: Tensor = linear.weight.detach()
    return weight.t() if isinstance(linear, Conv1D) else weight


def _layer_for(linear: Any, kind: Kind, group_size: int) -> Int8Linear | Int4Linear:
    """Returns a layer of the shape of another, with its bias (the same, as it may be tied) and no weights yet."""
    outputs, inputs = _weight(linear).shape
    if kind == "int4":
        return Int4Linear(inputs, outputs, linear.bias, _group_size(inputs, group_size))
    return Int8Linear(inputs, outputs, linear.bias, static=kind == "int8_static")


def _describe(model: Any, description: Mapping[str, Any]) -> None:
    model.config = copy.deepcopy(model.config)  # another model may have been made from the same
    setattr(model.config, FIELD, dict(description))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a layer in another's place, wherever the model holds it."""
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)


def _ranges(
    model: Any, linears: Mapping[str, Any], batches: Iterable[Any], run: Callable[[Any], Any]
) -> dict[str, tuple[float, float]]:
    """Returns the least and the largest activation that each layer read."""
    found: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            low, high = (float(each) for each in torch.aminmax(arguments[0]))
            before = found.get(name, (low, high))
            found[name] = min(low, before[0]), max(high, before[1])

        return see

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in linears.items()]
    try:
        for batch in batches:
            run(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise RequestError("there is nothing to measure activations with", "give int8_static some batches")
    return found
