"""What a decoder writes, put back into its text."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.tokens.span_corruption import SpanLengths, corrupt, noise_mask
from llmyard.tokens.written_text import written_text

END, SENTINEL = 1, 50


@settings(max_examples=80, deadline=None)
@given(st.integers(4, 60), st.sampled_from([0.15, 0.3, 0.4]), st.integers(0, 1 << 30))
def test_spans_come_back_where_they_were(length: int, density: float, seed: int) -> None:
    raw = np.random.default_rng(seed).integers(2, SENTINEL, length)
    cut_out = noise_mask(SpanLengths.of(length, density, 3.0), seed)
    sample = corrupt(raw, cut_out, SENTINEL, END)
    text = written_text("span_corruption", sample.inputs, sample.targets, SENTINEL)
    assert text.ids.tolist() == raw.tolist()
    assert text.places.tolist() == np.flatnonzero(cut_out).tolist()
    assert sample.targets[text.targets].tolist() == raw[cut_out].tolist()


def test_continuations_and_copies_are_all_text() -> None:
    text = written_text("prefix_lm", np.array([5, 6, END]), np.array([7, 8]), SENTINEL)
    assert (text.ids.tolist(), text.places.tolist(), text.targets.tolist()) == ([5, 6, 7, 8], [2, 3], [0, 1])
    copy = written_text("denoising", np.array([5, SENTINEL, END]), np.array([5, 6, 7, END]), SENTINEL)
    assert (copy.ids.tolist(), copy.places.tolist(), copy.targets.tolist()) == ([5, 6, 7], [0, 1, 2], [0, 1, 2])
