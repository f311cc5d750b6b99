"""The learning rate of each step."""

from __future__ import annotations

import math

from llmyard.training.config import Schedule


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
