"""Triples and spans: counts by hand, the empty cases, and invariants."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.triples import PrecisionRecall, micro

A, B, C = ("马洛", "works_at", "蒂博工厂"), ("Malo", "lives_in", "Kora Town"), ("Dena", "founded", "Kora Bank")


def test_micro_average_by_hand() -> None:
    scores = micro([[A, B, B], []], [[A], [B, C]])
    assert (scores.correct, scores.predicted, scores.expected) == (1, 2, 3)
    assert scores.precision == 1 / 2
    assert scores.recall == 1 / 3
    assert scores.f1 == pytest.approx(2 / 5)


def test_documents_are_kept_apart() -> None:
    assert micro([[A], [B]], [[B], [A]]).f1 == 0


def test_direction_matters() -> None:
    assert micro([[(A[2], A[1], A[0])]], [[A]]).f1 == 0


def test_spans_count_with_their_type() -> None:
    scores = micro([[(0, 2, "person"), (3, 7, "place")]], [[(0, 2, "person"), (3, 7, "organization")]])
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.5, 0.5)


def test_spans_score_as_seqeval_scores_their_tags() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(0)

    def tagged(spans: list[tuple[int, int, str]]) -> list[str]:
        tags = ["O"] * 12
        for start, end, kind in spans:
            tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
        return tags

    def spans() -> list[tuple[int, int, str]]:
        borders = sorted(draw.sample(range(13), draw.choice([2, 4, 6])))
        return [
            (low, high, draw.choice(["人", "place"])) for low, high in zip(borders[::2], borders[1::2], strict=True)
        ]

    wanted = [spans() for _ in range(100)]
    said = [each if draw.random() < 0.5 else spans() for each in wanted]
    found = micro(said, wanted)
    tags = [tagged(each) for each in wanted], [tagged(each) for each in said]
    assert found.precision == pytest.approx(seqeval.precision_score(*tags))
    assert found.recall == pytest.approx(seqeval.recall_score(*tags))
    assert found.f1 == pytest.approx(seqeval.f1_score(*tags))


@pytest.mark.parametrize(
    ("predicted", "expected", "precision", "recall", "f1"),
    [([], [], 1, 1, 1), ([A], [], 0, 1, 0), ([], [A], 0, 0, 0)],
)
def test_empty_cases(predicted: list, expected: list, precision: float, recall: float, f1: float) -> None:  # type: ignore[type-arg]
    scores = micro([predicted], [expected])
    assert (scores.precision, scores.recall, scores.f1) == (precision, recall, f1)


def test_no_documents_are_refused() -> None:
    with pytest.raises(DataError):
        micro([], [])
    with pytest.raises(DataError):
        micro([[]], [[], []])


documents = st.lists(
    st.tuples(st.frozensets(st.integers(0, 6)), st.frozensets(st.integers(0, 6))), min_size=1, max_size=5
)


@given(documents)
def test_f1_lies_between_precision_and_recall_and_is_symmetric(
    pairs: list[tuple[frozenset[int], frozenset[int]]],
) -> None:
    predicted, expected = [p for p, _ in pairs], [e for _, e in pairs]
    scores, mirrored = micro(predicted, expected), micro(expected, predicted)
    assert scores.f1 == mirrored.f1
    if scores.predicted and scores.expected:
        low, high = sorted((scores.precision, scores.recall))
        assert low - 1e-9 <= scores.f1 <= high + 1e-9
        assert scores.precision == mirrored.recall
    assert micro(expected, expected) == PrecisionRecall(scores.expected, scores.expected, scores.expected)
