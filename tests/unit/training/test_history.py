"""A history stays small however long the run is, and is the same after a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.training.history import MOST_POINTS, MOST_ROWS, History


def metrics(loss: float, norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "gradient_norm": norm, "learning_rate": 1e-3, "tokens_per_second": 100.0}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=5 * MOST_POINTS))
def test_points_are_bounded_and_none_of_the_losses_is_lost(losses: list[float]) -> None:
    history = History()
    for step, loss in enumerate(losses, start=1):
        history.log(step, metrics(loss))
    assert len(history.points) <= MOST_POINTS
    assert sum(point.logged for point in history.points) == len(losses)
    assert history.points[-1].step == len(losses)
    assert sorted({point.step for point in history.points}) == [point.step for point in history.points]
    mean = sum(point.loss * point.logged for point in history.points) / len(losses)
    assert mean == pytest.approx(sum(losses) / len(losses), rel=1e-9)
    assert min(point.least for point in history.points) == min(losses)
    assert max(point.most for point in history.points) == max(losses)


def test_a_long_history_is_the_same_after_a_checkpoint_and_goes_on_alike() -> None:
    history = History()
    for step in range(1, 3210):
        history.log(step, metrics(1.0 / step))
    history.evaluated(100, {"validation_loss": 1.5, "validation_loss/新闻": 1.25})
    history.happened(7, "skip", "the gradient norm is a spike (12)")
    history.wrote(50, [("春眠", "不觉晓"), ("Once", "upon a time")])
    history.looked(30, {"gradients/h/00": 0.5})
    again = History.of(json.loads(json.dumps(history.state())))
    assert again.events == history.events
    assert again.samples == history.samples
    assert again.evaluations == history.evaluations
    assert again.layers == history.layers
    for each in (history, again):
        for step in range(3210, 4000):
            each.log(step, metrics(1.0))
    assert [point.step for point in again.points] == [point.step for point in history.points]
    assert [point.loss for point in again.points] == pytest.approx([point.loss for point in history.points], rel=1e-5)
    assert History.of({}).points == []


def test_going_back_forgets_the_curve_behind_but_not_what_happened() -> None:
    history = History()
    for step in range(1, 11):
        history.log(step, metrics(2.0))
    history.evaluated(10, {"validation_loss": 2.0})
    history.wrote(10, [("a", "b")])
    history.happened(10, "roll_back", "the loss is high")
    history.go_back(4)
    assert [point.step for point in history.points] == [1, 2, 3, 4]
    assert not history.evaluations
    assert not history.samples
    assert [event.kind for event in history.events] == ["roll_back"]


def test_what_is_not_finite_is_no_point() -> None:
    history = History()
    history.log(1, metrics(math.nan))
    history.log(2, metrics(1.0, math.inf))
    history.log(3, metrics(1.0))
    assert [point.step for point in history.points] == [3]


def test_rows_are_thinned_out_and_the_newest_stays() -> None:
    history = History()
    for step in range(3000):
        history.evaluated(step, {"validation_loss": 1.0})
        history.wrote(step, [("p", "t"), ("q", "u")])
        history.looked(step, {"gradients/h/00": 1.0})
        history.happened(step, "skip", "spike")
    assert len(history.evaluations) <= MOST_ROWS
    assert len(history.events) <= MOST_ROWS
    assert len(history.samples) <= MOST_ROWS
    assert history.evaluations[-1][0] == history.samples[-1][0] == history.layers[-1][0] == 2999
    assert history.evaluations[0][0] == 0
    assert all(sum(row[0] == step for row in history.samples) == 2 for step, *_ in history.samples)
    assert len(json.dumps(history.state())) < 200_000
