"""Calibration error, Brier score and likelihood: by hand, against scikit-learn, and on simulated guesses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from llmyard.core.errors import DataError
from llmyard.metrics.calibration import (
    brier_each,
    brier_score,
    calibration_each,
    calibration_figure,
    expected_calibration_error,
    likelihood_each,
    negative_log_likelihood,
    reliability,
)

guesses = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, 0.5] holds 0.4 (wrong) and 0.5 (right); (0.5, 1] holds 0.9 (right), 0.8 (wrong).
    confidences, correct = [0.4, 0.5, 0.9, 0.8], [False, True, True, False]
    assert expected_calibration_error(confidences, correct, 2) == pytest.approx(0.5 * 0.05 + 0.5 * 0.35)
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
    error = expected_calibration_error(confidences, correct, bins)
    found = reliability(confidences, correct, bins)
    assert 0 <= error <= 1
    assert sum(each.count for each in found) == len(examples)
    weighted = sum(each.count * abs(each.accuracy - each.confidence) for each in found) / len(examples)
    assert error == pytest.approx(weighted)
    assert expected_calibration_error(confidences[::-1], correct[::-1], bins) == pytest.approx(error)
    # One bin can only tell less.
    assert expected_calibration_error(confidences, correct, 1) <= error + 1e-9


def test_a_calibrated_model_has_little_error_and_a_boastful_one_much() -> None:
    draw = np.random.default_rng(0)
    sure = draw.random(20_000)
    right = draw.random(20_000) < sure
    assert expected_calibration_error(sure, right) < 0.02
    assert expected_calibration_error(np.sqrt(sure), right) > 0.1


def test_brier_and_likelihood_by_hand() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]
    assert brier_each(probabilities, [0, 1]) == pytest.approx([0.09 + 0.04 + 0.01, 0.01 + 0.81 + 0.64])
    assert likelihood_each(probabilities, [0, 1]) == pytest.approx([-math.log(0.7), -math.log(0.1)])
    # Of two classes one probability says all: the square is half of the sum over both.
    assert brier_score([0.8, 0.3], [1, 0]) == pytest.approx(brier_score([[0.2, 0.8], [0.7, 0.3]], [1, 0]) / 2)
    assert negative_log_likelihood([0.8, 0.3], [1, 0]) == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)
    assert brier_score([[1, 0]], [0]) == negative_log_likelihood([[1, 0]], [0]) == 0
    assert negative_log_likelihood([[1, 0]], [1]) == math.inf


def test_scikit_learn_agrees() -> None:
    draw = np.random.default_rng(3)
    probabilities, truths = draw.dirichlet(np.ones(4), 50), draw.integers(0, 4, 50)
    labels = [0, 1, 2, 3]
    theirs = brier_score_loss(truths, probabilities, labels=labels, scale_by_half=False)
    assert brier_score(probabilities, truths) == pytest.approx(theirs)
    assert negative_log_likelihood(probabilities, truths) == pytest.approx(
        log_loss(truths, probabilities, labels=labels)
    )
    sure = draw.random(50)
    assert brier_score(sure, truths % 2) == pytest.approx(brier_score_loss(truths % 2, sure))


def test_figures_of_resampled_rows() -> None:
    draw = np.random.default_rng(5)
    sure, right = draw.random(40), draw.random(40) < 0.5
    places = draw.integers(0, 40, (7, 40))
    sums = calibration_each(sure, right)[places].sum(1)
    expected = [expected_calibration_error(sure[each], right[each]) for each in places]
    assert calibration_figure(sums) == pytest.approx(expected)


def test_refusals() -> None:
    for figure in (expected_calibration_error, reliability, brier_score, negative_log_likelihood):
        with pytest.raises(DataError, match="no probabilities"):
            figure([], [])
        with pytest.raises(DataError, match="do not pair up"):
            figure([0.5], [1, 0])
        with pytest.raises(DataError, match="no probability"):
            figure([1.5], [1])
        with pytest.raises(DataError, match="nan is no probability"):
            figure([math.nan], [1])
    with pytest.raises(DataError, match=r"example 1 sum to 0\.9"):
        brier_score([[0.5, 0.5], [0.5, 0.4]], [0, 1])
    with pytest.raises(DataError, match="outside of the 2 classes"):
        negative_log_likelihood([[0.5, 0.5]], [2])
    with pytest.raises(DataError, match="neither right nor wrong"):
        expected_calibration_error([0.5], [0.5])
    with pytest.raises(DataError, match="0 bins"):
        expected_calibration_error([0.5], [1], 0)
