"""Lanes: each reads its own contiguous stretch, and says when its memory must be dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.tokens.lanes import LaneOrder, LaneView
from llmyard.tokens.shards import ShardSet, ShardWriter

SIZES = st.lists(st.integers(0, 120), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 20)


def shards_of(folder: Path, sizes: list[int]) -> ShardSet:
    at = 0
    for number, size in enumerate(sizes):
        writer = ShardWriter(folder, f"train-{number}", np.dtype("<u2"), 16)
        for start in range(0, size, 7):
            writer.add(range(at + start, at + min(start + 7, size)), document=f"文{start}", source="s")
        writer.close()
        at += size
    return ShardSet(folder, "train")


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, lanes=st.integers(1, 6), length=st.integers(1, 12))
def test_lanes_read_every_token_once_and_in_a_row(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lanes: int, length: int
) -> None:
    shards = shards_of(tmp_path_factory.mktemp("s"), sizes)
    if (sum(sizes) // lanes - 1) // length < 1:
        with pytest.raises(DataError, match="too few for"):
            LaneView(shards, lanes, length)
        return
    view = LaneView(shards, lanes, length)
    order = LaneOrder(view)
    steps, stretch = view.steps_per_epoch, sum(sizes) // lanes
    assert order.samples_per_epoch == lanes * steps
    read: dict[int, list[int]] = {lane: [] for lane in range(lanes)}
    for sample in range(order.samples_per_epoch):
        place = order[sample]
        segment = view(place.shard, place.row, place.epoch)
        step, lane = divmod(sample, lanes)
        assert (segment.lane, segment.fresh, len(segment.tokens)) == (lane, step == 0, length + 1)
        if not segment.fresh:
            assert segment.tokens[0] == read[lane].pop()  # the target before is the input now
        read[lane] += segment.tokens.tolist()
        where = view.place(step, lane)
        assert shards.shards[where.shard].read(where.start, 1)[0] == segment.tokens[0]
        assert where.fresh == segment.fresh
    for lane, tokens in read.items():
        assert tokens == list(range(lane * stretch, lane * stretch + len(tokens)))
        assert stretch - len(tokens) < length
    assert sum(sizes) - lanes * stretch < lanes


def test_an_epoch_later_a_lane_begins_anew(tmp_path: Path) -> None:
    view = LaneView(shards_of(tmp_path, [100, 50]), 3, 8)
    assert view.steps_per_epoch == 6
    assert [view.place(step, 1).fresh for step in range(13)] == [step % 6 == 0 for step in range(13)]
    first, later = view.place(2, 1), view.place(8, 1)
    assert (first.epoch, later.epoch) == (0, 1)
    assert (first.shard, first.start) == (later.shard, later.start) == (0, 66)
    order = LaneOrder(view)
    assert [order[sample].epoch for sample in (0, 17, 18, 36)] == [0, 0, 1, 2]


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, lanes=st.integers(1, 4), world=st.integers(1, 4), start=st.integers(0, 60))
def test_workers_together_see_what_one_sees_from_any_sample_on(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lanes: int, world: int, start: int
) -> None:
    shards = shards_of(tmp_path_factory.mktemp("s"), sizes)

    def order() -> LaneOrder:
        return LaneOrder(LaneView(shards, lanes, 2))

    alone = order()
    shared = {}
    for rank in range(world):
        mine = order()
        shared |= {sample: mine[sample] for sample in range(start + rank, start + 40, world)}
    assert [shared[sample] for sample in sorted(shared)] == [alone[sample] for sample in range(start, start + 40)]


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, lanes=st.integers(1, 4), start=st.integers(0, 100), count=st.integers(1, 60))
def test_the_shards_ahead_are_those_of_the_next_segments(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lanes: int, start: int, count: int
) -> None:
    view = LaneView(shards_of(tmp_path_factory.mktemp("s"), sizes), lanes, 3)
    order = LaneOrder(view)
    ahead = order.shards_ahead(start, count)
    assert len(set(ahead)) == len(ahead)
    for sample in range(start, start + count):
        place = order[sample]
        assert view.place(place.row, place.shard).shard in ahead
