"""Gradients and activations layer by layer, and what is wrong when they vanish or explode on the way down."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VANISHED = 1e-2  # of the last layer's gradient is left in the first: of a healthy model, a half to ten times
EXPLODED = 1e3


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A fault of a stack of layers.

    Attributes:
        what: The fault, with numbers.
        remedy: What helps.
        norms: Gradient norm of each layer, the first (next to the input) first.
    """

    what: str
    remedy: str
    norms: tuple[float, ...]


def stacks_of(model: nn.Module, least: int = 2) -> dict[str, list[nn.Module]]:
    """Returns the stacks of equal layers in a model by name, each from the input to the output.

    Args:
        model: The model.
        least: Layers that make a stack.
    """
    found: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) >= least:
            kinds = {type(each) for each in module}
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if len(kinds) == 1 and not inside and any(True for _ in module.parameters()):
                found[name] = list(module)
    return found


def gradient_norms(layers: Sequence[nn.Module]) -> tuple[float, ...]:
    """Returns the norm of each layer's gradients after a backward pass."""
    squares = [
        sum((each.grad.float() ** 2).sum() for each in layer.parameters() if each.grad is not None) for layer in layers
    ]
    stacked = torch.stack([torch.as_tensor(square) for square in squares]).sqrt()
    return tuple(stacked.tolist())


def statistics(model: nn.Module) -> dict[str, float]:
    """Returns the gradient norm of every layer as metrics ``gradients/STACK/NUMBER``."""
    return {
        f"gradients/{name}/{number:02d}": norm
        for name, layers in stacks_of(model).items()
        for number, norm in enumerate(gradient_norms(layers))
    }


@contextmanager
def activations(model: nn.Module) -> Iterator[dict[str, float]]:
    """Gathers the root mean square of what every layer gives, in the forward passes inside the block.

    Yields:
        Metrics ``activations/STACK/NUMBER``, filled while the block runs.
    """
    found: dict[str, float] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor):
                found[name] = float(tensor.detach().float().pow(2).mean().sqrt())

        return hook

    for stack, layers in stacks_of(model).items():
        for number, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(note(f"activations/{stack}/{number:02d}")))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def diagnose(norms: Sequence[float]) -> Diagnosis | None:
    """Returns what is wrong with a stack whose layers have these gradient norms; None if nothing is.

    Depth alone explains no hundredfold difference: in a stack of post-norm layers the gradient loses a part at each
    normalisation (Xiong et al. 2020, On Layer Normalization in the Transformer Architecture).
    """
    if len(norms) < 4:
        return None
    quarter = max(1, len(norms) // 4)
    first, last = _mean(norms[:quarter]), _mean(norms[-quarter:])
    where = f"layers 0-{quarter - 1} of {len(norms)} have {first:.1e}, the last {quarter} {last:.1e}"
    if not all(math.isfinite(norm) for norm in norms):
        at = next(number for number, norm in enumerate(norms) if not math.isfinite(norm))
        return Diagnosis(
            f"the gradient of layer {at} of {len(norms)} is not finite",
            "lower the learning rate, or warm up longer", tuple(norms),
        )  # fmt: skip
    if last > 0 and first < VANISHED * last:
        return Diagnosis(
            f"gradients vanish: {where}",
            "use norm: pre, warm up longer (schedule.warmup_steps), or take fewer layers", tuple(norms),
        )  # fmt: skip
    if last > 0 and first > EXPLODED * last:
        return Diagnosis(
            f"gradients explode: {where}",
            "lower optimizer.learning_rate, or lower optimizer.max_grad_norm", tuple(norms),
        )  # fmt: skip
    return None


def diagnose_model(model: nn.Module) -> dict[str, Diagnosis]:
    """Returns the faults of a model's stacks after a backward pass, by the stack's name."""
    found = {name: diagnose(gradient_norms(layers)) for name, layers in stacks_of(model).items()}
    return {name: fault for name, fault in found.items() if fault is not None}


def _mean(norms: Sequence[float]) -> float:
    """Returns the geometric mean."""
    return math.exp(sum(math.log(max(norm, 1e-30)) for norm in norms) / len(norms))
