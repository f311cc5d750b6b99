"""Mixtures: shares hold from the first round on, each source has epochs of its own, nothing depends on state."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmyard.core.errors import DataError
from llmyard.tokens.config import Mixture
from llmyard.tokens.mixture import MIN_ROUND, Draws, MixedOrder, Phase, phases_of, replayed
from llmyard.tokens.order import DataOrder, Place

SHARE = st.one_of(st.integers(0, 20), st.floats(0.1, 5))
SHARES = st.lists(SHARE, min_size=1, max_size=5).filter(any).map(
    lambda shares: {f"源{number}": float(share) for number, share in enumerate(shares)}
)  # fmt: skip
SEEDS = st.integers(0, 2**63)


@settings(deadline=None, max_examples=40)
@given(SHARES, SEEDS)
def test_quotas_are_within_one_of_the_shares_at_every_round(shares: dict[str, float], seed: int) -> None:
    draws = Draws([Phase(None, shares)], seed)
    total = sum(Fraction(str(share)) for share in shares.values())
    at = 0
    for _ in range(30):
        for name, (before, after) in zip(draws.sources, draws.around(at), strict=True):
            assert before <= after
            assert abs(before - at * Fraction(str(shares[name])) / total) < 1
        at += sum(after - before for before, after in draws.around(at))
    assert at >= 30 * MIN_ROUND


@settings(deadline=None, max_examples=25)
@given(SHARES, st.integers(0, 2500), SHARES, st.integers(0, 900), SEEDS)
def test_each_source_counts_its_own_samples_without_gaps(
    first: dict[str, float], length: int, last: dict[str, float], start: int, seed: int
) -> None:
    names = sorted({*first, *last})
    phases = [
        Phase(length, {name: first.get(name, 0.0) for name in names}),
        Phase(None, {name: last.get(name, 0.0) for name in names}),
    ]
    draws = Draws(phases, seed)
    seen: dict[int, list[int]] = {}
    for sample in range(length + 2 * draws._rates[1].round):
        source, number = draws[sample]
        seen.setdefault(source, []).append(number)
        shares = phases[sample >= length].shares
        assert shares[names[source]] > 0
    for numbers in seen.values():
        assert sorted(numbers) == list(range(len(numbers)))
    assert Draws(phases, seed)[start] == draws[start]  # without the samples before


def test_the_sources_of_a_round_lie_mixed() -> None:
    draws = Draws([Phase(None, {"a": 1, "b": 1})], 3)
    counts = Counter(draws[sample][0] for sample in range(100))
    assert 25 < counts[0] < 75


def test_a_curriculum_changes_the_shares_where_it_says() -> None:
    phases = [Phase(4000, {"易": 9, "难": 1}), Phase(6000, {"易": 1, "难": 1}), Phase(None, {"易": 0, "难": 1})]
    draws = Draws(phases, 1)
    assert draws.sources == ["易", "难"]
    counts = [Counter(draws[sample][0] for sample in part) for part in (range(4000), range(4000, 10_000))]
    assert counts == [{0: 3600, 1: 400}, {0: 3000, 1: 3000}]
    assert {draws[sample][0] for sample in range(10_000, 20_000)} == {1}


def test_a_rare_source_is_drawn_too() -> None:
    draws = Draws([Phase(None, {"a": 1.0, "b": 1e-4})], 1)
    assert [after - before for before, after in draws.around(0)] == [10_000, 1]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=3),
    SEEDS,
)
def test_every_epoch_of_a_source_has_each_of_its_rows_once(
    shards: list[tuple[int, str]], shares: dict[str, int], seed: int
) -> None:
    rows, sources = [count for count, _ in shards], [source for _, source in shards]
    sizes = Counter[str]()
    for count, source in shards:
        sizes[source] += count
    given = {name: share for name, share in shares.items() if sizes[name]}
    if not given:
        return
    order = MixedOrder(rows, sources, [Phase(None, given)], seed, window=7, segment=3)
    found: dict[str, dict[int, list[tuple[int, int]]]] = {name: {} for name in given}
    for sample in range(3 * MIN_ROUND):
        place = order[sample]
        found[sources[place.shard]].setdefault(place.epoch, []).append((place.shard, place.row))
    for name, epochs in found.items():
        everything = {
            (shard, row) for shard, count in enumerate(rows) if sources[shard] == name for row in range(count)
        }
        for epoch in range(max(epochs)):  # all but the last, which is not over
            assert len(epochs[epoch]) == sizes[name]
            assert set(epochs[epoch]) == everything


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(1, 5), st.integers(0, 5000))
def test_workers_together_see_what_one_sees_from_any_sample_on(seed: int, workers: int, start: int) -> None:
    def order() -> MixedOrder:
        return MixedOrder(
            [40, 30, 90], ["a", "b", "a"], [Phase(700, {"a": 1, "b": 2}), Phase(None, {"a": 3, "b": 1})], seed
        )

    alone = order()
    shared: dict[int, Place] = {}
    for rank in range(workers):  # each has an order of its own and begins in the middle
        mine = order()
        shared |= {sample: mine[sample] for sample in range(start + rank, start + 60, workers)}
    assert [shared[sample] for sample in sorted(shared)] == [alone[sample] for sample in range(start, start + 60)]


def test_the_shards_ahead_are_those_of_the_next_samples() -> None:
    rows, sources = [500] * 12, ["a"] * 6 + ["b"] * 6
    order = MixedOrder(rows, sources, [Phase(None, {"a": 3, "b": 1})], 5, window=100, segment=50)
    for start in (0, 700, 5000):
        ahead = order.shards_ahead(start, 200)
        assert {order[sample].shard for sample in range(start, start + 200)} <= set(ahead)
        assert len(set(ahead)) == len(ahead)


def test_equal_weights_need_no_mixture_and_others_multiply_the_sizes() -> None:
    sizes = {"en": 100, "zh": 300}
    assert phases_of(None, sizes, {"en": 2.0, "zh": 2.0}, 1000) == ()
    assert phases_of(Mixture(), sizes, {}, 1000) == ()
    (phase,) = phases_of(None, sizes, {"en": 3.0}, 1000)
    assert phase.samples is None
    assert phase.normalized() == {"en": 0.5, "zh": 0.5}


def test_shares_and_curriculum_become_phases() -> None:
    mixture = Mixture.model_validate(
        {"shares": {"en": 1, "zh": 3}, "curriculum": [{"until": 0.25, "shares": {"en": 1, "zh": 0}}]}
    )
    phases = phases_of(mixture, {"en": 5, "zh": 5}, {}, 1000)
    assert [(phase.samples, phase.normalized()) for phase in phases] == [
        (250, {"en": 1.0, "zh": 0.0}), (None, {"en": 0.25, "zh": 0.75}),
    ]  # fmt: skip
    natural = phases_of(Mixture.model_validate({"curriculum": [{"until": 0.5, "shares": {"en": 1, "zh": 1}}]}),
                        {"en": 5, "zh": 15}, {}, 1000)  # fmt: skip
    assert natural[1].normalized() == {"en": 0.25, "zh": 0.75}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shares": {"a": 0.0}}, "no source has a share above 0"),
        ({"shares": {"a": -1}}, "greater than or equal to 0"),
        ({"shares": {}}, "at least 1 item"),
        ({"curriculum": [{"until": 0.5, "shares": {"a": 1}}, {"until": 0.5, "shares": {"a": 1}}]}, "must grow"),
        ({"curriculum": [{"until": 1.0, "shares": {"a": 1}}]}, "less than 1"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Mixture.model_validate(given)


def test_a_source_with_a_share_needs_samples() -> None:
    with pytest.raises(DataError, match="source 'b' has a share, but no samples"):
        MixedOrder([5, 0], ["a", "b"], [Phase(None, {"a": 1, "b": 1})], 0)


def test_a_replays_share_is_exact_and_every_sample_comes_once_an_epoch() -> None:
    domain, general = DataOrder([70, 30], 5), DataOrder([40, 0, 60], 5)
    order = replayed(domain, general, (2, 3), 0.2, 9)
    places = [order[sample] for sample in range(5 * MIN_ROUND)]
    of_general = [place for place in places if place.shard >= 2]
    assert len(of_general) == MIN_ROUND
    assert all(0.12 < sum(p.shard >= 2 for p in places[at : at + 500]) / 500 < 0.28 for at in range(0, 5000, 500))
    for part in (of_general, [place for place in places if place.shard < 2]):
        assert len(set(part)) == len(part)
        assert max(place.epoch for place in part) == (len(part) - 1) // 100
    assert [order[sample] for sample in range(300, 310)] == places[300:310]  # from any step on
    assert set(order.shards_ahead(0, 1000)) == {0, 1, 2, 4}


@pytest.mark.parametrize("share", [0.01, 0.33, 0.2, 0.999])
def test_a_replays_share_holds_over_time(share: float) -> None:
    order = replayed(DataOrder([10], 1), DataOrder([10], 1), (1, 1), share, 0)
    count = 100_000
    found = sum(order[sample].shard == 1 for sample in range(count))
    assert abs(found - share * count) <= MIN_ROUND * min(share, 1 - share) * 2 + 1
