"""Optimizers by their configs: what torch has, LAMB and LARS for huge batches, and Muon beside AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from llmyard.training.config import Adafactor, AdamW, Lamb, Lars, Muon, OptimizerChoice

Groups = list[dict[str, Any]]


class Optimizers:
    """One or more torch optimizers that step together and share one state.

    Args:
        parts: They hold different parameters.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def groups(self) -> Groups:
        """All parameter groups."""
        return [group for part in self.parts for group in part.param_groups]

    def set_learning_rate(self, rate: float) -> None:
        """Sets the learning rate of the next step; groups with a ``scale`` get that share of it."""
        for group in self.groups:
            group["lr"] = rate * group.get("scale", 1.0)

    def step(self) -> None:
        """Changes the parameters by their gradients."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs."""
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state."""
        for number, part in enumerate(self.parts):
            part.load_state_dict(state[str(number)])


def make_optimizers(
    model: torch.nn.Module, config: OptimizerChoice, scales: Mapping[str, float] | None = None
) -> Optimizers:
    """Returns the optimizers of a model's trainable parameters.

    Weight decay works on matrices only, not on biases, norms and scales. Muon takes the matrices inside the layers;
    embeddings, the output matrix and all vectors get AdamW, both at one learning rate. T5's embeddings move faster with
    these two: the others move every matrix in proportion to its size anyway.

    Args:
        model: Whose parameters are changed.
        config: Which optimizer.
        scales: The share of the learning rate that parameters get, by name; 1 where none is given.
    """
    scales = scales or {}
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if isinstance(config, AdamW | Muon):
        scales = {**scales, **{name: gain * scales.get(name, 1.0) for name, gain in _gains(model).items()}}
    match config:
        case Muon():
            outer = {id(parameter) for parameter in _embeddings(model)}
            inner = [(name, each) for name, each in named if each.dim() == 2 and id(each) not in outer]
            rest = [(name, each) for name, each in named if each.dim() != 2 or id(each) in outer]
            muon = torch.optim.Muon(
                _decayed(inner, config.weight_decay, scales), lr=config.learning_rate,
                weight_decay=config.weight_decay, momentum=config.momentum, adjust_lr_fn="match_rms_adamw",
            )  # fmt: skip
            others = [_adamw(_decayed(rest, config.weight_decay, scales), config)] if rest else []
            return Optimizers(muon, *others)
        case Adafactor():
            groups = _decayed(named, config.weight_decay, scales)
            return Optimizers(
                torch.optim.Adafactor(groups, lr=config.learning_rate, beta2_decay=config.beta2_decay, d=config.clip)
            )
        case Lamb():
            groups = _decayed(named, config.weight_decay, scales)
            return Optimizers(LayerwiseAdam(groups, config.learning_rate, config.betas, config.epsilon))
        case Lars():
            groups = _decayed(named, config.weight_decay, scales)
            return Optimizers(LayerwiseMomentum(groups, config.learning_rate, config.momentum, config.trust))
        case _:
            return Optimizers(_adamw(_decayed(named, config.weight_decay, scales), config))


def _adamw(groups: Groups, config: AdamW | Muon) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)


def _decayed(named: Iterable[tuple[str, Tensor]], weight_decay: float, scales: Mapping[str, float]) -> Groups:
    """Returns parameters in groups: matrices decay, vectors do not, nor a matrix of which some rows stay as they are;
    those divided in other ways stand apart, and those with other shares of the learning rate.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for name, parameter in named:
        decay = weight_decay if parameter.dim() >= 2 and not hasattr(parameter, "first_trained_row") else 0.0
        scale = scales.get(name, 1.0)
        key = (decay, scale, getattr(parameter, "device_mesh", None))
        group = groups.setdefault(key, {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def _embeddings(model: torch.nn.Module) -> Iterable[Tensor]:
    """Returns the parameters that stand for single tokens or positions."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            yield module.weight
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None:
        yield output.weight


def _gains(model: Any) -> dict[str, float]:
    """Returns how many times faster than the layers some parameters are to move, by their names.

    T5 draws its embeddings with a spread of 1 and divides by sqrt(width) what it compares with them: what moves other
    models' embeddings hardly moves these (measured: README, the table of the families).
    """
    if not getattr(getattr(model, "config", None), "scale_decoder_outputs", False):
        return {}
    shared = model.get_input_embeddings().weight
    return {name: model.config.d_model**0.5 for name, each in model.named_parameters() if each is shared}


class LayerwiseAdam(torch.optim.Optimizer):
    """LAMB (You et al. 2020): Adam's direction of each matrix, scaled to the size of its weights.

    Args:
        groups: Parameters with their ``weight_decay``.
        lr: Learning rate.
        betas: Of the two moments.
        eps: In the denominator.
    """

    def __init__(self, groups: Groups, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Changes the parameters by their gradients."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                done = float(state["step"])
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                mean, square = state["mean"] / (1 - first**done), state["square"] / (1 - second**done)
                update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * parameter
                parameter.sub_(update * _trust(parameter, update), alpha=group["lr"])


class LayerwiseMomentum(torch.optim.Optimizer):
    """LARS (You et al. 2017): momentum, the rate of each matrix in proportion to the size of its weights.

    Args:
        groups: Parameters with their ``weight_decay``.
        lr: Learning rate.
        momentum: Share of the former update.
        trust: Largest share of a matrix's size that a gradient of its own size changes.
    """

    def __init__(self, groups: Groups, lr: float, momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Changes the parameters by their gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["update"] = torch.zeros_like(parameter)
                gradient = parameter.grad + group["weight_decay"] * parameter
                if parameter.dim() >= 2:
                    gradient = gradient * (group["trust"] * _trust(parameter, gradient))
                state["update"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
                parameter.sub_(state["update"])


def _trust(parameter: Tensor, update: Tensor) -> Tensor:
    """Returns the parameter's norm over the update's; 1 where one of them is 0."""
    one, other = parameter.norm(), update.norm()
    return torch.where((one > 0) & (other > 0), one / other.clamp(min=1e-30), torch.ones_like(one))
