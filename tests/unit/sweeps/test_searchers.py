"""Which setting is tried next, and which of its dimensions matter."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import RequestError
from llmyard.sweeps.config import Searching
from llmyard.sweeps.searchers import importance, proposer
from llmyard.sweeps.space import active, drawn, key_of, size
from llmyard.sweeps.trial import Report, State, Trial

Values = dict[str, Any]
KINDS = ("random", "optuna")
STATES: tuple[State, ...] = ("running", "finished", "pruned", "failed")
MIXED: Values = {
    "lr": "loguniform(1e-5, 1e-1)",
    "decay": "uniform(0.1, 0.3, 0.1)",
    "layers": "int(2, 24, 2)",
    "width": "logint(1, 4096)",
    "kind": {"kind": "choice", "choices": ["adamw", "muon", None, [1, 2], {"a": 1}]},
    "momentum": {"search": "uniform(0, 1)", "when": {"kind": "muon"}},
    "nesterov": {"search": "choice(true, false)", "when": {"kind": [1, 2]}},
}
FINITE: Values = {
    "kind": "choice(a, b, c)",
    "layers": "int(1, 3)",
    "momentum": {"search": "uniform(0, 1, 0.5)", "when": {"kind": "b"}},
}
SQUARE: Values = {"x": "uniform(-5, 5)", "y": "uniform(-5, 5)"}


def _config(space: Values, kind: str = "optuna", **more: Any) -> Searching:
    return Searching.model_validate(
        {"space": space, "objective": {"metric": "loss"}, "search": {"kind": kind}, "budget": {"trials": 9}, **more}
    )


def _ended(trial: Trial, state: State, **metrics: float) -> Trial:
    reports = tuple(Report(step, metrics) for step in (10, 20)) if metrics else ()
    return replace(trial, state=state, reports=reports, metrics=metrics)


def _cost(values: Values) -> float:
    rate: float = abs(math.log10(values.get("lr", 1e-3)) + 3)
    return rate + float(values.get("decay", 0)) + (values["kind"] in ("muon", "b")) + int(values["layers"]) / 24


def _searched(config: Searching, trials: int, cost: Callable[[Values], float]) -> list[Trial]:
    """Returns finished trials, each proposed when all before had ended."""
    found: list[Trial] = []
    searcher = proposer(config)
    for number in range(trials):
        values = searcher.propose(number, found)
        assert values is not None
        found.append(_ended(Trial(number, values), "finished", loss=cost(values)))
    return found


def _history(config: Searching, trials: int, slots: int = 6) -> list[list[Trial]]:
    """Returns what was known before each trial of a sweep in which several ran at once and some went wrong."""
    found: list[Trial] = []
    known = []
    searcher = proposer(config)
    for number in range(trials):
        known.append(list(found))
        values = searcher.propose(number, found)
        assert values is not None
        found.append(Trial(number, values))
        running = [each for each in found if each.state == "running"]
        if len(running) > slots:
            one = running[number * 7 % len(running)]
            state = ("finished", "finished", "pruned", "pruned", "failed")[number % 5]
            figure = math.nan if number % 7 == 0 else _cost(dict(one.values))
            found[one.number] = _ended(one, state, loss=figure)  # type: ignore[arg-type]
    known.append(list(found))
    return known


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_are_settings_and_conditional_ones_come_only_under_their_condition(kind: str) -> None:
    config = _config(MIXED, kind)
    seen: dict[str, set[str]] = {path: set() for path in MIXED}
    for trial in _history(config, 60)[-1]:
        values = dict(trial.values)
        assert list(values) == active(config.space, values)
        for path, value in values.items():
            dimension = config.space[path]
            if dimension.kind == "choice":
                assert value in dimension.choices
            else:
                assert dimension.low is not None
                assert dimension.high is not None
                assert dimension.low <= value <= dimension.high
                assert type(value) is (int if dimension.kind in ("int", "logint") else float)
            seen[path].add(key_of(value))
        assert values["decay"] in (0.1, 0.2, 0.3)
        assert values["layers"] % 2 == 0
        assert json.loads(trial.to_json())["values"] == values
    assert all(len(found) > bool(not config.space[path].when) for path, found in seen.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [MIXED, {**FINITE, "steps": "int(1, 50)"}], ids=["mixed", "finite"])
def test_a_restarted_search_goes_on_as_the_one_before(kind: str, space: Values) -> None:
    config = _config(space, kind, seed=5)
    known = _history(config, 45)
    for number in (0, 3, 12, 25, 40, 44):
        told = [Trial.from_json(each.to_json()) for each in known[number]][::-1]
        assert proposer(config).propose(number, told) == known[-1][number].values
    assert proposer(config).propose(40, known[40] + known[-1][40:]) == known[-1][40].values  # later ones play no part


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(STATES), st.floats(-9, 9) | st.just(math.nan)), max_size=14), st.integers(0, 13)
)
def test_whatever_it_was_told_before_the_same_trials_lead_to_the_same_values(
    ends: list[tuple[State, float]], changed: int
) -> None:
    config = _config(MIXED, search={"kind": "optuna", "startup_trials": 2})
    trials = [
        _ended(Trial(number, drawn(config.space, 0, number)), state, loss=figure)
        for number, (state, figure) in enumerate(ends)
    ]
    wanted = proposer(config).propose(len(trials), trials)
    searcher = proposer(config)
    other = [each for each in trials if each.number != changed]
    searcher.propose(len(trials), [replace(each, state="running") for each in other])
    searcher.propose(len(trials), [_ended(each, "finished", loss=1.0) for each in trials])
    assert searcher.propose(len(trials), trials) == wanted
    assert searcher.propose(len(trials), trials) == wanted  # nor does it matter how often it was asked


def test_another_process_proposes_the_same() -> None:
    config = _config(MIXED)
    known = _history(config, 25)[-1]
    code = (
        "import sys, json\n"
        "from llmyard.sweeps.config import Searching\n"
        "from llmyard.sweeps.searchers import proposer\n"
        "from llmyard.sweeps.trial import Trial\n"
        "config, trials = json.load(sys.stdin)\n"
        "found = proposer(Searching.model_validate(config)).propose(25, [Trial.from_json(each) for each in trials])\n"
        "sys.stdout.write(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([config.model_dump(mode="json"), [each.to_json() for each in known]]),
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == proposer(config).propose(25, known)
    assert done.stderr == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["finished", "failed"])
def test_of_a_finite_space_each_setting_comes_once(kind: str, state: State) -> None:
    config = _config(FINITE, kind)
    count = size(config.space)
    assert count == 15
    trials: list[Trial] = []
    searcher = proposer(config)
    for number in range(count):
        values = searcher.propose(number, trials)
        assert values is not None
        trials.append(_ended(Trial(number, values), state, loss=float(number)))
    assert len({key_of(each.values) for each in trials}) == count
    assert searcher.propose(count, trials) is None
    assert proposer(config).propose(count, trials) is None


def test_a_random_trial_depends_on_nothing_but_its_number_where_nothing_repeats() -> None:
    config = _config(MIXED, "random", seed=4)
    trials = _history(config, 20)[-1]
    assert [each.values for each in trials] == [drawn(config.space, 4, number) for number in range(20)]
    assert proposer(config).propose(7, []) == trials[7].values


def test_a_grid_goes_through_its_combinations_whatever_came_of_them() -> None:
    config = _config({"x": "uniform(0, 1)", "y": "choice(a, b)"}, search={"kind": "grid", "points": 3}, budget=None)
    searcher = proposer(config)
    found = [searcher.propose(number, []) for number in range(7)]
    assert found == [*({"x": x, "y": y} for x in (0.0, 0.5, 1.0) for y in ("a", "b")), None]


def test_densities_find_more_than_chance_in_a_simple_valley() -> None:
    def best(kind: str, seed: int) -> float:
        config = _config(SQUARE, kind, seed=seed)
        trials = _searched(config, 60, lambda values: (values["x"] - 1.5) ** 2 + (values["y"] + 2) ** 2)
        return min(each.metrics["loss"] for each in trials)

    by_densities, by_chance = (median(best(kind, seed) for seed in range(5)) for kind in ("optuna", "random"))
    assert by_densities < 0.6 * by_chance


@pytest.mark.parametrize("mode", ["min", "max"])
def test_densities_go_where_the_objective_is_good(mode: str) -> None:
    config = _config({"x": "uniform(0, 1)"}, objective={"metric": "loss", "mode": mode})
    trials = _searched(config, 40, lambda values: values["x"])
    late = median(each.values["x"] for each in trials[25:])
    assert late < 0.3 if mode == "min" else late > 0.7


def _proposed(config: Searching, trials: Sequence[Trial], count: int = 25) -> list[float]:
    """Returns the first values of the next trials, each proposed as if it were the only one."""
    found = (proposer(config).propose(number, trials) for number in range(len(trials), len(trials) + count))
    return [values["x"] for values in found if values]


def _line(config: Searching, end: Callable[[Trial], Trial]) -> list[Trial]:
    return [end(Trial(number, {"x": number / 19})) for number in range(20)]


def test_pruned_trials_and_those_that_diverged_are_kept_away_from() -> None:
    config = _config({"x": "uniform(0, 1)"})

    def end(bad: Callable[[Trial], Trial]) -> list[Trial]:
        good = _line(config, lambda each: _ended(each, "finished", loss=abs(each.values["x"] - 0.4)))
        return [bad(each) if each.values["x"] > 0.5 else each for each in good]

    for bad in (
        lambda each: _ended(each, "pruned", loss=math.nan),
        lambda each: _ended(each, "pruned"),
        lambda each: _ended(each, "finished", accuracy=1.0),
        lambda each: _ended(each, "pruned", loss=9.0),
    ):
        assert median(_proposed(config, end(bad))) < 0.5


def test_with_pruned_trials_alone_it_goes_by_their_last_figures() -> None:
    config = _config({"x": "uniform(0, 1)"})
    trials = _line(config, lambda each: _ended(each, "pruned", loss=(each.values["x"] - 0.8) ** 2))
    assert abs(median(_proposed(config, trials)) - 0.8) < 0.15
    worst = [_ended(each, "pruned", loss=math.inf) if each.values["x"] > 0.7 else each for each in trials]
    assert median(_proposed(config, worst)) < 0.7


def test_running_trials_drive_the_next_ones_away() -> None:
    config = _config({"x": "uniform(0, 1)"})
    trials = _line(config, lambda each: _ended(each, "finished", loss=abs(each.values["x"] - 0.5)))
    alone = median(abs(x - 0.5) for x in _proposed(config, trials))
    crowd = [Trial(20 + at, {"x": 0.49 + at / 1000}) for at in range(21)]
    assert median(abs(x - 0.5) for x in _proposed(config, [*trials, *crowd])) > alone


def test_several_objectives_draw_towards_their_front() -> None:
    config = _config(SQUARE, also=[{"metric": "speed", "mode": "max"}], search={"kind": "optuna", "startup_trials": 5})
    trials: list[Trial] = []
    searcher = proposer(config)
    for number in range(60):
        values = searcher.propose(number, trials)
        assert values is not None
        figures = {"loss": values["x"] ** 2 + values["y"] ** 2, "speed": -((values["x"] - 2) ** 2) - values["y"] ** 2}
        trials.append(Trial(number, values))
        if number % 9 == 1:
            trials[-1] = _ended(trials[-1], "pruned", loss=math.nan, speed=1.0)
        elif number > 1:
            trials[-2] = _ended(trials[-2], "finished", **figures) if trials[-2].state == "running" else trials[-2]
            trials[-1] = _ended(trials[-1], "finished", **figures)
    assert median(abs(each.values["y"]) for each in trials[40:]) < 1.5  # the front lies at y = 0, x from 0 to 2
    assert proposer(config).propose(60, trials) == searcher.propose(60, trials)


def test_optuna_neither_warns_nor_writes(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trials = _history(_config(MIXED), 30)[-1]
        importance(_config(MIXED), trials)
    assert capfd.readouterr() == ("", "")


def test_a_choice_that_the_space_does_not_hold_is_refused() -> None:
    with pytest.raises(RequestError, match="'z' is none of the choices"):
        proposer(_config(FINITE)).propose(1, [Trial(0, {"kind": "z", "layers": 1})])


def test_what_decides_is_important() -> None:
    config = _config({**MIXED, "fixed": "choice(1)"}, "random")
    trials = _searched(config, 60, lambda values: (math.log10(values["lr"]) + 3) ** 2 + values["decay"])
    found = importance(config, trials)
    assert set(found) == set(MIXED) - {"momentum", "nesterov"} | {"fixed"}  # no condition held in all trials
    assert next(iter(found)) == "lr"
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found["lr"] > 0.5
    assert found["fixed"] == 0
    assert sum(found.values()) <= 1 + 1e-9
    assert found == importance(config, [*trials, Trial(60, {}), _ended(Trial(61, {}), "finished", loss=math.nan)])


def test_of_few_or_equal_trials_no_importance_is_said() -> None:
    config = _config(SQUARE, "random")
    trials = _searched(config, 6, lambda values: values["x"])
    assert importance(config, trials[:3]) == importance(config, []) == {}
    assert importance(config, _searched(config, 6, lambda values: 1.0)) == {}
    assert importance(config, [_ended(each, "pruned", loss=1.0) for each in trials]) == {}
    assert importance(config, trials[:4])


def test_the_importance_of_the_first_of_several_objectives_is_said() -> None:
    config = _config(SQUARE, "random", also=[{"metric": "speed"}])
    trials = [
        _ended(each, "finished", loss=each.values["y"], speed=each.values["x"])
        for each in _searched(_config(SQUARE, "random"), 30, lambda values: 0.0)
    ]
    assert next(iter(importance(config, trials))) == "y"
