"""Bits per byte and perplexity, by hand and by their invariants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.bits import (
    bits_each,
    bits_figure,
    bits_per_byte,
    perplexity_each,
    perplexity_figure,
)


def perplexity(nats: list[float], tokens: list[int]) -> float:
    return float(perplexity_figure(perplexity_each(nats, tokens).sum(0)))


texts = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 1000)), min_size=1, max_size=20)


def test_by_hand() -> None:
    # A model that gives each of 256 bytes the same chance needs 8 bits for each.
    sizes = [len(text.encode()) for text in ("lamp", "红灯")]
    assert bits_per_byte([size * math.log(256) for size in sizes], sizes) == pytest.approx(8)
    # And one that chooses among 50 tokens has perplexity 50.
    assert perplexity([3 * math.log(50), 5 * math.log(50)], [3, 5]) == pytest.approx(50)
    assert perplexity([0.0], [3]) == 1
    assert perplexity([1e6], [1]) == math.inf


def test_long_texts_weigh_more() -> None:
    assert bits_per_byte([math.log(2) * 10, 0], [10, 90]) == pytest.approx(0.1)
    assert bits_each([math.log(2) * 10, 0], [10, 90]).tolist() == [[pytest.approx(10), 10], [0, 90]]


@given(texts, st.randoms(use_true_random=False))
def test_order_and_cutting_do_not_matter(examples: list[tuple[float, int]], random) -> None:  # type: ignore[no-untyped-def]
    nats, sizes = [one for one, _ in examples], [other for _, other in examples]
    mixed = random.sample(examples, len(examples))
    found = bits_per_byte(nats, sizes)
    assert bits_per_byte([one for one, _ in mixed], [other for _, other in mixed]) == pytest.approx(found)
    assert bits_per_byte([sum(nats)], [sum(sizes)]) == pytest.approx(found)
    assert bits_figure(bits_each(nats, sizes).sum(0)) == found
    assert perplexity(nats, sizes) >= 1
    # The two say the same of the same units.
    assert math.log2(perplexity(nats, sizes)) == pytest.approx(found) or perplexity(nats, sizes) == math.inf


def test_refusals() -> None:
    for figure, unit in ((bits_per_byte, "bytes"), (perplexity, "tokens")):
        with pytest.raises(DataError, match="no texts"):
            figure([], [])
        with pytest.raises(DataError, match="2 losses do not pair up with 1"):
            figure([1, 2], [3])
        with pytest.raises(DataError, match=f"text 1 has no {unit}"):
            figure([1, 0], [3, 0])
        with pytest.raises(DataError, match="text 0 has a loss of nan"):
            figure([math.nan], [3])
        with pytest.raises(DataError, match=r"text 0 has a loss of -1"):
            figure([-1.0], [3])
