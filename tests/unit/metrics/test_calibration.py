"""Calibration error and Brier score: by hand, against scikit-learn, and on simulated guesses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from llmyard.core.errors import DataError
from llmyard.metrics.calibration import (
    BINS,
    F64,
    brier_each,
    calibration_each,
    calibration_figure,
    reliability,
)

guesses = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def error_of(sure: Sequence[float] | F64, right: Sequence[bool] | F64, bins: int = BINS) -> float:
    return float(calibration_figure(calibration_each(sure, right, bins).sum(0)))


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, 0.5] holds 0.4 (wrong) and 0.5 (right); (0.5, 1] holds 0.9 (right), 0.8 (wrong).
    confidences, correct = [0.4, 0.5, 0.9, 0.8], [False, True, True, False]
    assert error_of(confidences, correct, 2) == pytest.approx(0.5 * 0.05 + 0.5 * 0.35)
    low, high = reliability(confidences, correct, 2)
    assert (low.low, low.high, low.count, low.confidence, low.accuracy) == (0, 0.5, 2, pytest.approx(0.45), 0.5)
    assert (high.count, high.confidence, high.accuracy) == (2, pytest.approx(0.85), 0.5)


def test_the_edges_of_bins_belong_to_the_lower_one() -> None:
    # 0.7 * 10 is 7.000000000000001: by multiplication 0.7 would lie above its edge.
    found = reliability([0.0, 0.1, 0.3, 0.7, 1.0], [True] * 5, 10)
    assert [round(each.high, 1) for each in found] == [0.1, 0.3, 0.7, 1.0]
    assert [each.count for each in found] == [2, 1, 1, 1]


@given(guesses, st.integers(1, 20))
def test_calibration_error_is_bounded_and_that_of_the_bins(examples: list[tuple[float, bool]], bins: int) -> None:
    confidences, correct = [one for one, _ in examples], [other for _, other in examples]
    error = error_of(confidences, correct, bins)
    found = reliability(confidences, correct, bins)
    assert 0 <= error <= 1
    assert sum(each.count for each in found) == len(examples)
    weighted = sum(each.count * abs(each.accuracy - each.confidence) for each in found) / len(examples)
    assert error == pytest.approx(weighted)
    assert error_of(confidences[::-1], correct[::-1], bins) == pytest.approx(error)
    # One bin can only tell less.
    assert error_of(confidences, correct, 1) <= error + 1e-9


def test_a_calibrated_model_has_little_error_and_a_boastful_one_much() -> None:
    draw = np.random.default_rng(0)
    sure = draw.random(20_000)
    right = draw.random(20_000) < sure
    assert error_of(sure, right) < 0.02
    assert error_of(np.sqrt(sure), right) > 0.1


def test_brier_by_hand() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]
    assert brier_each(probabilities, [0, 1]) == pytest.approx([0.09 + 0.04 + 0.01, 0.01 + 0.81 + 0.64])
    # From sure and right to sure and wrong.
    assert brier_each([[1, 0], [1, 0]], [0, 1]).tolist() == [0, 2]


def test_scikit_learn_agrees() -> None:
    draw = np.random.default_rng(3)
    probabilities, truths = draw.dirichlet(np.ones(4), 50), draw.integers(0, 4, 50)
    theirs = brier_score_loss(truths, probabilities, labels=[0, 1, 2, 3], scale_by_half=False)
    assert brier_each(probabilities, truths).mean() == pytest.approx(theirs)
    # Of two classes one probability says all: its square is half of the sum over both.
    sure = draw.random(50)
    both = np.stack([1 - sure, sure], 1)
    assert brier_each(both, truths % 2).mean() / 2 == pytest.approx(brier_score_loss(truths % 2, sure))


def test_figures_of_resampled_rows() -> None:
    draw = np.random.default_rng(5)
    sure, right = draw.random(40), draw.random(40) < 0.5
    places = draw.integers(0, 40, (7, 40))
    sums = calibration_each(sure, right)[places].sum(1)
    expected = [error_of(sure[each], right[each]) for each in places]
    assert calibration_figure(sums) == pytest.approx(expected)


def test_refusals() -> None:
    for figure in (calibration_each, reliability):
        with pytest.raises(DataError, match="no probabilities"):
            figure([], [])
        with pytest.raises(DataError, match="do not pair up"):
            figure([0.5], [1, 0])
        with pytest.raises(DataError, match=r"1\.5 is no probability"):
            figure([1.5], [1])
        with pytest.raises(DataError, match="nan is no probability"):
            figure([math.nan], [1])
        with pytest.raises(DataError, match="neither right nor wrong"):
            figure([0.5], [0.5])
        with pytest.raises(DataError, match="0 bins"):
            figure([0.5], [1], 0)
    with pytest.raises(DataError, match="no probabilities"):
        brier_each([], [])
    with pytest.raises(DataError, match="do not pair up"):
        brier_each([[0.5, 0.5]], [1, 0])
    with pytest.raises(DataError, match=r"1\.5 is no probability"):
        brier_each([[1.5, -0.5]], [1])
    with pytest.raises(DataError, match="nan is no probability"):
        brier_each([[math.nan, 1]], [1])
    with pytest.raises(DataError, match=r"example 1 sum to 0\.9"):
        brier_each([[0.5, 0.5], [0.5, 0.4]], [0, 1])
    for place in (-1, 2):
        with pytest.raises(DataError, match="outside of the 2 classes"):
            brier_each([[0.5, 0.5]], [place])
