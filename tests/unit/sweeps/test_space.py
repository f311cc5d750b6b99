"""What can be tried: independent draws, every combination, and where a value lies."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmyard.core.errors import RequestError
from llmyard.sweeps.config import Dimension, Searching
from llmyard.sweeps.space import (
    Grid,
    active,
    at_share,
    at_step,
    drawn,
    key_of,
    share_of,
    size,
    step_of,
    steps,
    unit,
)

PARENT = Dimension(kind="choice", choices=("adamw", "muon", None, [1, 2]))
CONDITIONS: list[dict[str, Any]] = [{}, {"parent": "muon"}, {"parent": [1, 2]}, {"parent": None, "second": True}]


def _space(**dimensions: Any) -> dict[str, Dimension]:
    return dict(
        Searching.model_validate(
            {"space": dimensions, "objective": {"metric": "loss"}, "search": {"kind": "grid"}}
        ).space
    )


@st.composite
def _dimensions(draw: st.DrawFn, finite: bool = False) -> Dimension:
    kind = draw(st.sampled_from(["choice", "int", "uniform", "logint", *([] if finite else ["loguniform"])]))
    if kind == "choice":
        values: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.just([1, 2]))
        return Dimension(kind=kind, choices=tuple(draw(st.lists(values, min_size=1, max_size=4))))
    if kind in ("int", "logint"):
        low = draw(st.integers(1 if kind == "logint" else -20, 20))
        step = draw(st.none() | st.integers(1, 6)) if kind == "int" else None
        return Dimension(kind=kind, low=low, high=low + draw(st.integers(0, 5)), step=step)
    least = draw(st.integers(1 if kind == "loguniform" else -20, 20)) / 10
    most = least + draw(st.integers(0, 12)) / 10
    apart = draw(st.sampled_from([0.1, 0.25, 0.3] if finite else [None, 0.1, 0.25]))
    return Dimension(kind=kind, low=least, high=most, step=apart if kind == "uniform" else None)


@st.composite
def _spaces(draw: st.DrawFn, finite: bool = False) -> dict[str, Dimension]:
    found = {"parent": PARENT, "second": Dimension(kind="choice", choices=(True, 1))}
    for at, each in enumerate(draw(st.lists(_dimensions(finite=finite), max_size=3))):
        found[f"d{at}"] = each.model_copy(update={"when": draw(st.sampled_from(CONDITIONS))})
    return {path: found[path] for path in draw(st.permutations(list(found)))}


def _belongs(dimension: Dimension, value: Any) -> bool:
    if dimension.kind == "choice":
        return any(key_of(value) == key_of(each) for each in dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if not dimension.low <= value <= dimension.high:
        return False
    if dimension.kind in ("int", "logint") and type(value) is not int:
        return False
    if dimension.step is None:
        return True
    hops = (value - dimension.low) / dimension.step
    return bool(abs(hops - round(hops)) < 1e-9)


def _is_a_setting(space: dict[str, Dimension], values: dict[str, Any]) -> bool:
    return list(values) == active(space, values) and all(_belongs(space[path], each) for path, each in values.items())


@settings(deadline=None)
@given(_spaces(), st.integers(-(2**70), 2**70), st.integers(0, 10**9))
def test_a_random_trial_has_values_of_the_space_and_those_whose_condition_holds(
    space: dict[str, Dimension], seed: int, number: int
) -> None:
    values = drawn(space, seed, number)
    assert _is_a_setting(space, values)
    assert values == drawn(space, seed, number)


@settings(deadline=None)
@given(_spaces(), st.integers(0, 100), st.randoms())
def test_a_draw_depends_on_neither_the_order_nor_the_other_dimensions(
    space: dict[str, Dimension], number: int, random: Any
) -> None:
    values = drawn(space, 7, number)
    paths = list(space)
    random.shuffle(paths)
    assert drawn({path: space[path] for path in paths}, 7, number) == values
    only = {path: each for path, each in space.items() if not each.when}
    assert drawn(only, 7, number) == {path: values[path] for path in only}


def test_draws_differ_by_seed_number_attempt_and_path() -> None:
    space = _space(a="uniform(0, 1)", b="uniform(0, 1)")
    found = [drawn(space, seed, number, again) for seed in (0, 1) for number in (0, 1, 2) for again in (0, 1)]
    assert len({value for values in found for value in values.values()}) == 24


@pytest.mark.parametrize(
    ("short", "shares"),
    [
        ("choice(a, b, c, d)", dict.fromkeys("abcd", 0.25)),
        ("int(3, 9, 3)", dict.fromkeys((3, 6, 9), 1 / 3)),
        ("uniform(0.1, 0.4, 0.1)", dict.fromkeys((0.1, 0.2, 0.3, 0.4), 0.25)),
        ("logint(1, 4)", {n: math.log((n + 0.5) / (n - 0.5)) / math.log(9) for n in (1, 2, 3, 4)}),
    ],
)
def test_steps_are_drawn_as_often_as_is_said(short: str, shares: dict[Any, float]) -> None:
    space, count = _space(x=short), 4000
    found = Counter(drawn(space, 5, number)["x"] for number in range(count))
    assert found.keys() == shares.keys()
    for value, share in shares.items():
        assert abs(found[value] / count - share) < 4 * math.sqrt(share / count)


@pytest.mark.parametrize("short", ["uniform(-2, 3)", "loguniform(1e-5, 1e-1)", "logint(1, 1000000)"])
def test_draws_are_even_on_their_own_scale(short: str) -> None:
    space = _space(x=short)
    found = sorted(share_of(space["x"], drawn(space, 0, number)["x"]) for number in range(2000))
    tolerance = 0.04 if not short.startswith("logint") else 0.06  # 1 alone is a twelfth of its range
    assert max(abs(at / 2000 - share) for at, share in enumerate(found)) < tolerance


@settings(max_examples=40, deadline=None)
@given(_spaces(), st.integers(1, 4))
def test_a_grid_has_each_combination_once_and_only_settings(space: dict[str, Dimension], points: int) -> None:
    grid = Grid(space, points)
    found = list(grid)
    assert len(found) == grid.size
    assert len({key_of(values) for values in found}) == grid.size
    assert all(_is_a_setting(space, values) for values in found)
    assert len({key_of([values["parent"], values["second"]]) for values in found}) == 8


@settings(max_examples=40, deadline=None)
@given(_spaces(finite=True))
def test_size_is_the_number_of_settings_that_draws_come_from(space: dict[str, Dimension]) -> None:
    grid = Grid(space)
    every = {key_of(values) for values in grid}
    assert size(space) == grid.size == len(every)
    assert {key_of(drawn(space, 1, number)) for number in range(20)} <= every
    with pytest.raises(IndexError):
        grid.values(grid.size)


def test_the_first_dimension_of_a_grid_varies_slowest_and_conditional_ones_fastest() -> None:
    space = _space(
        momentum={"search": "choice(0.8, 0.9)", "when": {"kind": "muon"}},
        kind="choice(adamw, muon)",
        depth="int(1, 2, 1)",
    )
    assert list(Grid(space, 5)) == [
        {"kind": "adamw", "depth": 1},
        {"kind": "adamw", "depth": 2},
        {"kind": "muon", "depth": 1, "momentum": 0.8},
        {"kind": "muon", "depth": 1, "momentum": 0.9},
        {"kind": "muon", "depth": 2, "momentum": 0.8},
        {"kind": "muon", "depth": 2, "momentum": 0.9},
    ]


@pytest.mark.parametrize(
    ("short", "points", "values"),
    [
        ("loguniform(1e-4, 1e-2)", 3, [1e-4, 1e-3, 1e-2]),
        ("uniform(0, 1)", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("uniform(0, 1)", 1, [0.5]),
        ("loguniform(0.01, 1)", 1, [0.1]),
        ("uniform(0.1, 0.3, 0.1)", 2, [0.1, 0.2, 0.3]),
        ("uniform(0, 1, 0.4)", 2, [0, 0.4, 0.8]),
        ("int(1, 3)", 5, [1, 2, 3]),
        ("int(0, 100)", 3, [0, 50, 100]),
        ("int(0, 5, 2)", 2, [0, 2, 4]),
        ("logint(1, 100)", 3, [1, 10, 100]),
        ("logint(1, 12)", 6, [1, 2, 3, 4, 7, 12]),
        ("logint(2, 6)", 5, [2, 3, 4, 5, 6]),
        ("choice(b, a, b)", 1, ["b", "a"]),
        ("uniform(2, 2)", 3, [2]),
    ],
)
def test_values_of_a_grid_are_evenly_apart_on_their_own_scale(short: str, points: int, values: list[Any]) -> None:
    found = [each["x"] for each in Grid(_space(x=short), points)]
    assert found == (values if isinstance(values[0], str) else pytest.approx(values))
    assert (found[0], found[-1]) == (values[0], values[-1]) or points == 1


def test_a_large_grid_is_not_written_out() -> None:
    space = _space(
        **{f"d{at}": "int(1, 1000000, 1)" for at in range(6)},
        **{f"p{at}": "choice(a, b)" for at in range(20)},
        **{f"c{at}": {"search": "int(1, 10, 1)", "when": {f"p{at}": "a"}} for at in range(20)},
    )
    assert size(space) == 10**36 * 11**20
    grid = Grid(space)
    last = grid.values(grid.size - 1)
    assert last == {**{f"d{at}": 1000000 for at in range(6)}, **{f"p{at}": "b" for at in range(20)}}


def test_a_combination_that_is_not_known_is_found_until_all_are() -> None:
    grid = Grid(_space(x="choice(1, 2, 3)", y="choice(a, b)"))
    known: set[str] = set()
    for _ in range(6):
        found = grid.another(known, 4)
        assert found is not None
        assert key_of(found) not in known
        known.add(key_of(found))
    assert grid.another(known, 4) is None


def test_a_space_with_values_without_gaps_has_settings_without_number() -> None:
    assert size(_space(x="uniform(0, 1)", y="int(1, 2)")) is None
    assert size(_space(x="choice(1, 1.0, true, [1, 2])")) == 3
    with pytest.raises(RequestError, match="x has no steps"):
        Grid(_space(x="uniform(0, 1)"))


@settings(deadline=None)
@given(_dimensions(finite=True).filter(lambda each: each.kind != "choice"))
@example(Dimension(kind="uniform", low=0.1, high=0.3, step=0.1))
@example(Dimension(kind="int", low=-3, high=4, step=7))
def test_steps_are_told_by_their_values_and_do_not_leave_the_bounds(dimension: Dimension) -> None:
    count = steps(dimension)
    assert count is not None
    found = [at_step(dimension, index) for index in range(count)]
    assert [step_of(dimension, each) for each in found] == list(range(count))
    assert all(_belongs(dimension, each) for each in found)
    assert found == sorted(set(found))
    assert dimension.high is not None
    assert found[-1] + (dimension.step or 1) > dimension.high - 1e-9 or count == 1


@settings(deadline=None)
@given(_dimensions(), st.floats(0, 1))
def test_places_go_from_0_to_1_and_shares_lead_back(dimension: Dimension, share: float) -> None:
    if dimension.kind == "choice":
        places = [unit(dimension, each) for each in dimension.choices]
        assert all(0 <= each <= 1 for each in places)
        return
    value = at_share(dimension, share)
    assert _belongs(dimension.model_copy(update={"step": None}), value)
    assert at_share(dimension, share_of(dimension, value)) == pytest.approx(value)
    assert 0 <= unit(dimension, value) <= 1
    ends = unit(dimension, dimension.low), unit(dimension, dimension.high)
    assert ends == ((0.5, 0.5) if dimension.low == dimension.high else (0, 1))


def test_places_follow_the_scale() -> None:
    assert unit(Dimension(kind="loguniform", low=1e-4, high=1), 1e-3) == pytest.approx(0.25)
    assert unit(Dimension(kind="uniform", low=-1e308, high=1e308), 0) == 0.5
    assert unit(Dimension(kind="int", low=0, high=4), 9) == 1
    assert [unit(PARENT, each) for each in PARENT.choices] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert unit(Dimension(kind="choice", choices=("a",)), "a") == 0.5
    with pytest.raises(RequestError, match="'sgd' is none of the choices"):
        unit(PARENT, "sgd")


def test_one_and_true_are_two_settings_but_one_and_one_point_nought_are_not() -> None:
    space = {"parent": Dimension(kind="choice", choices=(1, True)), "x": Dimension(kind="int", low=1, high=2)}
    space["x"] = space["x"].model_copy(update={"when": {"parent": 1.0}})
    assert active(space, {"parent": 1}) == ["parent", "x"]
    assert active(space, {"parent": True}) == active(space, {}) == ["parent"]
    assert key_of({"b": (1, 2), "a": 1.0}) == key_of({"a": 1, "b": [1, 2]})
