"""What to do about a step that went wrong: pure decisions over the history of losses and gradient norms."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from llmyard.training.config import Stability


class Decision(Enum):
    """What the loop does with a step, the same on every rank."""

    PROCEED = "proceed"
    SKIP = "skip"
    ROLL_BACK = "roll_back"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Seen:
    """One step as all ranks see it.

    Attributes:
        step: Its number, from 1.
        loss: Mean over the global batch.
        gradient_norm: Before clipping.
    """

    step: int
    loss: float
    gradient_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether both numbers are."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and why.

    Attributes:
        reason: For people; "" when all is well.
        value: The loss or norm that it is about.
        usual: What it was compared with: the median of the steps before.
    """

    decision: Decision
    reason: str = ""
    value: float = 0.0
    usual: float = 0.0


WELL = Verdict(Decision.PROCEED)


class Watch:
    """Judges each step by those before it. Its state is small and travels with checkpoints.

    A step that is not finite is skipped: its gradients would spoil the weights. So is one whose gradient norm is a
    spike. A loss that stays high, or too many steps skipped in a row, roll the run back to its last checkpoint, from
    which other data are read. After too many roll-backs the run stops.

    Args:
        config: The limits.
    """

    def __init__(self, config: Stability) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)
        self._bad = self._high = self.roll_backs = 0

    def judge(self, seen: Seen) -> Verdict:
        """Returns what to do with a step, before the optimizer takes it; takes note of the step."""
        verdict = self._judge(seen)
        if verdict.decision is Decision.PROCEED:
            self._bad = 0
            self._losses.append(seen.loss)
            self._norms.append(seen.gradient_norm)
            return verdict
        self._bad += verdict.decision is Decision.SKIP
        if verdict.decision is Decision.SKIP and self._bad > self._config.max_skips:
            verdict = Verdict(Decision.ROLL_BACK, f"{verdict.reason}, {self._bad} times in a row", verdict.value)
        if verdict.decision is Decision.ROLL_BACK:
            self.roll_backs += 1
            self._bad = self._high = 0
            self._losses.clear()
            self._norms.clear()
            if self.roll_backs > self._config.max_roll_backs:
                return Verdict(Decision.STOP, f"{verdict.reason}, after {self._config.max_roll_backs} roll-backs",
                               verdict.value, verdict.usual)  # fmt: skip
        return verdict

    def _judge(self, seen: Seen) -> Verdict:
        if not seen.is_finite:
            what, value = ("loss", seen.loss) if not math.isfinite(seen.loss) else ("gradient norm", seen.gradient_norm)
            return Verdict(Decision.SKIP, f"the {what} is not finite", value)
        if len(self._losses) < self._config.window // 2:
            return WELL
        if robust_score(seen.gradient_norm, self._norms) > self._config.gradient_score:
            usual = statistics.median(self._norms)
            return Verdict(Decision.SKIP, "the gradient norm is a spike", seen.gradient_norm, usual)
        if robust_score(seen.loss, self._losses) > self._config.loss_score:
            self._high += 1
            if self._high > self._config.max_high_losses:
                usual = statistics.median(self._losses)
                return Verdict(Decision.ROLL_BACK, f"the loss is high for {self._high} steps", seen.loss, usual)
            return WELL
        self._high = 0
        return WELL

    def state(self) -> dict[str, list[float]]:
        """Returns what a resumed run needs."""
        counts = [float(self._bad), float(self._high), float(self.roll_backs)]
        return {"losses": list(self._losses), "norms": list(self._norms), "counts": counts}

    def load(self, state: dict[str, Sequence[float]]) -> None:
        """Takes over a state."""
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
        self._bad, self._high, self.roll_backs = (int(count) for count in state["counts"])


def robust_score(value: float, history: Iterable[float]) -> float:
    """Returns how far above the median a value is, in robust standard deviations (Iglewicz and Hoaglin 1993).

    The median absolute deviation is not taken smaller than a hundredth of the median: a loss that hardly moves has no
    spikes of a thousandth.
    """
    values = list(history)
    middle = statistics.median(values)
    spread = statistics.median(abs(each - middle) for each in values)
    return (value - middle) / max(1.4826 * spread, 0.01 * abs(middle), 1e-12)


@dataclass
class EarlyStopping:
    """Says when the validation loss has stopped falling.

    Attributes:
        patience: Evaluations without a better value.
        least_gain: By which a value must be better to count.
    """

    patience: int
    least_gain: float = 0.0
    best: float = math.inf
    since: int = 0

    def stops(self, loss: float) -> bool:
        """Takes note of an evaluation's loss; returns whether to stop."""
        if loss < self.best - self.least_gain:
            self.best, self.since = loss, 0
        else:
            self.since += 1
        return self.since >= self.patience
