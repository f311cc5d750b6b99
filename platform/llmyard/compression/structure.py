"""What can be taken out of a model whole: units of its feed-forward layers, attention heads, layers.

Shapes: U units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmyard.compression.quantized_linear import is_quantized
from llmyard.core.errors import RequestError


@dataclass(frozen=True)
class Slice:
    """Where the units of a part lie in a weight.

    Attributes:
        name: Of the weight.
        dim: Along which they lie one behind another.
        width: Rows or columns of each.
    """

    name: str
    dim: int
    width: int = 1

    def kept(self, weight: Tensor, units: Tensor) -> Tensor:
        """Returns a weight with the rows or columns of some units only."""
        places = (units[:, None] * self.width + torch.arange(self.width)).flatten()
        return weight.index_select(self.dim, places.to(weight.device)).contiguous()

    def sums(self, values: Tensor) -> Tensor:
        """Returns (U): the sum of what belongs to each unit, of values in the shape of the weight."""
        return values.movedim(self.dim, 0).reshape(-1, self.width, values.numel() // values.shape[self.dim]).sum((1, 2))


@dataclass(frozen=True)
class Part:
    """Units of which some can go, all alike: the inner ones of a feed-forward layer, or the heads of an attention.

    Attributes:
        name: Of the module they are in.
        count: U.
        slices: All weights that are theirs.
        acts: Those of them by which they act on what comes behind: without these the units might as well not be there.
        together: Parts of one such name lose the same units.
        layer: The one they are in, as :class:`Stack` names it.
    """

    name: str
    count: int
    slices: tuple[Slice, ...]
    acts: Slice
    together: str
    layer: str


@dataclass(frozen=True)
class Stack:
    """Layers one behind another.

    Attributes:
        prefix: Of a layer's weights, up to its number.
        count: Layers.
        field: That counts them in the model's config.
    """

    prefix: str
    count: int
    field: str

    def layer(self, number: int) -> str:
        """Returns what the names of a layer's weights begin with."""
        return f"{self.prefix}{number}."


@dataclass(frozen=True)
class Structure:
    """The parts of a model.

    Attributes:
        feed_forward: One for each layer.
        feed_forward_field: That has their width in the config.
        heads: One for each attention; none where fewer heads would have to be larger ones.
        head_fields: That count them in the config, with how many heads of each kind a unit of ``heads`` stands for.
        stacks: The layers, the encoder's first.
        first: Weights that the first layer of a stack holds for all.
    """

    feed_forward: tuple[Part, ...]
    feed_forward_field: str
    heads: tuple[Part, ...]
    head_fields: Mapping[str, int]
    stacks: tuple[Stack, ...]
    first: tuple[str, ...] = ()


def why_not_pruned(family: str, heads: bool) -> str:
    """Returns why a model cannot be pruned; "" if it can.

    Args:
        family: Its ``model_type``.
        heads: Whether heads shall go.
    """
    if family not in _FAMILIES:
        return f"supported are {', '.join(_FAMILIES)}"
    if heads and family not in _WITH_HEADS:
        return (
            f"its heads divide hidden_size, so fewer would be larger ones; {' and '.join(_WITH_HEADS)} can have fewer"
        )
    return ""


def structure_of(model: Any) -> Structure:
    """Returns the parts of a model.

    Raises:
        RequestError: Its family is not known here, or it is quantised.
    """
    family = model.config.model_type
    if is_quantized(model):
        raise RequestError("the model is quantised", "prune the one that was trained, and quantise the result")
    if family not in _FAMILIES:
        raise RequestError(f"a model of type {family!r} cannot be pruned", f"supported are {', '.join(_FAMILIES)}")
    return _FAMILIES[family](model)


def _linear(name: str, dim: int, model: Any, width: int = 1) -> tuple[Slice, ...]:
    """Returns the slices of a ``nn.Linear`` whose outputs (dim 0) or inputs (dim 1) are the units: an input has none of
    the bias.
    """
    layer = model.get_submodule(name)
    weight = (Slice(f"{name}.weight", dim, width),)
    return (*weight, Slice(f"{name}.bias", 0, width)) if dim == 0 and layer.bias is not None else weight


def _feed(model: Any, layer: str, name: str, count: int, inner: tuple[str, ...], outer: str) -> Part:
    """Returns a feed-forward layer: its inner units come out of some linear layers and go into another."""
    slices = [each for one in inner for each in _linear(f"{name}.{one}", 0, model)]
    acts = Slice(f"{name}.{outer}.weight", 1)
    return Part(name, count, (*slices, acts), acts, name, layer)


def _gpt2(model: Any) -> Structure:
    config = model.config
    stack = Stack("transformer.h.", config.n_layer, "n_layer")
    parts = []
    for layer in map(stack.layer, range(stack.count)):
        name = f"{layer}mlp"
        acts = Slice(f"{name}.c_proj.weight", 0)  # Conv1D: the other way round
        inner = Slice(f"{name}.c_fc.weight", 1), Slice(f"{name}.c_fc.bias", 0)
        parts.append(Part(name, config.n_inner or 4 * config.n_embd, (*inner, acts), acts, name, layer))
    return Structure(tuple(parts), "n_inner", (), {}, (stack,))


def _llama(model: Any) -> Structure:
    config = model.config
    stack = Stack("model.layers.", config.num_hidden_layers, "num_hidden_layers")
    size, groups = config.head_dim, config.num_key_value_heads
    shared = config.num_attention_heads // groups  # heads with one key and value
    feed, heads = [], []
    for layer in map(stack.layer, range(stack.count)):
        inner = ("gate_proj", "up_proj")
        feed.append(_feed(model, layer, f"{layer}mlp", config.intermediate_size, inner, "down_proj"))
        name = f"{layer}self_attn"
        acts = Slice(f"{name}.o_proj.weight", 1, shared * size)
        slices = [*_linear(f"{name}.q_proj", 0, model, shared * size), acts]
        slices += [each for one in ("k_proj", "v_proj") for each in _linear(f"{name}.{one}", 0, model, size)]
        heads.append(Part(name, groups, tuple(slices), acts, name, layer))
    fields = {"num_key_value_heads": 1, "num_attention_heads": shared}
    return Structure(tuple(feed), "intermediate_size", tuple(heads), fields, (stack,))


def _t5(model: Any) -> Structure:
    config = model.config
    stacks = (
        Stack("encoder.block.", config.num_layers, "num_layers"),
        Stack("decoder.block.", config.num_decoder_layers, "num_decoder_layers"),
    )
    feed, heads, first = [], [], []
    for stack in stacks:
        crossing = stack is stacks[1]
        bias = f"{stack.layer(0)}layer.0.SelfAttention.relative_attention_bias.weight"
        first.append(bias)
        for number in range(stack.count):
            layer = stack.layer(number)
            inner = ("wi_0", "wi_1") if config.is_gated_act else ("wi",)
            name = f"{layer}layer.{2 if crossing else 1}.DenseReluDense"
            feed.append(_feed(model, layer, name, config.d_ff, inner, "wo"))
            # The biases of positions are one head's of all layers: a head goes from all self-attentions of its stack.
            name = f"{layer}layer.0.SelfAttention"
            extra = (Slice(bias, 1),) if number == 0 else ()
            heads.append(_t5_heads(name, config, extra, stack.prefix, layer))
            if crossing:
                name = f"{layer}layer.1.EncDecAttention"
                heads.append(_t5_heads(name, config, (), name, layer))
    return Structure(tuple(feed), "d_ff", tuple(heads), {"num_heads": 1}, stacks, tuple(first))


def _t5_heads(name: str, config: Any, extra: tuple[Slice, ...], together: str, layer: str) -> Part:
    acts = Slice(f"{name}.o.weight", 1, config.d_kv)
    slices = tuple(Slice(f"{name}.{one}.weight", 0, config.d_kv) for one in "qkv")
    return Part(name, config.num_heads, (*slices, acts, *extra), acts, together, layer)


def _bert(model: Any) -> Structure:
    config = model.config
    count, width = config.num_hidden_layers, config.intermediate_size
    stack = Stack(f"{model.base_model_prefix}.encoder.layer.", count, "num_hidden_layers")
    return Structure(_bert_feed(model, stack, width), "intermediate_size", (), {}, (stack,))


def _labeller(model: Any) -> Structure:
    stack = Stack("bert.encoder.layer.", model.config.layers, "layers")
    feed = _bert_feed(model, stack, model.config.feed_forward_size)
    return Structure(feed, "feed_forward_size", (), {}, (stack,))


def _bert_feed(model: Any, stack: Stack, width: int) -> tuple[Part, ...]:
    parts = []
    for layer in map(stack.layer, range(stack.count)):
        acts = Slice(f"{layer}output.dense.weight", 1)
        inner = _linear(f"{layer}intermediate.dense", 0, model)
        parts.append(Part(f"{layer}intermediate", width, (*inner, acts), acts, f"{layer}intermediate", layer))
    return tuple(parts)


def _transformer(model: Any) -> Structure:
    config = model.config
    stacks = (
        Stack("encoder_layers.", config.encoder_layers, "encoder_layers"),
        Stack("decoder_layers.", config.decoder_layers, "decoder_layers"),
    )
    return Structure(_own_feed(model, stacks), "feed_forward_size", (), {}, stacks)


def _transformer_xl(model: Any) -> Structure:
    stacks = (Stack("layers.", model.config.layers, "layers"),)
    return Structure(_own_feed(model, stacks), "feed_forward_size", (), {}, stacks)


def _own_feed(model: Any, stacks: tuple[Stack, ...]) -> tuple[Part, ...]:
    layers = [stack.layer(number) for stack in stacks for number in range(stack.count)]
    width = model.config.feed_forward_size
    return tuple(_feed(model, layer, f"{layer}feed", width, ("inner",), "outer") for layer in layers)


_WITH_HEADS = ("llama", "t5")
_FAMILIES: dict[str, Callable[[Any], Structure]] = {
    "gpt2": _gpt2, "llama": _llama, "t5": _t5, "bert": _bert, "roberta": _bert, "xlm-roberta": _bert,
    "llmyard_transformer": _transformer, "llmyard_transformer_xl": _transformer_xl,
    "llmyard_span_tagger": _labeller, "llmyard_text_classifier": _labeller,
}  # fmt: skip
