"""Learning rates against their formulas."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from llmyard.training.config import Batch, Schedule
from llmyard.training.schedules import BatchSizes, learning_rate


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_learning_rate_warms_up_and_falls_to_its_final_share(kind: str) -> None:
    schedule = Schedule.model_validate({"kind": kind, "warmup_steps": 4, "final_share": 0.1})
    rates = [learning_rate(step, 0.1, schedule, 14) for step in range(15)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    for step in range(4, 15):
        done = (step - 4) / 10
        fall = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[kind]
        assert rates[step] == pytest.approx(0.1 * (0.1 + 0.9 * fall))
    assert rates[14] == pytest.approx(0.1 if kind == "constant" else 0.01)


def test_warm_up_stable_decay_falls_in_its_last_share_only() -> None:
    schedule = Schedule(kind="wsd", warmup_steps=2, final_share=0.0, decay_share=0.25)
    rates = [learning_rate(step, 1.0, schedule, 20) for step in range(21)]
    assert rates[:2] == pytest.approx([0.5, 1.0])
    assert rates[2:16] == [1.0] * 14
    assert rates[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_the_inverse_square_root_is_the_transformers_formula() -> None:
    schedule = Schedule(kind="inverse_square_root", warmup_steps=40)
    for step in (0, 7, 39, 40, 99, 1000):
        # Vaswani et al. 2017, equation 3, with its peak at 1: the smaller of rise and fall.
        number = step + 1
        assert learning_rate(step, 1.0, schedule, 1) == pytest.approx(min(number / 40, math.sqrt(40 / number)))


def test_a_warm_up_longer_than_the_run_never_exceeds_the_peak() -> None:
    rates = [learning_rate(step, 0.1, Schedule(warmup_steps=50), 10) for step in range(10)]
    assert rates == sorted(rates)
    assert max(rates) <= 0.1


def test_a_batch_grows_in_equal_steps_and_reads_every_micro_batch_once() -> None:
    sizes = BatchSizes(Batch.model_validate({"size": 64, "micro_batch": 4, "ramp": {"start": 16, "steps": 12}}))
    counts = [sizes.count(step) for step in range(20)]
    assert counts == [4] * 4 + [8] * 4 + [12] * 4 + [16] * 8
    assert [sizes.before(step) for step in range(21)] == [sum(counts[:step]) for step in range(21)]
    plain = BatchSizes(Batch(size=64, micro_batch=16))
    assert [plain.count(step) for step in (0, 9)] == [4, 4]
    assert plain.before(10) == 40


@pytest.mark.parametrize("ramp", [{"start": 24, "steps": 3}, {"start": 6, "steps": 3}, {"start": 16, "steps": 0}])
def test_a_ramp_that_does_not_divide_is_refused(ramp: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Batch.model_validate({"size": 64, "micro_batch": 4, "ramp": ramp})
