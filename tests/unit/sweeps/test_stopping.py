"""Trials that do worse than others end before their time."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sweeps.config import Asha, MedianStopping, Objective
from llmyard.sweeps.stopping import ends
from llmyard.sweeps.trial import Report, Trial

LOSS, SCORE = Objective(metric="loss"), Objective(metric="loss", mode="max")
HALVING = Asha(grace_steps=10, factor=4)
MEDIAN = MedianStopping(grace_steps=10, least_trials=3)


def _trial(number: int, curve: dict[int, float], metric: str = "loss") -> Trial:
    return Trial(number, {}, reports=tuple(Report(step, {metric: value}) for step, value in curve.items()))


def _others(*costs: float, step: int = 10) -> list[Trial]:
    return [_trial(number, {step: cost}) for number, cost in enumerate(costs, start=1)]


def _raced(trials: int, slots: int, seed: int, steps: int = 640) -> dict[int, Trial]:
    """Returns trials that ran a few at a time, reporting every ten steps; number 0 has the best curve of all."""
    dice = random.Random(seed)
    order = dice.sample(range(trials), trials)
    found: dict[int, Trial] = {}
    running: list[int] = []
    while order or running:
        while order and len(running) < slots:
            running.append(order.pop())
            found[running[-1]] = Trial(running[-1], {})
        number = dice.choice(running)
        step = 10 * (len(found[number].reports) + 1)
        found[number] = found[number].reported(step, {"loss": number + 100 / step})
        if ends(HALVING, LOSS, found[number], list(found.values())) or step == steps:
            running.remove(number)
    return found


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_trial_is_never_halved_away_and_a_part_passes_each_rung(slots: int, seed: int) -> None:
    found = _raced(200, slots, seed)
    assert found[0].reports[-1].step == 640
    came, after, middle, later, last, end = (
        sum(each.reports[-1].step >= step for each in found.values()) for step in (10, 20, 40, 50, 160, 170)
    )
    assert came == 200
    assert (after, later) == (middle, last)  # between rungs none ends
    assert came / 8 <= after <= came / 2.5
    assert middle / 8 <= later <= middle / 1.5
    assert 1 <= end <= last


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(0, 30), st.integers(2, 6))
def test_the_best_share_of_those_at_a_rung_goes_on(costs: list[int], own: int, factor: int) -> None:
    rule = Asha(grace_steps=10, factor=factor)
    ended = ends(rule, LOSS, _trial(0, {10: own}), _others(*costs))
    assert ended == (own not in sorted([*costs, own])[: max(1, (len(costs) + 1) // factor)])
    assert ended == ends(rule, SCORE, _trial(0, {10: -own}), _others(*(-each for each in costs)))


def test_a_trial_is_judged_once_at_a_rung_by_what_others_had_there_first() -> None:
    others = [_trial(number, {12: number, 38: 0.0, 45: 20.0 + number}) for number in range(1, 8)]
    assert not ends(HALVING, LOSS, _trial(0, {9: 99.0}), others)  # before the grace
    assert ends(HALVING, LOSS, _trial(0, {9: 1.0, 10: 2.5}), others)  # at 10 they had 1 to 7, not 0
    assert not ends(HALVING, LOSS, _trial(0, {10: 1.5, 39: 99.0}), others)  # between rungs
    assert not ends(HALVING, LOSS, _trial(0, {10: 1.5, 40: 22.5, 41: 99.0}), others)
    assert not ends(HALVING, LOSS, _trial(0, {10: 1.5, 40: 21.5}), others)
    assert ends(HALVING, LOSS, _trial(0, {39: 1.5, 40: 23.5}), others)
    assert ends(HALVING, LOSS, _trial(0, {170: 23.5}), [_trial(1, {640: 0.0})])  # rungs may be passed over
    assert not ends(HALVING, LOSS, _trial(0, {170: 23.5}), others)  # the first that came there


@pytest.mark.parametrize("state", ["running", "finished", "pruned", "failed"])
def test_others_count_in_any_state_and_itself_does_not(state: str) -> None:
    trial = _trial(0, {10: 2.0})
    other = Trial(1, {}, state, (Report(10, {"loss": 1.0}),))  # type: ignore[arg-type]
    assert ends(HALVING, LOSS, trial, [other])
    assert not ends(HALVING, LOSS, trial, [_trial(0, {10: 1.0})])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("objective", [LOSS, SCORE])
@pytest.mark.parametrize("rule", [HALVING, MEDIAN])
def test_what_is_no_number_is_the_worst(bad: float, objective: Objective, rule: Asha | MedianStopping) -> None:
    assert ends(rule, objective, _trial(0, {10: bad}), _others(1.0, 2.0, 3.0))
    assert not ends(rule, objective, _trial(0, {10: 5.0}), _others(bad, bad, bad))
    assert not ends(rule, objective, _trial(0, {10: bad}), _others(bad, bad, bad))


@pytest.mark.parametrize("rule", [HALVING, MEDIAN])
def test_without_the_figure_nothing_ends_and_nothing_counts(rule: Asha | MedianStopping) -> None:
    others = _others(1.0, 1.0, 1.0)
    assert not ends(rule, LOSS, Trial(0, {}), others)
    assert not ends(rule, LOSS, _trial(0, {10: 9.0}, "accuracy"), others)
    assert not ends(rule, LOSS, _trial(0, {10: 9.0}), [_trial(4, {10: 1.0}, "accuracy") for _ in range(4)])
    late = Trial(0, {}, reports=(Report(10, {"accuracy": 1.0}), Report(11, {"loss": 9.0})))
    assert ends(rule, LOSS, late, [_trial(number, {10: 1.0, 11: 1.0}) for number in (1, 2, 3)])


def test_the_median_of_means_until_the_same_step_decides() -> None:
    others = [_trial(number, {5: float(number), 20: 3.0 * number, 40: 0.0}) for number in (1, 2, 3)]  # means 2, 4, 6
    assert not ends(MEDIAN, LOSS, _trial(0, {20: 4.0}), others)
    assert ends(MEDIAN, LOSS, _trial(0, {20: 4.1}), others)
    assert not ends(MEDIAN, LOSS, _trial(0, {4: 1.0, 20: 9.0}), others)  # its best one counts
    assert not ends(MEDIAN, LOSS, _trial(0, {9: 99.0}), others)  # before the grace
    assert not ends(MEDIAN, LOSS, _trial(0, {41: 99.0}), others)  # none came as far
    assert not ends(MEDIAN, LOSS, _trial(0, {20: 99.0}), others[:2])  # too few
    assert not ends(MEDIAN, LOSS, _trial(0, {20: 99.0}), [*others[:2], _trial(3, {40: 0.0})])  # no mean until there
    assert ends(MEDIAN, SCORE, _trial(0, {20: 3.9}), others)


@settings(deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=3, max_size=12))
def test_at_most_half_are_worse_than_the_median(costs: list[float]) -> None:
    trials = [_trial(number, {10: cost}) for number, cost in enumerate(costs)]
    ended = [each for each in trials if ends(MEDIAN, LOSS, each, trials)]
    assert len(ended) <= math.ceil(len(costs) / 2)
    assert min(trials, key=lambda each: each.reports[0].metrics["loss"]) not in ended
