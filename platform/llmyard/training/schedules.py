"""The learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from llmyard.training.config import Batch, Schedule


@dataclass(frozen=True)
class BatchSizes:
    """How many micro-batches the steps have: always the same, or more and more (a ramp)."""

    batch: Batch

    def count(self, step: int) -> int:
        """Returns the micro-batches of the optimizer step number ``step`` (from 0)."""
        full, ramp = self.batch.size // self.batch.micro_batch, self.batch.ramp
        if ramp is None or step >= ramp.steps:
            return full
        levels = self.batch.size // ramp.start
        return self.batch.least * (1 + step * (levels - 1) // ramp.steps)

    def before(self, step: int) -> int:
        """Returns the micro-batches of all steps before ``step``."""
        ramp_steps = len(self._grown) - 1
        if step <= ramp_steps:
            return self._grown[step]
        return self._grown[-1] + (step - ramp_steps) * (self.batch.size // self.batch.micro_batch)

    @cached_property
    def _grown(self) -> list[int]:
        sums = [0]
        for step in range(self.batch.ramp.steps if self.batch.ramp is not None else 0):
            sums.append(sums[-1] + self.count(step))
        return sums


def learning_rate(step: int, peak: float, schedule: Schedule, steps: int) -> float:
    """Returns the learning rate of the optimizer step number ``step`` (from 0), of ``steps``.

    Linear warm-up to the peak, then a fall: cosine (Loshchilov and Hutter 2017), linear, with the inverse square root
    of the step (Vaswani et al. 2017), or none until the last steps (warm-up, stable, decay; Hu et al. 2024).
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.kind == "inverse_square_root":
        return peak * math.sqrt(max(1, warmup) / max(1, step + 1))
    done = (step - warmup) / max(1, steps - warmup)
    match schedule.kind:
        case "cosine":
            left = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            left = 1 - done
        case "wsd":
            left = min(1.0, (steps - step) / max(1.0, schedule.decay_share * steps))
        case _:
            left = 1.0
    return peak * (schedule.final_share + (1 - schedule.final_share) * left)
