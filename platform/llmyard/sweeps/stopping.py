"""Whether a trial that does worse than others ends before its time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from llmyard.sweeps.config import Asha, MedianStopping, Objective
from llmyard.sweeps.trial import Trial

Curve = list[tuple[int, float]]


def ends(stopping: Asha | MedianStopping, objective: Objective, trial: Trial, others: Sequence[Trial]) -> bool:
    """Returns whether a trial that has just reported is to end.

    Figures that are no finite numbers count as the worst. Reports without the figure count for nothing: after one, no
    trial ends.

    Args:
        stopping: The rule: asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel
            Hyperparameter Tuning") or the median rule (Golovin et al. 2017, "Google Vizier").
        objective: The figure that is compared.
        trial: Its last report is the newest.
        others: All that is known of the other trials, in any state; the trial itself among them plays no part.
    """
    if not trial.reports or objective.metric not in trial.reports[-1].metrics:
        return False
    curves = [_curve(each, objective) for each in others if each.number != trial.number]
    if isinstance(stopping, Asha):
        return _halved(stopping, _curve(trial, objective), curves)
    return _below_median(stopping, _curve(trial, objective), curves)


def _curve(trial: Trial, objective: Objective) -> Curve:
    """Returns the steps and costs of the reports that have the figure."""
    found = [(each.step, each.metrics[objective.metric]) for each in trial.reports if objective.metric in each.metrics]
    return [(step, objective.cost(value) if math.isfinite(value) else math.inf) for step, value in found]


def _halved(stopping: Asha, own: Curve, others: Sequence[Curve]) -> bool:
    """Returns whether a trial that has just passed a rung is not among the best 1/factor of those that came there."""
    step, cost = own[-1]
    if step < stopping.grace_steps:
        return False
    rung = stopping.grace_steps
    while rung * stopping.factor <= step:
        rung *= stopping.factor
    if len(own) > 1 and own[-2][0] >= rung:
        return False  # it was judged there before
    there = [next((cost for at, cost in curve if at >= rung), None) for curve in others]
    rivals = [each for each in there if each is not None]
    best = max(1, (len(rivals) + 1) // stopping.factor)
    return sum(each < cost for each in rivals) >= best  # of equal ones none is worse


def _below_median(stopping: MedianStopping, own: Curve, others: Sequence[Curve]) -> bool:
    """Returns whether a trial at its best is worse than the median of the others' means until the same step."""
    step = own[-1][0]
    if step < stopping.grace_steps:
        return False
    as_far = [[cost for at, cost in curve if at <= step] for curve in others if curve and curve[-1][0] >= step]
    means = [fmean(costs) for costs in as_far if costs]
    if len(means) < stopping.least_trials:
        return False
    return min(cost for _, cost in own) > median(means)
