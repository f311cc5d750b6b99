"""Intervals that hold the truth as often as they say, p-values that are uniform by chance, and scipy's values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmyard.core.errors import DataError
from llmyard.metrics import significance
from llmyard.metrics.classification import micro_each, micro_f1
from llmyard.metrics.significance import bootstrap, paired_bootstrap


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def test_intervals_hold_the_truth_95_times_of_100() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for seed in range(500):
        found = bootstrap(draw.normal(3, 2, 80), resamples=400, seed=seed)
        hits += found.low <= 3 <= found.high
    assert 0.92 <= hits / 500 <= 0.97


def test_intervals_of_a_ratio_hold_the_truth_too() -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for seed in range(400):
        sizes = draw.integers(1, 20, 150)
        rows = np.stack([draw.poisson(0.3 * sizes), sizes], 1)
        found = bootstrap(rows, ratio, resamples=400, seed=seed)
        hits += found.low <= 0.3 <= found.high
    assert 0.91 <= hits / 400 <= 0.98


def test_p_values_are_uniform_when_systems_are_equally_good() -> None:
    draw = np.random.default_rng(2)
    values = []
    for seed in range(400):
        hard = draw.normal(0, 1, 60)  # examples are as hard for both
        first, second = hard + draw.normal(0, 1, 60), hard + draw.normal(0, 1, 60)
        values.append(paired_bootstrap(first, second, resamples=300, seed=seed))
    found = [each.p_value for each in values]
    assert stats.kstest(found, "uniform").pvalue > 0.005
    assert 0.02 <= np.mean([each < 0.05 for each in found]) <= 0.085


def test_scipys_bootstrap_agrees() -> None:
    scores = np.random.default_rng(3).gamma(2, 1, 60)
    found = bootstrap(scores, resamples=20_000, confidence=0.9)
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=4
    ).confidence_interval
    assert found.value == pytest.approx(scores.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_scipys_permutation_test_agrees() -> None:
    draw = np.random.default_rng(5)
    first = draw.normal(0.25, 1, 50)
    second = draw.normal(0, 1, 50)
    found = paired_bootstrap(first, second, resamples=20_000)
    theirs = stats.permutation_test(
        (first, second),
        lambda one, other, axis: (one - other).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=6,
    )
    assert found.difference == pytest.approx(theirs.statistic)
    assert 0.01 < found.p_value < 0.99
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.03)


def test_equal_scores_have_no_spread() -> None:
    assert bootstrap([0.5] * 10).low == bootstrap([0.5] * 10).high == 0.5


def test_few_examples_by_hand() -> None:
    # Better by 1 on two of four examples: the resampled difference strays by as much as 0.5 where it is 0 or 1, that is
    # where all four draws are of the same half, 2 of 16.
    found = paired_bootstrap([1.0, 1, 0, 0], [0.0, 0, 0, 0], resamples=20_000)
    assert found.difference == 0.5
    assert found.p_value == pytest.approx(2 / 16, abs=0.01)
    # Ties count half: only where no draw is of the better half, 1 of 16, is there one.
    assert found.wins == pytest.approx(15 / 16 + 1 / 32, abs=0.01)


def test_a_better_system_is_told_from_a_worse_one_and_not_from_itself() -> None:
    draw = np.random.default_rng(7)
    hard = draw.normal(0, 5, 300)
    better, worse = hard + draw.normal(0.5, 1, 300), hard + draw.normal(0, 1, 300)
    found, turned = paired_bootstrap(better, worse), paired_bootstrap(worse, better)
    assert found.p_value < 0.01
    assert found.difference == pytest.approx(0.5, abs=0.25)
    assert turned.difference == -found.difference
    assert turned.p_value == pytest.approx(found.p_value, abs=0.01)
    same = paired_bootstrap(better, better)
    assert (same.difference, same.p_value) == (0, 1)
    # Not paired, the difference would drown in how hard the examples are.
    assert stats.ttest_ind(better, worse).pvalue > 0.05


def test_koehns_wins_and_the_differences_interval() -> None:
    draw = np.random.default_rng(8)
    first, second = draw.normal(0.3, 1, 100), draw.normal(0, 1, 100)
    found = paired_bootstrap(first, second)
    assert found.low < found.difference < found.high
    assert 0.5 < found.wins <= 1
    assert paired_bootstrap(second, first).wins == pytest.approx(1 - found.wins)
    assert paired_bootstrap(first, first).wins == 0.5
    one = bootstrap(first - second, seed=9)
    assert (one.low, one.high) == pytest.approx((found.low, found.high), abs=0.05)


def test_a_corpus_figure_of_rows() -> None:
    draw = np.random.default_rng(10)
    wanted = draw.choice(["unknown", "收购", "持股"], 400)
    right = draw.random(400)
    good = np.where(right < 0.7, wanted, "收购").tolist()
    bad = np.where(right < 0.5, wanted, "收购").tolist()
    rows = [micro_each(said, wanted.tolist(), ["unknown"]) for said in (good, bad)]
    found = bootstrap(rows[0], micro_f1)
    assert found.low < micro_f1(rows[0].sum(0)) == found.value < found.high
    assert paired_bootstrap(*rows, micro_f1).p_value < 0.01


def test_a_mean_is_the_figure_of_numbers_and_ones() -> None:
    scores = np.random.default_rng(11).random(30)
    rows = np.stack([scores, np.ones(30)], 1)
    assert bootstrap(scores, seed=3) == bootstrap(rows, ratio, seed=3)
    assert paired_bootstrap(scores, scores[::-1], seed=3) == paired_bootstrap(rows, rows[::-1], ratio, seed=3)


def test_seeds_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(12).random(50)
    assert bootstrap(scores, seed=1) == bootstrap(scores, seed=1) != bootstrap(scores, seed=2)
    whole = bootstrap(scores, seed=1), paired_bootstrap(scores, scores[::-1], seed=1)
    monkeypatch.setattr(significance, "_DRAWS", 70)  # one resample at a time
    assert bootstrap(scores, seed=1).low == pytest.approx(whole[0].low, abs=0.02)
    assert paired_bootstrap(scores, scores[::-1], seed=1).p_value == pytest.approx(whole[1].p_value, abs=0.05)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_invariants(scores: list[float]) -> None:
    found = bootstrap(scores, resamples=50)
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9
    moved = bootstrap([each + 1000 for each in scores], resamples=50)
    assert (moved.low, moved.high) == pytest.approx((found.low + 1000, found.high + 1000))
    narrow = bootstrap(scores, resamples=50, confidence=0.5)
    assert found.low <= narrow.low <= narrow.high <= found.high
    assert 0 < paired_bootstrap(scores, scores[::-1], resamples=50).p_value <= 1


def test_refusals() -> None:
    for scores in ([], [1.0]):
        with pytest.raises(DataError, match="have no spread"):
            bootstrap(scores)
        with pytest.raises(DataError, match="have no spread"):
            paired_bootstrap(scores, scores)
    with pytest.raises(DataError, match="not a number"):
        bootstrap([1.0, float("nan")])
    with pytest.raises(DataError, match="without a function"):
        bootstrap([[1.0, 2], [3, 4]])  # type: ignore[list-item]
    with pytest.raises(DataError, match="with a function"):
        bootstrap([1.0, 2], ratio)
    with pytest.raises(DataError, match=r"confidence of 95"):
        bootstrap([1.0, 2], confidence=95)
    with pytest.raises(DataError, match="0 resamples"):
        paired_bootstrap([1.0, 2], [1.0, 2], resamples=0)
    with pytest.raises(DataError, match="have shapes"):
        paired_bootstrap([1.0, 2], [1.0, 2, 3])
