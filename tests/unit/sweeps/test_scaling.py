"""A scaling law is found again in what it made, its optimum is one, and what determines no law is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import RequestError
from llmyard.sweeps import scaling
from llmyard.sweeps.scaling import (
    Law,
    Point,
    extrapolates,
    fit,
    held_out,
    optimal,
    points_of,
    resample,
)
from llmyard.sweeps.trial import Report, Trial

PUBLISHED = Law(1.69, 406.4, 0.34, 410.7, 0.28)  # Hoffmann et al. 2022
TOY = Law(1.8, 150.0, 0.35, 400.0, 0.33)
SIZES, TOKENS = np.geomspace(1e6, 1e9, 5), np.geomspace(1e7, 1e11, 5)
SMALL_SIZES, SMALL_TOKENS = np.geomspace(1e5, 2e6, 5), np.geomspace(2e6, 3e7, 5)


def measured(
    law: Law, seed: int = 0, noise: float = 0.005, sizes: Sequence[float] = SIZES, tokens: Sequence[float] = TOKENS
) -> list[Point]:
    dice = np.random.default_rng(seed)
    return [
        Point(float(size), float(count), law.loss(size, count) * math.exp(noise * dice.normal()))
        for size in sizes
        for count in tokens
    ]


def test_a_law_is_found_again_to_the_last_digits_where_there_is_no_noise() -> None:
    for law, sizes, tokens in ((PUBLISHED, SIZES, TOKENS), (TOY, SMALL_SIZES, SMALL_TOKENS)):
        found = fit(measured(law, noise=0.0, sizes=sizes, tokens=tokens))
        for name in ("irreducible", "a", "alpha", "b", "beta"):
            assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-5), name


@pytest.mark.parametrize("seed", range(6))
def test_a_law_is_found_again_in_noise(seed: int) -> None:
    found = fit(measured(PUBLISHED, seed))
    assert found.alpha == pytest.approx(PUBLISHED.alpha, rel=0.1)
    assert found.beta == pytest.approx(PUBLISHED.beta, rel=0.1)
    assert found.irreducible == pytest.approx(PUBLISHED.irreducible, rel=0.1)
    assert found.size_exponent == pytest.approx(PUBLISHED.size_exponent, rel=0.1)
    assert found.size_exponent + found.token_exponent == pytest.approx(1.0)


def test_one_run_that_diverged_does_not_move_it() -> None:
    points = measured(PUBLISHED, 1)
    points[12] = Point(points[12].parameters, points[12].tokens, 2.5 * points[12].loss)
    found = fit(points)
    assert found.alpha == pytest.approx(PUBLISHED.alpha, rel=0.1)
    assert found.beta == pytest.approx(PUBLISHED.beta, rel=0.1)


def test_the_slopes_that_the_search_follows_are_those_of_the_cost() -> None:
    problem = scaling._Problem(measured(TOY, 3, 0.01, SMALL_SIZES, SMALL_TOKENS))
    weights = np.arange(25.0) % 4
    for seed in range(5):
        at = np.array([0.5, 0.3, 0.7, 0.3, 0.3]) + 0.1 * np.random.default_rng(seed).normal(size=5)
        for place, slope in enumerate(problem._cost(at, weights)[1]):
            step = np.eye(5)[place] * 1e-6
            rise = problem._cost(at + step, weights)[0] - problem._cost(at - step, weights)[0]
            assert rise / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1.0)


def test_a_resample_comes_from_the_law_of_all_points_to_where_other_starting_values_lead() -> None:
    for sizes in (SMALL_SIZES, SMALL_SIZES[::2]):
        points = measured(TOY, 2, 0.01, sizes, SMALL_TOKENS)
        problem = scaling._Problem(points)
        dice, best = np.random.default_rng(0), problem.best()
        for _ in range(6):
            weights = np.bincount(dice.integers(len(points), size=len(points)), minlength=len(points)).astype(float)
            others = [best + dice.normal(size=5) * (0.3, 0.5, 0.5, 0.2, 0.2) for _ in range(6)]
            with scaling._one_thread():
                one, two = problem.solved(weights, [best]), problem.solved(weights, others)
            assert one is not None
            assert two is not None
            assert problem._cost(one, weights)[0] <= problem._cost(two, weights)[0] * 1.005 + 1e-6


def test_the_band_holds_the_true_loss_in_most_seeds() -> None:
    places = [(3e5, 5e6), (1e6, 1e7), (2e6, 3e7)]
    held, widths = [], []
    for seed in range(10):
        found = resample(measured(TOY, seed, 0.01, SMALL_SIZES, SMALL_TOKENS), draws=30, seed=seed).losses(places)
        for place, (low, high) in zip(places, found, strict=True):
            held.append(low <= TOY.loss(*place) <= high)
            widths.append((high - low) / TOY.loss(*place))
    assert sum(held) >= 0.8 * len(held)
    assert 0.001 < np.median(widths) < 0.05  # and not because it is as wide as all


def test_intervals_of_the_optimum_hold_it_and_grow_beyond_what_was_measured() -> None:
    points = measured(TOY, 1, 0.01, SMALL_SIZES, SMALL_TOKENS)
    within, beyond = (resample(points, draws=40).optimum(flops) for flops in (5e13, 5e16))
    size, tokens = optimal(TOY, 5e13)
    for (low, high), value in (
        (within.parameters, size),
        (within.tokens, tokens),
        (within.tokens_per_parameter, tokens / size),
        (within.loss, TOY.loss(size, tokens)),
    ):
        assert low <= value <= high
    assert beyond.parameters[1] / beyond.parameters[0] > 2 * within.parameters[1] / within.parameters[0]


def test_draws_are_the_same_for_the_same_seed() -> None:
    points = measured(TOY, 0, 0.01, SMALL_SIZES, SMALL_TOKENS)
    assert resample(points, 5, 1) == resample(points, 5, 1)
    assert resample(points, 5, 1) != resample(points, 5, 2)


def test_draws_that_determine_no_law_are_counted_and_others_drawn() -> None:
    found = resample(measured(TOY, 0, 0.01, SMALL_SIZES[::2], SMALL_TOKENS[::2]), 30)
    assert len(found.laws) == 30
    assert found.failed > 0
    assert resample(measured(TOY, 0, 0.01, SMALL_SIZES, SMALL_TOKENS), 30).failed == 0


def test_points_of_one_trial_are_drawn_together() -> None:
    points = measured(TOY, 0, 0.01, SMALL_SIZES, SMALL_TOKENS)
    apart = [Point(each.parameters, each.tokens, each.loss) for each in points for _ in range(9)]
    together = [Point(each.parameters, each.tokens, each.loss, at) for at, each in enumerate(points) for _ in range(9)]

    def width(of: Sequence[Point]) -> float:
        low, high = resample(of, 20).interval(lambda law: law.loss(1e6, 1e7))
        return high - low

    assert width(together) == pytest.approx(width(points), rel=1e-3)  # said nine times, a run is no nine runs
    assert width(apart) < 0.7 * width(together)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 3.0),
    st.floats(1.0, 1e4),
    st.floats(0.1, 1.0),
    st.floats(1.0, 1e4),
    st.floats(0.1, 1.0),
    st.floats(10, 26),
)
def test_no_other_size_is_better_than_the_closed_form(
    floor: float, a: float, alpha: float, b: float, beta: float, power: float
) -> None:
    law, flops = Law(floor, a, alpha, b, beta), 10**power
    size, tokens = optimal(law, flops)
    assert 6 * size * tokens == pytest.approx(flops)
    least = law.loss(size, tokens)
    tried = size * np.geomspace(1e-4, 1e4, 4001)
    losses = [law.loss(each, flops / (6 * each)) for each in tried]
    assert min(losses) >= least * (1 - 1e-12)
    assert tried[int(np.argmin(losses))] == pytest.approx(size, rel=0.01)


def test_the_optimum_of_the_published_law_is_about_the_published_one() -> None:
    size, tokens = optimal(PUBLISHED, 5.76e23)  # Chinchilla's budget; approach 3 has 40 B (Hoffmann et al. 2022, A3)
    assert 2e10 < size < 5e10
    assert tokens > 1e12
    ratio = optimal(PUBLISHED, 100 * 5.76e23)[0] / size
    assert ratio == pytest.approx(100**PUBLISHED.size_exponent)


@pytest.mark.parametrize("flops", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_is_a_positive_number(flops: float) -> None:
    with pytest.raises(RequestError, match="budget") as raised:
        optimal(PUBLISHED, flops)
    assert raised.value.remedy


def _replaced(**fields: float) -> list[Point]:
    first, *others = measured(PUBLISHED)
    values: dict[str, Any] = {"parameters": first.parameters, "tokens": first.tokens, "loss": first.loss, **fields}
    return [Point(**values), *others]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "0 points"),
        (measured(PUBLISHED)[::6], "5 points"),
        (measured(PUBLISHED, sizes=SIZES[:2]), "2 different model sizes"),
        (measured(PUBLISHED, sizes=(1e6, 1.001e6, 1.002e6, 1e7)), "2 different model sizes"),
        (measured(PUBLISHED, tokens=TOKENS[:2]), "2 different token counts"),
        ([Point(size, 20 * size, PUBLISHED.loss(size, 20 * size)) for size in np.geomspace(1e6, 1e9, 9)], "in step"),
        (_replaced(loss=math.nan), "loss nan"),
        (_replaced(loss=-1.0), "loss -1"),
        (_replaced(tokens=0.0), "tokens 0"),
        (_replaced(parameters=math.inf), "parameters inf"),
        (measured(Law(2.0, 1e-9, 0.3, 400.0, 0.3), noise=0.0), "fall with parameters"),
        (measured(Law(2.0, 400.0, 0.3, 1e-9, 0.3), noise=0.0), "fall with tokens"),
        ([Point(each.parameters, each.tokens, 3.0) for each in measured(PUBLISHED)], "do not fall"),
    ],
)
def test_what_determines_no_law_is_refused(points: list[Point], said: str) -> None:
    with pytest.raises(RequestError, match=said) as raised:
        fit(points)
    assert len(raised.value.remedy) > 10


def test_six_points_are_enough_for_a_law_and_hardly_for_intervals() -> None:
    points = [Point(size, tokens, TOY.loss(size, tokens)) for size, tokens in (
        (1e5, 2e6), (1e5, 3e7), (5e5, 8e6), (5e5, 3e7), (2e6, 2e6), (2e6, 8e6),
    )]  # fmt: skip
    assert fit(points).loss(1e6, 1e7) == pytest.approx(TOY.loss(1e6, 1e7), rel=0.02)
    assert resample(points, 20).failed > 20


def test_points_are_of_finished_trials_that_tell_their_size_and_tokens() -> None:
    whole = {"parameters": 1e6, "tokens": 300.0, "validation_loss": 3.0}
    reports = (
        Report(1, {"tokens": 100.0, "validation_loss": 5.0}),
        Report(2, {"tokens": 200.0, "validation_loss": math.nan}),
        Report(3, {"validation_loss": 4.0}),
        Report(4, {"tokens": 200.0}),
        Report(5, {"tokens": 300.0, "validation_loss": 3.1}),
    )
    trials = [
        Trial(0, {}, "finished", reports, whole),
        Trial(1, {}, "pruned", reports, whole),
        Trial(2, {}, "finished", reports, {"parameters": 1e6, "validation_loss": 3.0}),
        Trial(3, {}, "finished", (), whole | {"validation_loss": math.nan, "other": 1.0}),
        Trial(4, {}, "finished", (), whole | {"other": 2.0}),
    ]
    assert points_of(trials) == [Point(1e6, 300.0, 3.0)] * 2
    assert points_of(trials, "other") == [Point(1e6, 300.0, 1.0), Point(1e6, 300.0, 2.0)]
    found = points_of(trials, on_the_way=True)
    assert found == [Point(1e6, 100.0, 5.0), Point(1e6, 300.0, 3.0), Point(1e6, 300.0, 3.0)]
    assert [each.trial for each in found] == [0, 0, 4]


def test_how_far_a_budget_lies_beyond_what_was_measured() -> None:
    points = [Point(1e6, 1e7, 3.0), Point(1e5, 1e7, 4.0)]
    assert extrapolates(points, 6e13) == pytest.approx(1.0)
    assert extrapolates(points, 6e15) == pytest.approx(100.0)
    assert extrapolates(points, 6e12) == pytest.approx(0.1)


def test_the_largest_run_is_foretold_by_the_others() -> None:
    exact = measured(PUBLISHED, noise=0.0)
    assert held_out(exact).error == pytest.approx(0.0, abs=1e-6)
    *others, last = exact
    found = held_out([*others, Point(last.parameters, last.tokens, last.loss / 1.1), last])
    assert found.run.loss == pytest.approx((last.loss + last.loss / 1.1) / 2)  # runs of as much compute are one
    assert found.predicted == pytest.approx(last.loss)
    assert found.error > 0
    assert found.naive_error > 5 * found.error / 2
    assert found.beyond == pytest.approx(last.flops / max(each.flops for each in others))
    with pytest.raises(RequestError, match="5 points"):
        held_out(exact[::5] + exact[4:5])


def test_what_the_largest_run_reported_on_the_way_does_not_give_it_away() -> None:
    points = [
        Point(each.parameters, each.tokens, each.loss, trial)
        for trial in range(5)
        for each in measured(PUBLISHED, noise=0.0)[5 * trial : 5 * trial + 5]
    ]
    spoilt = [
        Point(each.parameters, each.tokens, each.loss * (0.5 if each.trial == 4 else 1), each.trial) for each in points
    ]
    assert held_out(spoilt).predicted == pytest.approx(PUBLISHED.loss(SIZES[-1], TOKENS[-1]), rel=1e-4)
