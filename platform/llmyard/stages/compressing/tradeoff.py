"""What a compression gained and lost: figures of all results side by side, which of them are beaten, and the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from llmyard.core.errors import LlmyardError
from llmyard.stages.compress_config import Gate, Step

if TYPE_CHECKING:
    from llmyard.generation.timing import Timed

# Figures of an evaluation that are the better the smaller they are; all others are to be large.
COSTS = ("loss", "perplexity", "bits_per_byte", "brier", "calibration_error")


class GateClosed(LlmyardError):
    """A result lost more than the job allows."""


@dataclass(frozen=True)
class Speed:
    """How fast a result is with so many streams; times in seconds.

    Attributes:
        streams: Inputs asked at once.
        rate: Tokens a second, the median of all rounds.
        gain: Times the original's rate, the median of all rounds: both were measured in turn.
        first: 50th and 99th percentile of the time to the first token.
        whole: The same to the end of an answer.
    """

    streams: int
    rate: float
    gain: float
    first: tuple[float, float]
    whole: tuple[float, float]


@dataclass(frozen=True)
class Result:
    """One of the models: the original, or what a step has made.

    Attributes:
        name: ``original``, or what the step was.
        reference: Of the checkpoint.
        bytes: Of its files.
        metric: The figure that it is judged by; None where it could not be asked.
        interval: Where that lies in 95 of 100 samples of the examples.
        metrics: All figures of its evaluation.
        memory: Bytes by which a process grew that loaded it and answered.
        speeds: One for each number of streams; none of a format that other programs run.
    """

    name: str
    reference: str
    bytes: int
    metric: float | None = None
    interval: tuple[float, float] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory: int | None = None
    speeds: tuple[Speed, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def described(step: Step) -> str:
    """Returns what a step does, in a few words that need no translation."""
    if step.kind == "prune":
        sizes = ("feed_forward_size", "heads", "layers", "decoder_layers")
        said = ", ".join(f"{name} {value}" for name in sizes if (value := getattr(step, name)) is not None)
        return f"prune: {said}" + (" + recovery" if step.recovery is not None else "")
    if step.kind == "distill":
        return f"distill: {step.model.family}, hidden_size {step.model.hidden_size}"
    if step.kind == "quantize":
        return f"quantize: {step.scheme}"
    return f"export: {step.format} {step.weights}"


def speeds_of(rounds: Sequence[Sequence[Sequence[Timed]]]) -> list[tuple[Speed, ...]]:
    """Returns each result's speeds.

    Args:
        rounds: Of each round, of each result (the original first), of each number of streams.
    """
    found = []
    for place in range(len(rounds[0])):
        own = []
        for at, timed in enumerate(rounds[0][place]):
            each = [one[place][at] for one in rounds]
            gains = [one[place][at].rate / one[0][at].rate for one in rounds]
            first = [seconds for one in each for seconds in one.first]
            whole = [seconds for one in each for seconds in one.whole]
            rate = median(one.rate for one in each)
            own.append(Speed(timed.streams, rate, median(gains), _percentiles(first), _percentiles(whole)))
        found.append(tuple(own))
    return found


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Returns the 50th and the 99th percentile; of less than a hundred the latter is the largest."""
    ranked = sorted(seconds)
    return median(ranked), ranked[min(len(ranked) - 1, math.ceil(0.99 * len(ranked)) - 1)]


def lost(metric: str, original: float, result: float) -> float:
    """Returns which share of the original's metric is lost; less than 0 where the result is better."""
    worse = result - original if is_cost(metric) else original - result
    return worse / abs(original) if original else math.copysign(math.inf, worse) if worse else 0.0


def is_cost(metric: str) -> bool:
    """Returns whether a figure is the better the smaller it is."""
    name = metric.rpartition("/")[2].partition(":")[0]
    return name in COSTS or name.endswith("_loss")


def unbeaten(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Returns which points no other beats: is no worse in either coordinate and better in one; both are costs."""
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def check_gate(gate: Gate, metric: str, original: Result, result: Result) -> None:
    """Raises GateClosed where a result lost more than it may."""
    if original.metric is None or result.metric is None:
        raise GateClosed(
            f"{result.reference} was not judged by {metric}, which `gate` looks at", "leave `gate` out for this format"
        )
    share = lost(metric, original.metric, result.metric)
    if share > gate.most_loss:
        raise GateClosed(
            f"{metric} went from {original.metric:.4g} to {result.metric:.4g}, worse by {share:.1%}; `gate` allows "
            f"{gate.most_loss:.1%}",
            f"see the report, take a milder step, or allow more; what the steps made is kept: {result.reference}",
        )
    if gate.least_speedup is not None:
        gain = result.speeds[-1].gain if result.speeds else 0.0
        if gain < gate.least_speedup:
            raise GateClosed(
                f"{result.reference} answers at {gain:.2f} times the original's rate; `gate` asks for "
                f"{gate.least_speedup:g}",
                "see the report, take another step, or ask for less",
            )
