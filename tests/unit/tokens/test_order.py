"""The data order: every sample once an epoch, the same for everyone, from any point on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.tokens.order import DataOrder, Permutation, Place

ROWS = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda rows: sum(rows) > 0)
SEEDS = st.integers(0, 2**63)


@settings(deadline=None)
@given(st.integers(1, 700), SEEDS)
def test_a_permutation_reaches_every_index_once(size: int, seed: int) -> None:
    assert sorted(Permutation(size, seed).all()) == list(range(size))


def test_a_permutation_of_a_billion_needs_no_memory() -> None:
    permutation = Permutation(10**9, 3)
    images = {permutation[index] for index in range(0, 10**9, 10**6)}
    assert len(images) == 1000
    with pytest.raises(IndexError):
        permutation[10**9]
    with pytest.raises(IndexError):
        permutation[-1]


@settings(deadline=None)
@given(ROWS, SEEDS, st.integers(1, 50), st.booleans())
def test_every_epoch_has_each_row_exactly_once(rows: list[int], seed: int, window: int, shuffle: bool) -> None:
    order = DataOrder(rows, seed, window, shuffle)
    everything = {(shard, row) for shard, count in enumerate(rows) for row in range(count)}
    for epoch in range(3):
        places = [order[epoch * sum(rows) + index] for index in range(sum(rows))]
        assert {place.epoch for place in places} == {epoch}
        assert len(places) == len(everything)
        assert {(place.shard, place.row) for place in places} == everything


@settings(deadline=None)
@given(ROWS, SEEDS, st.integers(1, 5), st.integers(0, 200))
def test_workers_together_see_what_one_sees_from_any_sample_on(
    rows: list[int], seed: int, workers: int, start: int
) -> None:
    alone = [DataOrder(rows, seed)[sample] for sample in range(start + 40)]
    shared: dict[int, Place] = {}
    for rank in range(workers):  # each has an order of its own and begins in the middle
        mine = DataOrder(rows, seed)
        shared |= {sample: mine[sample] for sample in range(start + rank, start + 40, workers)}
    assert [shared[sample] for sample in sorted(shared)] == alone[start:]


@settings(deadline=None)
@given(ROWS, SEEDS, st.lists(st.integers(0, 500), max_size=30))
def test_the_order_is_a_pure_function_of_the_sample(rows: list[int], seed: int, samples: list[int]) -> None:
    order = DataOrder(rows, seed, window=5)
    asked = [order[sample] for sample in samples]
    assert asked == [DataOrder(rows, seed, window=5)[sample] for sample in samples]


def test_without_shuffling_the_stored_order_is_kept() -> None:
    order = DataOrder([2, 0, 1], seed=9, shuffle=False)
    assert [order[sample] for sample in range(4)] == [Place(0, 0, 0), Place(0, 0, 1), Place(0, 2, 0), Place(1, 0, 0)]


def test_seeds_and_epochs_give_other_orders() -> None:
    def rows_of(order: DataOrder, epoch: int) -> list[int]:
        return [order[epoch * 500 + index].row for index in range(500)]

    one, two = DataOrder([500], 1), DataOrder([500], 2)
    assert rows_of(one, 0) != rows_of(two, 0)
    assert rows_of(one, 0) != rows_of(one, 1)


def test_a_window_reads_whole_segments_of_few_shards() -> None:
    order = DataOrder([1000, 1000], seed=1, window=200, segment=50)
    for start in range(0, 2000, 200):
        places = [order[sample] for sample in range(start, start + 200)]
        assert len({(place.shard, place.row // 50) for place in places}) == 4


def test_shards_of_different_kinds_are_mixed_from_the_first_steps_on() -> None:
    order = DataOrder([300] * 20, seed=3)
    assert len({order[sample].shard for sample in range(100)}) > 15


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        DataOrder([0, 0], 1)
