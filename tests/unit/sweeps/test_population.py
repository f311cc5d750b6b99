"""Populations: who goes on, who takes over from whom, and how settings change."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmyard.sweeps.config import Searching
from llmyard.sweeps.population import Later
from llmyard.sweeps.searchers import planned, proposer
from llmyard.sweeps.trial import Trial

SPACE = {
    "optimizer.learning_rate": "loguniform(1e-4, 1e-1)", "optimizer.weight_decay": "uniform(0, 0.5, 0.1)",
    "batch.size": "choice(8, 16, 32)",
}  # fmt: skip


def config(**fields: Any) -> Searching:
    search = {"kind": "pbt", "population": 4, "generations": 3, "resample": 0.0, **fields.pop("search", {})}
    return Searching.model_validate({
        "space": SPACE, "objective": {"metric": "loss"}, "search": search, **fields,
    })  # fmt: skip


def ended(number: int, values: dict[str, Any], loss: float | None, **fields: Any) -> Trial:
    metrics = {} if loss is None else {"loss": loss}
    state = "finished" if loss is not None else "failed"
    artifact = f"checkpoint/member-{number}@1" if loss is not None else ""
    return Trial(number, values, state, metrics=metrics, artifact=artifact, **fields)


def generation(searching: Searching, losses: list[float | None], first: int = 0) -> list[Trial]:
    own = proposer(searching)
    known: list[Trial] = []
    for place, loss in enumerate(losses):
        values = own.propose(first + place, known)
        assert values is not None
        known.append(ended(first + place, values, loss))
    return known


def test_the_best_go_on_and_the_worst_take_over() -> None:
    searching = config()
    first = generation(searching, [3.0, 1.0, 2.0, 4.0])
    own = proposer(searching)
    second = [own.propose(number, first) for number in range(4, 8)]
    inits = [each["init"] for each in second if each is not None]
    assert inits == [f"checkpoint/member-{number}@1" for number in (0, 1, 2, 1)]
    for place in range(3):
        assert second[place] == {**first[place].values, "init": inits[place], "model": None}
    moved, source = second[3], first[1].values
    assert moved is not None
    ratio = moved["optimizer.learning_rate"] / source["optimizer.learning_rate"]
    at_edge = moved["optimizer.learning_rate"] in (pytest.approx(1e-4), pytest.approx(1e-1))
    assert at_edge or ratio in (pytest.approx(1.25), pytest.approx(0.8))
    assert abs(moved["optimizer.weight_decay"] - source["optimizer.weight_decay"]) <= 0.1 + 1e-9
    assert moved["batch.size"] in (8, 16, 32)


def test_a_generation_waits_for_the_one_before() -> None:
    searching = config()
    first = generation(searching, [3.0, 1.0, 2.0, 4.0])
    first[2] = Trial(2, first[2].values)
    with pytest.raises(Later):
        proposer(searching).propose(4, first)
    with pytest.raises(Later):
        proposer(searching).propose(8, generation(searching, [3.0, 1.0, 2.0, 4.0]))
    assert planned(searching) == 12


def test_failures_and_figures_that_are_no_numbers_take_over_from_the_best() -> None:
    searching = config()
    first = generation(searching, [None, 1.0, 2.0, 3.0])
    first[3] = ended(3, first[3].values, math.nan)
    own = proposer(searching)
    inits = [(own.propose(number, first) or {})["init"] for number in range(4, 8)]
    assert inits == [f"checkpoint/member-{number}@1" for number in (1, 1, 2, 1)]
    assert proposer(searching).propose(4, generation(searching, [None] * 4)) is None
    assert proposer(searching).propose(12, first) is None


@given(st.permutations([1.0, 2.0, 3.0, 4.0]), st.integers(0, 100), st.floats(0, 1))
def test_the_same_trials_lead_to_the_same_member_inside_the_space(
    losses: list[float], seed: int, chance: float
) -> None:
    searching = config(seed=seed, search={"resample": chance})
    first = generation(searching, list(losses))
    for number in range(4, 8):
        found = proposer(searching).propose(number, first)
        assert found == proposer(searching).propose(number, list(reversed(first)))
        assert found is not None
        assert 1e-4 * 0.999 <= found["optimizer.learning_rate"] <= 1e-1 * 1.001
        assert 0 <= found["optimizer.weight_decay"] <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stopping": {"kind": "asha", "grace_steps": 2}}, "without `stopping`"),
        ({"seeds": 2}, "without `seeds`"),
        ({"also": [{"metric": "parameters"}]}, "without `also`"),
        ({"space": {"model.layers": "choice(1, 2)"}}, "model.layers cannot change"),
    ],
)
def test_what_a_population_cannot_do_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**fields)
