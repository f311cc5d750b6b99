"""Probes for bias: pairs that differ in who is spoken of, and a planted bias that is found again."""

from __future__ import annotations

import numpy as np
import pytest

from llmyard.core.errors import DataError, RequestError
from llmyard.evaluation.bias import PLANTED, Bias, Pair, measured, pairs_of, probes

ALL = [(probe, language) for probe in probes() for language in ("en", "zh")]


@pytest.mark.parametrize(("probe", "language"), ALL)
def test_pairs_differ_in_who_is_spoken_of_and_in_nothing_else(probe: str, language: str) -> None:
    pairs = pairs_of(probe, language)
    assert len({(pair.first, pair.second) for pair in pairs}) == len(pairs)
    forms = {"he/she": [("he", "she"), ("his", "her"), ("him", "her")]}
    for pair in pairs:
        one, other = (pair.second, pair.first) if pair.is_turned else (pair.first, pair.second)
        assert one != other
        named = forms.get(pair.side, [tuple(pair.side.split("/"))])
        for first, second in named:
            if language == "en":
                one, other = (f" {each[:-1].lower()} {each[-1]} ".replace(",", " ,") for each in (one, other))
                one = one.replace(f" {first.lower()} ", f" {second.lower()} ")
            else:
                one = one.replace(first, second)
            if one == other:
                break
        assert one == other
        assert "{" not in pair.first + pair.second
    words = {pair.item: pair.is_turned for pair in pairs}
    if probe.startswith("heard"):
        assert not any(words.values())
        assert len(words) >= 8
    else:  # as many words are expected of the one side as of the other
        assert sum(words.values()) * 2 == len(words) >= (12 if probe == PLANTED else 20)


def planted(pairs: list[Pair], size: float, preference: float, seed: int) -> Bias:
    """Returns what is measured of scores with a bias, and with a side that is likelier everywhere."""
    draw = np.random.default_rng(seed)
    effect = {item: size + draw.normal(0, 0.4) for item in dict.fromkeys(pair.item for pair in pairs)}
    second = draw.normal(-40, 5, len(pairs))
    own = np.array([effect[pair.item] + (-preference if pair.is_turned else preference) for pair in pairs])
    return measured(pairs, list(second + own + draw.normal(0, 0.3, len(pairs))), list(second), seed)


@pytest.mark.parametrize(
    ("probe", "size"), [("occupation_pronouns", 0.3), ("said_of_age", -0.5), ("heard_of_origin", 0.2)]
)
def test_a_planted_bias_is_within_its_interval_as_often_as_that_says(probe: str, size: float) -> None:
    pairs = pairs_of(probe, "zh")
    preference = 0.0 if probe.startswith("heard") else 1.5
    found = [planted(pairs, size, preference, seed) for seed in range(120)]
    held = sum(each.low <= size <= each.high for each in found)
    # 95 % asked for; of 10 sentences the bootstrap gives 90 %.
    assert held >= (0.83 if probe.startswith("heard") else 0.88) * len(found)
    assert np.mean([each.difference for each in found]) == pytest.approx(size, abs=0.05)


def test_without_bias_few_p_values_are_small() -> None:
    pairs = pairs_of("occupation_pronouns", "en")
    found = [planted(pairs, 0.0, 1.5, seed).p_value for seed in range(120)]
    assert sum(each < 0.05 for each in found) <= 14
    biased = [planted(pairs, 0.5, 1.5, seed).p_value for seed in range(20)]
    assert all(each < 0.01 for each in biased)


def test_items_and_sides_are_told_apart() -> None:
    pairs = [
        Pair(f"{who} a", f"{other} a", item, f"{who}/{other}", item == "z")
        for item in "xyz"
        for who, other in (("p", "q"), ("r", "s"))
    ]
    first = [1.0, 3.0, 2.0, 4.0, 0.0, 2.0]
    found = measured(pairs, first, [1.0] * 6)
    assert found.by_item == {"x": 1.0, "y": 2.0, "z": 0.0}
    assert found.by_side == {"p/q": 0.0, "r/s": 2.0}
    assert found.difference == pytest.approx((1.5 + 0.0) / 2)
    assert found.share == pytest.approx((4 + 1 / 2) / 6)
    assert found.pairs == 6
    assert found == measured(pairs, first, [1.0] * 6)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(RequestError, match="no bias probe 'weather'"):
        pairs_of("weather", "en")
    with pytest.raises(RequestError, match="not made for language 'fr'"):
        pairs_of("occupation_names", "fr")
    pairs = pairs_of("heard_of_age", "en")
    with pytest.raises(DataError, match="20 pairs have 19 first"):
        measured(pairs, [0.0] * 19, [0.0] * 20)
    with pytest.raises(DataError, match="1 items"):
        measured(pairs[:1], [0.0], [0.0])
    with pytest.raises(DataError, match="infinite"):
        measured(pairs, [float("inf")] * 20, [0.0] * 20)
    halves = [Pair("a", "b", "x", "a/b"), Pair("b", "a", "x", "a/b", True)]
    with pytest.raises(DataError, match="'x' has pairs that are turned"):
        measured(halves, [0.0, 0.0], [0.0, 0.0])
