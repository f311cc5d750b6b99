"""Packing: no token is lost or too many, and every sequence knows its documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.tokens.packing import (
    BestFitView,
    ConcatenatedView,
    DocumentView,
    PackedSequence,
    _best_fit,
    packed,
    positions,
)
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.views import PackedView

LENGTHS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=3)


def shards_of(folder: Path, lengths: list[list[int]]) -> ShardSet:
    """Writes shards in which no token comes twice."""
    at = 0
    for number, each in enumerate(lengths):
        writer = ShardWriter(folder, f"train-{number}", np.dtype("<u2"), 16)
        for document, length in enumerate(each):
            writer.add(range(at, at + length), document=f"文{document}", source="s")
            at += length
        writer.close()
    return ShardSet(folder, "train")


def samples(view: BestFitView | DocumentView | ConcatenatedView) -> list[PackedSequence]:
    return [view(shard, row) for shard, rows in enumerate(view.rows) for row in range(rows)]


def documents_of(sample: PackedSequence) -> list[list[int]]:
    return [part.tolist() for part in np.split(sample.tokens, sample.starts[1:])]


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, length=st.integers(1, 30))
def test_best_fit_loses_no_token_and_cuts_only_what_is_too_long(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], length: int
) -> None:
    view = BestFitView(shards_of(tmp_path_factory.mktemp("s"), lengths), length)
    found, room = samples(view), length + 1
    total = sum(map(sum, lengths))
    assert sorted(token for sample in found for token in sample.tokens.tolist()) == list(range(total))
    assert all(len(sample.tokens) <= room for sample in found)
    assert view.fill_rate == pytest.approx(total / (len(found) * room))
    assert [view.length(shard, row) for shard, rows in enumerate(view.rows) for row in range(rows)] == [
        len(sample.tokens) for sample in found
    ]
    pieces = sorted(piece for sample in found for piece in documents_of(sample))
    wanted, at = [], 0
    for each in (one for shard in lengths for one in shard):
        wanted += [list(range(start, min(start + room, at + each))) for start in range(at, at + each, room)]
        at += each
    assert pieces == wanted


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 33), max_size=80), st.integers(33, 64))
def test_each_piece_goes_where_the_least_room_is_left(lengths: list[int], room: int) -> None:
    lengths.sort(reverse=True)
    rows = _best_fit(np.array(lengths, np.int64), room)
    left: list[int] = []
    for length, row in zip(lengths, rows.tolist(), strict=True):
        fitting = [each for each in left if each >= length]
        if row == len(left):
            assert not fitting
            left.append(room)
        else:
            assert left[row] == min(fitting)
        left[row] -= length
        assert left[row] >= 0


def test_rows_lie_in_the_order_of_their_documents_not_of_length(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 3000).tolist()
    view = BestFitView(shards_of(tmp_path, [lengths[:100]]), 255)
    heads = [int(view(0, row).tokens[0]) for row in range(view.rows[0])]
    assert heads == sorted(heads)
    assert view.fill_rate > 0.95


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, length=st.integers(1, 30))
def test_concatenated_sequences_know_where_documents_begin(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], length: int
) -> None:
    shards = shards_of(tmp_path_factory.mktemp("s"), lengths)
    if not any(sum(each) > length for each in lengths):
        with pytest.raises(DataError):
            ConcatenatedView(shards, length)
        return
    view, plain = ConcatenatedView(shards, length), PackedView(shards, length)
    assert view.rows == plain.rows
    begins = set(np.cumsum([0, *(one for each in lengths for one in each)]).tolist())
    for shard, rows in enumerate(view.rows):
        for row in range(rows):
            sample = view(shard, row)
            assert sample.tokens.tolist() == plain(shard, row).tolist()
            wanted = [at for at, token in enumerate(sample.tokens.tolist()) if token in begins or at == 0]
            assert sample.starts.tolist() == wanted


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS, length=st.integers(1, 30))
def test_one_document_a_row_is_cut_to_the_length(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], length: int
) -> None:
    view = DocumentView(shards_of(tmp_path_factory.mktemp("s"), lengths), length)
    assert view.rows == [len(each) for each in lengths]
    at = 0
    for sample, each in zip(samples(view), (one for shard in lengths for one in shard), strict=True):
        assert sample.tokens.tolist() == list(range(at, at + min(each, length + 1)))
        assert sample.starts.tolist() == [0]
        at += each


def test_positions_begin_anew_with_each_document() -> None:
    assert positions(np.array([0, 3, 4]), 7).tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert positions(np.array([0, 3, 9]), 4).tolist() == [0, 1, 2, 0]
    assert positions(np.array([0]), 3).tolist() == [0, 1, 2]


def test_the_packing_decides_the_view(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [[30, 20]])
    kinds = {
        (packing, boundaries): type(packed(shards, 8, packing, boundaries))
        for packing in ("concatenate", "best_fit", "document")
        for boundaries in (False, True)
    }
    assert kinds == {
        ("concatenate", False): PackedView, ("concatenate", True): ConcatenatedView,
        ("best_fit", False): BestFitView, ("best_fit", True): BestFitView,
        ("document", False): DocumentView, ("document", True): DocumentView,
    }  # fmt: skip
