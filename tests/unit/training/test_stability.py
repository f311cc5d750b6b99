"""Decisions about steps that went wrong, made without training anything."""

from __future__ import annotations

import math
import random

import pytest

from llmyard.training.config import Stability
from llmyard.training.stability import Decision, EarlyStopping, Seen, Verdict, Watch, robust_score

CONFIG = Stability(window=20, max_skips=2, max_high_losses=3, max_roll_backs=1)


def settled(config: Stability = CONFIG) -> Watch:
    watch, draw = Watch(config), random.Random(1)
    for step in range(1, 41):
        verdict = watch.judge(Seen(step, 3.0 - step / 100 + draw.gauss(0, 0.02), 1.0 + draw.gauss(0, 0.1)))
        assert verdict == Verdict(Decision.PROCEED)
    return watch


def decide(watch: Watch, loss: float = 2.6, norm: float = 1.0) -> Decision:
    return watch.judge(Seen(50, loss, norm)).decision


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.6, math.nan), (2.6, math.inf)])
def test_what_is_not_finite_is_passed_over_from_the_first_step_on(loss: float, norm: float) -> None:
    assert decide(Watch(CONFIG), loss, norm) is Decision.SKIP
    assert decide(settled(), loss, norm) is Decision.SKIP


def test_one_spike_is_passed_over_and_leaves_no_trace() -> None:
    watch = settled()
    verdict = watch.judge(Seen(41, 2.6, 40.0))
    assert verdict.decision is Decision.SKIP
    assert verdict.value == 40.0
    assert verdict.usual == pytest.approx(1.0, abs=0.1)
    assert decide(watch) is Decision.PROCEED
    assert decide(watch, norm=40.0) is Decision.SKIP  # the one before did not widen what is usual


def test_too_many_in_a_row_roll_back_and_then_stop() -> None:
    watch = settled()
    assert [decide(watch, loss=math.nan) for _ in range(3)] == [Decision.SKIP, Decision.SKIP, Decision.ROLL_BACK]
    assert [decide(watch, loss=math.nan) for _ in range(3)] == [Decision.SKIP, Decision.SKIP, Decision.STOP]


def test_a_loss_that_stays_high_rolls_back_and_one_high_loss_does_not() -> None:
    watch = settled()
    assert [decide(watch, loss=9.0) for _ in range(2)] == [Decision.PROCEED] * 2
    assert decide(watch) is Decision.PROCEED
    found = [decide(watch, loss=9.0) for _ in range(4)]
    assert found == [Decision.PROCEED] * 3 + [Decision.ROLL_BACK]


def test_a_falling_loss_and_a_steep_beginning_are_no_spikes() -> None:
    watch = Watch(CONFIG)
    assert {decide(watch, loss=10 * math.exp(-step / 10), norm=8 * math.exp(-step / 20) + 0.5)
            for step in range(200)} == {Decision.PROCEED}  # fmt: skip


def test_a_resumed_watch_decides_as_the_one_before() -> None:
    first = settled()
    decide(first, loss=math.nan)
    second = Watch(CONFIG)
    second.load(first.state())
    for loss, norm in ((math.nan, 1.0), (2.6, 40.0), (9.0, 1.0), (2.6, 1.0), (9.0, 1.0)):
        assert decide(first, loss, norm) is decide(second, loss, norm)
    assert first.state() == second.state()


def test_the_score_is_the_modified_z_score() -> None:
    history = [1.0, 2.0, 3.0, 4.0, 100.0]
    assert robust_score(7.0, history) == pytest.approx((7.0 - 3.0) / (1.4826 * 1.0))  # Iglewicz and Hoaglin 1993
    assert robust_score(1.001, [1.0] * 9) == pytest.approx(0.1)  # a loss that does not move has no spikes


def test_early_stopping_waits_for_its_patience() -> None:
    stopping = EarlyStopping(patience=2, least_gain=0.01)
    assert [stopping.stops(loss) for loss in (3.0, 2.0, 1.995, 1.5, 1.6, 1.7)] == [False] * 5 + [True]
    assert stopping.best == 1.5
