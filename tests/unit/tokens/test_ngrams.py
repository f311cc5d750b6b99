"""The counting model against its formula written out, and what it says of Chinese and English."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from llmyard.tokens.ngrams import NgramModel

V = 5
TEXTS = [[1, 2, 3, 1, 2, 4], [1, 2, 3], [0, 1, 2]]


def chance(history: tuple[int, ...], token: int) -> float:
    """Witten and Bell, written out."""
    shorter = chance(history[1:], token) if history else 1 / V
    after = Counter(
        text[at + len(history)] for text in TEXTS for at in range(len(text) - len(history))
        if tuple(text[at : at + len(history)]) == history
    )  # fmt: skip
    total, kinds = sum(after.values()), len(after)
    return (after[token] + kinds * shorter) / (total + kinds) if total else shorter


def test_it_is_the_formula() -> None:
    model = NgramModel([np.array(text) for text in TEXTS], V)
    text = [1, 2, 3, 4, 0, 1, 2, 3, 3]
    wanted = [-math.log(chance(tuple(text[max(0, at - 2) : at]), token)) for at, token in enumerate(text)]
    assert model.surprise(np.array(text)) == pytest.approx(wanted)


def test_probabilities_of_all_tokens_sum_to_one() -> None:
    model = NgramModel([np.array(text) for text in TEXTS], V)
    for history in ([1, 2], [4, 4], [2, 3], [0]):
        last = [math.exp(-model.surprise(np.array([*history, token]))[-1]) for token in range(V)]
        assert sum(last) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["the cat sat on the mat. " * 20, "猫坐在垫子上。狗也坐在垫子上。" * 20])
def test_text_like_what_was_counted_is_less_surprising(text: str) -> None:
    ids = np.array([ord(each) % 997 for each in text])
    model = NgramModel([ids], 997)
    shuffled = np.random.default_rng(0).permutation(ids)
    assert model.surprise(ids).mean() < 0.5 * model.surprise(shuffled).mean()


def test_too_many_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        NgramModel([], 1 << 22)
