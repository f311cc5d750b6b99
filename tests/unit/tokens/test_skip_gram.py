"""Pairs of word vectors: within a window and a document, drawn tokens by frequency, nothing by state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmyard.core.errors import DataError
from llmyard.tokens.frequencies import frequency_scores, keeping, noise, token_counts
from llmyard.tokens.skip_gram import Pairs, SkipGramView

END = 1


class Texts:
    """One row of ids."""

    rows = [1]  # noqa: RUF012

    def __init__(self, ids: Any) -> None:
        self._ids = np.asarray(ids)

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Any:
        return self._ids

    def length(self, shard: int, row: int) -> int:
        return len(self._ids)


def view_of(ids: Any, counts: Any = None, **fields: Any) -> SkipGramView:
    counts = np.bincount(ids, minlength=10) if counts is None else np.asarray(counts)
    settings = {"window": 2, "negatives": 3, "subsample": 0.0, "seed": 3} | fields
    return SkipGramView(Texts(ids), counts, end_id=END, **settings)


def seen(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.centres.tolist(), pairs.around[:, 0].tolist(), strict=True))


def test_pairs_stand_within_the_window_of_one_document() -> None:
    ids = [2, 3, 4, 5, END, 6, 7]
    found: set[tuple[int, int]] = set()
    for epoch in range(20):
        pairs = view_of(ids)(0, 0, epoch)
        found |= seen(pairs)
        assert {(2, 3), (3, 2), (6, 7), (7, 6)} <= seen(pairs)  # neighbours are in every window
    near = {(a, b) for a, b in ((2, 3), (3, 4), (4, 5), (2, 4), (3, 5), (6, 7))}
    assert found == near | {(b, a) for a, b in near}


def test_half_of_the_windows_of_two_reach_one_token_only() -> None:
    ids = np.tile([2, 3, 4], 2000)
    distance_two = sum(a != b for a, b in zip(*_columns(view_of(ids)(0, 0)), strict=True))
    # Of 6000 centres each has 2 neighbours, and every second one 2 more.
    assert len(view_of(ids)(0, 0).centres) == pytest.approx(18_000, rel=0.02)
    assert distance_two == len(view_of(ids)(0, 0).centres)


def _columns(pairs: Pairs) -> tuple[list[int], list[int]]:
    return pairs.centres.tolist(), pairs.around[:, 0].tolist()


def test_a_sample_is_its_place_and_epoch() -> None:
    ids = np.arange(60) % 8 + 2
    view, again = view_of(ids, subsample=0.05), view_of(ids, subsample=0.05)
    again(0, 0, 5)
    for epoch in range(3):
        assert np.array_equal(view(0, 0, epoch).around, again(0, 0, epoch).around)
    assert not np.array_equal(view(0, 0, 0).around, view(0, 0, 1).around)
    assert not np.array_equal(view(0, 0, 0).around, view_of(ids, subsample=0.05, seed=4)(0, 0, 0).around)


def test_tokens_are_drawn_by_frequency_to_the_three_quarters() -> None:
    counts = [0, 500, 16, 81, 256, 0, 0, 0, 0, 0]
    pairs = view_of(np.tile([2, 3, 4], 4000), counts, negatives=5)(0, 0)
    drawn = np.bincount(pairs.around[:, 1:].ravel(), minlength=10) / pairs.around[:, 1:].size
    assert drawn[2:5] == pytest.approx(np.array([8, 27, 64]) / 99, rel=0.03)
    assert drawn[[0, 1, 5, 6, 7, 8, 9]].sum() == 0  # ends of documents and what never stands in the corpus


def test_frequent_tokens_are_passed_over_and_windows_reach_over_them() -> None:
    counts = np.array([0, 0, 1_000_000, 100, 100])
    share = keeping(counts, 1e-4)
    assert share[2] == pytest.approx(0.01, rel=0.01)
    assert share[3] == pytest.approx(1.0)
    ids = np.tile([3, 2, 2, 2, 2, 2, 4], 100)
    pairs = seen(view_of(ids, counts, subsample=1e-4)(0, 0))
    assert (3, 4) in pairs  # six places apart


def test_a_short_text_may_have_no_pair() -> None:
    pairs = view_of([END, 2, END])(0, 0)
    assert pairs.centres.shape == (0,)
    assert pairs.around.shape == (0, 4)
    with pytest.raises(DataError, match="no token but ends"):
        view_of([END, END])


def test_the_best_scores_of_frequencies_beat_their_neighbours() -> None:
    """At its minimum the loss grows with any change of the scores."""
    counts = np.array([40, 10, 200, 3])
    scores, true, drawn = frequency_scores(counts, 0.0, 5), counts / counts.sum(), noise(counts)

    def loss(scores: Any) -> float:
        return float((true * np.logaddexp(0, -scores) + 5 * drawn * np.logaddexp(0, scores)).sum())

    for change in np.eye(4) * 0.1:
        assert loss(scores) < min(loss(scores + change), loss(scores - change))


def test_counts_are_read_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmyard.tokens.frequencies.CHUNK", 7)
    ids = np.arange(50) % 5

    class Shard:
        tokens = 50

        def read(self, start: int, length: int) -> Any:
            assert length <= 7
            return ids[start : start + length]

    assert token_counts([Shard()], 6).tolist() == [10, 10, 10, 10, 10, 0]  # type: ignore[list-item]
