"""A model on its way: all that a checkpoint holds, and the two halves of a step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from llmyard.core.errors import TrainingError
from llmyard.core.seeds import mix
from llmyard.models.width import width_scales
from llmyard.training.adapting import rate_scales
from llmyard.training.adversarial import Adversary
from llmyard.training.config import Training
from llmyard.training.layout import Layout
from llmyard.training.optimizers import Optimizers, make_optimizers
from llmyard.training.precision import LossScale, compute_dtype
from llmyard.training.schedules import BatchSizes
from llmyard.training.stability import Decision, EarlyStopping, Seen, Watch
from llmyard.training.streams import MicroBatch, Streams


class Saved(Protocol):
    """A checkpoint, as :class:`llmyard.training.checkpoint.Saved`.

    Attributes:
        step: Steps done.
        facts: What was saved beside the tensors.
    """

    @property
    def step(self) -> int: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Returns the whole shape and the type of every tensor."""

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Fills tensors by their names."""


class Read(NamedTuple):
    """What all workers together read in a step: targets of the loss, and tokens."""

    targets: float
    tokens: float


class Remembered:
    """A checkpoint in memory, for tests and notebooks.

    Args:
        step: Steps done.
        tensors: Copied.
        facts: As JSON keeps them.
    """

    def __init__(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.step, self.facts = step, json.loads(json.dumps(facts))
        self.tensors = {name: each.detach().clone() for name, each in tensors.items()}

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Returns the shape and the type of every tensor."""
        return {name: (each.shape, each.dtype) for name, each in self.tensors.items()}

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Fills tensors by their names."""
        for name, each in into.items():
            each.copy_(self.tensors[name])


class Progress:
    """A run between two steps.

    Args:
        layout: The model as this worker holds it.
        streams: What it reads.
        config: Of the run.

    Attributes:
        done: Steps done.
        position: Micro-batches read so far; ahead of those of the steps done where a roll-back passed some over.
        sizes: Micro-batches of each step.
        has_converged: Whether early stopping says to end.
        metrics: The last ones.
    """

    def __init__(self, layout: Layout, streams: Streams, config: Training) -> None:
        self.layout, self.streams, self.config = layout, streams, config
        layout.model.train()
        of_width = width_scales(layout.model, getattr(config, "model", None))
        scales = rate_scales(layout.model, config.tuning)
        scales = {**scales, **{name: each * scales.get(name, 1.0) for name, each in of_width.items()}}
        self.optimizers: Optimizers = make_optimizers(layout.model, config.optimizer, scales)
        self._adversary = Adversary(layout.model, config.opponent) if config.opponent is not None else None
        self._dtype = compute_dtype(config.precision, layout.device, layout.model.config.hidden_size)
        self._scale = LossScale(self._dtype)
        self._averages = (
            {name: each.detach().clone() for name, each in layout.parameters.items()} if config.ema_decay else {}
        )
        self.watch = Watch(config.stability)
        self._stopping = EarlyStopping(config.patience or 0)
        self._best = math.inf
        self._best_step = 0
        self.has_converged = False
        self.done = self.position = 0
        self._saved = self._taken = 0
        self.sizes = BatchSizes(config.batch)
        self.metrics: dict[str, float] = {}

    def accumulate(self, batches: list[MicroBatch], asked: tuple[float, float]) -> tuple[Seen, Read, list[bool], bool]:
        """Adds up the gradients of a step over all workers, clipped.

        Args:
            batches: This worker's.
            asked: Whether this worker was asked to save, and to stop.

        Returns:
            What all workers saw; what they read; whether any of them was asked to save, and to stop; whether the step
            is to be passed over because float16 overflowed.
        """
        layout = self.layout
        is_idle = self.sizes.count(self.done) < layout.readers.world
        targets, tokens = layout.readers.sum(
            sum(each.targets for each in batches), sum(each.tokens for each in batches)
        )
        own = layout.backward(batches, self._loss, self._scale.value / targets, self._adversary) if batches else 0.0
        layout.reduce(is_idle)
        if self._scale.value != 1.0:
            gradients = [each.grad for each in layout.parameters.values() if each.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self._scale.value)
        norm = layout.clip(self.config.optimizer.max_grad_norm)
        loss, *wanted = layout.sum_losses(own, *asked)
        overflows = self._scale.overflows(math.isfinite(norm))
        seen = Seen(self.done + 1, loss / targets, norm)
        return seen, Read(targets, tokens), [each > 0 for each in wanted], overflows

    def _loss(self, each: MicroBatch) -> Tensor:
        torch.manual_seed(mix(self.config.seed, each.number) >> 1)
        device = self.layout.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in each.batch.items()}
        with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return each.objective.loss(self.layout.model, batch)

    def take(self, is_good: bool) -> None:
        """Changes the weights by the gradients, or passes the step over."""
        if is_good:
            self._taken += 1
            self.optimizers.step()
            if self.config.ema_decay is not None:
                rate = 1 - self.config.ema_decay
                for name, average in self._averages.items():
                    average.lerp_(self.layout.parameters[name].detach(), rate)
        self.optimizers.zero_grad()
        self.position += self.sizes.count(self.done)
        self.done += 1

    def is_due(self, decision: Decision) -> bool:
        """Returns whether to save: every so many steps, but never amid steps that go wrong."""
        every = self.config.checkpoint_every_steps
        due = decision is Decision.PROCEED and self.done // every > self._saved // every
        self._saved = self.done if due else self._saved
        return due

    def judge(self, evaluated: Mapping[str, float]) -> bool:
        """Takes note of an evaluation, for early stopping; returns whether to save it as the best."""
        self.layout.model.train()
        self.metrics |= evaluated
        figure = self.config.judged_by
        found = evaluated.get(figure, math.inf if figure == "validation_loss" else -math.inf)
        fault = found if figure == "validation_loss" else -found  # the less the better
        is_best = self.config.keep_best and fault < self._best
        if fault < self._best:
            self._best, self._best_step = fault, self.done
        if self.config.patience is not None:
            self.has_converged = self._stopping.stops(fault)
        return is_best

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that a resumed run needs, this worker's parts of them."""
        found = {f"model/{name}": each for name, each in self.layout.weights().items()}
        found |= {f"average/{name}": each for name, each in self._averages.items()}
        names = {id(each): name for name, each in self.layout.parameters.items()}
        for number, part in enumerate(self.optimizers.parts):
            for parameter, state in part.state.items():
                for key, value in state.items():
                    found[f"optimizer/{number}/{names[id(parameter)]}/{key}"] = value
        return found | {f"memory/{name}": each for name, each in self.streams.state().items()}

    def facts(self) -> dict[str, Any]:
        """Returns the numbers that a resumed run needs beside the tensors."""
        stopping = self._stopping
        return {
            "metrics": self.metrics,
            "watch": self.watch.state(),
            "stopping": [stopping.best, stopping.since, self.has_converged],
            "best": [self._best, self._best_step],
            "loss_scale": self._scale.state(),
            "position": self.position,
            "taken": self._taken,
        }

    def restore(self, saved: Saved) -> None:
        """Takes over a checkpoint; a collective call."""
        layout, shapes = self.layout, saved.shapes()
        into = {f"model/{name}": each for name, each in layout.weights().items()}
        into |= {f"average/{name}": each for name, each in self._averages.items()}
        memories: dict[str, Tensor] = {}
        states: list[tuple[Any, str, str, str]] = []
        for name, (shape, dtype) in shapes.items():
            what, _, rest = name.partition("/")
            if what == "memory":
                memories[rest] = into[name] = torch.empty(shape, dtype=dtype)
            elif what == "optimizer":
                number, parameter, key = rest.split("/")
                if parameter in layout.parameters:
                    part = self.optimizers.parts[int(number)]
                    into[name] = _room(part, layout.parameters[parameter], key, shape, dtype)
                    states.append((part, parameter, key, name))
        saved.read(into)
        for part in self.optimizers.parts:
            part.state.clear()
        for part, parameter, key, name in states:
            part.state[layout.parameters[parameter]][key] = into[name]
        self.streams.load(memories)
        facts = saved.facts
        self.done = self._saved = saved.step
        self.metrics = dict(facts["metrics"])
        self.watch.load(facts["watch"])
        self._stopping.best, self._stopping.since, self.has_converged = facts["stopping"]
        self._best, self._best_step = facts["best"]
        self._scale.load(facts["loss_scale"])
        self.position, self._taken = facts["position"], facts["taken"]

    def go_back(self, saved: Saved) -> None:
        """Takes over an earlier checkpoint, but reads on behind the data that led here."""
        position, roll_backs = self.position + self.sizes.count(self.done), self.watch.roll_backs
        self.optimizers.zero_grad()
        self.restore(saved)
        self.position = position
        self.watch = Watch(self.config.stability)
        self.watch.roll_backs = roll_backs

    def finish(self) -> bool:
        """Puts the averaged weights in place, where there are some; returns whether an earlier step was the best.

        Raises:
            TrainingError: No step was good.
        """
        if not self._taken:
            raise TrainingError(
                f"none of {self.done} steps had a finite loss and gradient",
                f"lower optimizer.learning_rate (now {self.config.optimizer.learning_rate}), or look at the data",
            )
        with torch.no_grad():
            for name, average in self._averages.items():
                self.layout.parameters[name].copy_(average)
        return self.config.keep_best and self._best_step not in (0, self.done)


def _room(part: Any, parameter: Tensor, key: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Returns where to read a state of an optimizer into: divided as its parameter is, where it has its shape."""
    if shape == parameter.shape and shape:
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    # As torch's own optimizers have it: the count of steps lies on the CPU, but for the fused ones.
    is_fused = any(group.get("fused") or group.get("capturable") for group in part.param_groups)
    device = parameter.device if is_fused or key != "step" else "cpu"
    return torch.empty(shape, dtype=dtype, device=device)
