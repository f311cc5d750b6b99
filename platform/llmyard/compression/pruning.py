"""Trained models made smaller by what matters least in them: the result is a dense model of the same class.

Units of feed-forward layers, whole heads and whole layers go; what is left computes as before. A config has one width
for all layers, so that each loses as many units, but not the same ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmyard.compression.importance import Importance
from llmyard.compression.structure import Part, Stack, Structure, structure_of
from llmyard.core.errors import RequestError


@dataclass(frozen=True)
class Target:
    """The shape of the result; what is None stays as it is.

    Attributes:
        feed_forward_size: Inner units of each feed-forward layer. Multiples of 64 suit the kernels.
        heads: Of each attention, of the size that they have; where some share keys and values, as many of each group.
        layers: Of an encoder-decoder those of the encoder.
        decoder_layers: Of an encoder-decoder.
    """

    feed_forward_size: int | None = None
    heads: int | None = None
    layers: int | None = None
    decoder_layers: int | None = None


@dataclass(frozen=True)
class Pruned:
    """A smaller model.

    Attributes:
        model: Of the same class, with a config of its own; its weights are copies.
        units: Which units of each part are left, by its name in the model before; of heads that share keys and values
            a unit is a group.
        layers: Which layers of each stack are left, in the order of the model's stacks.
        parameters_before: Weights; tied ones count once.
        parameters_after: Likewise.
    """

    model: Any
    units: Mapping[str, tuple[int, ...]]
    layers: tuple[tuple[int, ...], ...]
    parameters_before: int
    parameters_after: int


@torch.no_grad()
def prune(model: Any, target: Target, importance: Importance) -> Pruned:
    """Returns a model without what matters least; the one that is given stays as it is.

    Args:
        model: As trained.
        target: The wanted shape.
        importance: Of that model's parts.

    Raises:
        RequestError: The family cannot be pruned, or not so; the target is larger than the model, or none that its
            family can have; the importance is another model's.
    """
    structure = structure_of(model)
    config = copy.deepcopy(model.config)
    layers = _layers_left(model, structure, target, importance, config)
    left = {stack.layer(number) for stack, kept in zip(structure.stacks, layers, strict=True) for number in kept}
    units: dict[str, Tensor] = {}
    parts: list[Part] = []
    if target.feed_forward_size is not None:
        size = target.feed_forward_size
        _check("feed_forward_size", size, structure.feed_forward[0].count)
        setattr(config, structure.feed_forward_field, size)
        parts += structure.feed_forward
        units |= _units_left(structure.feed_forward, size, left, importance)
    if target.heads is not None:
        count = _groups(model, structure, target.heads, config)
        parts += structure.heads
        units |= _units_left(structure.heads, count, left, importance)
    weights = _cut(model.state_dict(), parts, units)
    smaller = _made(model, config, _renamed(weights, structure, layers))
    kept = {part.name: tuple(units[part.together].tolist()) for part in parts if part.layer in left}
    return Pruned(smaller, kept, layers, model.num_parameters(), smaller.num_parameters())


def losses_without_layers(model: Any, batches: Sequence[Any], loss: Callable[[Any, Any], Tensor]) -> dict[str, float]:
    """Returns the mean loss of a model without each of its layers, for :attr:`Importance.layers`.

    It takes as many evaluations as there are layers, and tells what scores of single weights cannot: of a GPT-2 of four
    layers magnitudes took the first (6.88 nats; best 4.52), of a Transformer-XL gradients the last (4.80; best 4.58).

    Args:
        model: As trained.
        batches: Examples of what it will do.
        loss: Of a model on a batch, a mean.

    Raises:
        RequestError: There is no batch.
    """
    structure = structure_of(model)
    if not batches:
        raise RequestError("there is no batch to tell what matters", "give some")
    found = {}
    for place, stack in enumerate(structure.stacks):
        if stack.count == 1:
            found[stack.layer(0)] = math.inf  # one has to stay
            continue
        for number in range(stack.count):
            layers = [tuple(range(each.count)) for each in structure.stacks]
            layers[place] = tuple(other for other in layers[place] if other != number)
            config = copy.deepcopy(model.config)
            setattr(config, stack.field, stack.count - 1)
            without = _made(model, config, _renamed(model.state_dict(), structure, tuple(layers))).eval()
            with torch.no_grad():
                found[stack.layer(number)] = sum(float(loss(without, batch)) for batch in batches) / len(batches)
    return found


def _check(field: str, wanted: int, there: int) -> None:
    if not 1 <= wanted <= there:
        raise RequestError(f"{field} is {wanted}; the model has {there}", f"give 1 to {there}")


def _layers_left(
    model: Any, structure: Structure, target: Target, importance: Importance, config: Any
) -> tuple[tuple[int, ...], ...]:
    """Returns which layers of each stack are left, and writes their number into a config."""
    if target.decoder_layers is not None and len(structure.stacks) == 1:
        raise RequestError(f"{config.model_type} has no decoder of its own", "set layers instead of decoder_layers")
    wanted = (target.layers, target.decoder_layers)[: len(structure.stacks)]
    if any(each is not None for each in wanted) and getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise RequestError(
            "the attention of this model is scaled by the number of its layer: without some layers all others change",
            "prune feed_forward_size",
        )
    left = []
    for stack, count, field in zip(structure.stacks, wanted, ("layers", "decoder_layers"), strict=False):
        if count is None:
            left.append(tuple(range(stack.count)))
            continue
        _check(field, count, stack.count)
        scores = [importance.layers.get(stack.layer(number)) for number in range(stack.count)]
        if None in scores:
            raise _of_another(stack.layer(scores.index(None)))
        left.append(tuple(_best(torch.tensor(scores), count).tolist()))
        setattr(config, stack.field, count)
    return tuple(left)


def _groups(model: Any, structure: Structure, heads: int, config: Any) -> int:
    """Returns how many units of the attentions are left, and writes their number into a config."""
    family = config.model_type
    if not structure.heads:
        raise RequestError(
            f"heads of {family} cannot be taken out: its heads divide hidden_size, so fewer would be larger ones",
            "prune feed_forward_size or layers; llama and t5 can have fewer heads",
        )
    shared = max(structure.head_fields.values())
    there = structure.heads[0].count * shared
    _check("heads", heads, there)
    if heads % shared:
        raise RequestError(
            f"heads is {heads}, but {shared} heads share keys and values", f"give a multiple of {shared}"
        )
    for field, each in structure.head_fields.items():
        setattr(config, field, heads // shared * each)
    if family == "llama" and config.hidden_size % heads:  # transformers refuses to load it
        fitting = [each for each in range(shared, there, shared) if config.hidden_size % each == 0]
        raise RequestError(
            f"heads is {heads}, which does not divide hidden_size {config.hidden_size}",
            f"{family} can have {', '.join(map(str, fitting)) or 'no fewer'} heads",
        )
    return heads // shared


def _units_left(parts: tuple[Part, ...], count: int, left: set[str], importance: Importance) -> dict[str, Tensor]:
    """Returns which units are left in the parts of the layers that are, by what they lose together."""
    scores: dict[str, Tensor] = {}
    for part in parts:
        if part.layer not in left:
            continue
        own = importance.units.get(part.name)
        if own is None or len(own) != part.count:
            raise _of_another(part.name)
        before = scores.get(part.together)
        scores[part.together] = own if before is None else before + own
    return {name: _best(each, count) for name, each in scores.items()}


def _of_another(name: str) -> RequestError:
    return RequestError(f"there is no importance of {name}", "give that of the model that is pruned")


def _best(scores: Tensor, count: int) -> Tensor:
    """Returns the places of the highest scores, in order; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _cut(weights: Mapping[str, Tensor], parts: list[Part], units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a model's weights without the units that go; those of parts that go as a whole stay."""
    cut = dict(weights)
    for part in parts:
        if part.together in units:
            for each in part.slices:
                cut[each.name] = each.kept(cut[each.name], units[part.together])
    return cut


def _renamed(
    weights: Mapping[str, Tensor], structure: Structure, layers: tuple[tuple[int, ...], ...]
) -> dict[str, Tensor]:
    """Returns the weights of the layers that are left, with their new numbers, and all that are in no layer."""
    renamed = {}
    for name, weight in weights.items():
        new = name
        if name not in structure.first:
            for stack, kept in zip(structure.stacks, layers, strict=True):
                new = _in_stack(name, stack, kept) if name.startswith(stack.prefix) else new
        if new:
            renamed[new] = weight
    return renamed


def _in_stack(name: str, stack: Stack, kept: tuple[int, ...]) -> str:
    """Returns the new name of a layer's weight; "" where the layer goes."""
    number, _, rest = name[len(stack.prefix) :].partition(".")
    return f"{stack.layer(kept.index(int(number)))}{rest}" if int(number) in kept else ""


def _made(model: Any, config: Any, weights: Mapping[str, Tensor]) -> Any:
    """Returns a model of the class of another, with a config and weights."""
    with torch.random.fork_rng(devices=[]):  # its random weights are not drawn from the caller's seed
        made = type(model)(config)
    some = next(iter(model.parameters()))
    made = made.to(device=some.device, dtype=some.dtype)
    made.load_state_dict(weights)
    if getattr(model, "generation_config", None) is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    return made.train(model.training)
