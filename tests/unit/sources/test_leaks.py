"""Held-out examples that were seen in training are found, however they are spelled."""

from __future__ import annotations

from typing import Any

import pytest

from llmyard.sources.leaks import input_key, input_of, key_of


@pytest.mark.parametrize("other", ["a b", " A\tB ", "Ａ\u3000ｂ", "a\u00a0\r\nb"])
def test_case_width_and_white_space_do_not_matter(other: str) -> None:
    assert key_of("a b") == key_of(other)
    assert key_of("ab") != key_of(other)


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert len(key_of("\ud83d")) == 16


TURNS = [
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "B"},
    {"role": "user", "content": "C"},
    {"role": "assistant", "content": "D"},
]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"context": "C", "question": "Q", "answers": []}, "Q\nC"),
        ({"text": "T", "query": "Q", "summary": "S"}, "Q\nT"),
        ({"text": "T", "text_pair": "P", "label": "l"}, "T\nP"),
        ({"source": "S", "target": "T"}, "S"),
        ({"text": "T", "subject": {"text": "a"}, "object": {"text": "b"}, "relation": "r"}, "T\na\nb"),
        ({"messages": TURNS}, "A\nB\nC"),
        ({"messages": TURNS[:1]}, "A"),
        ({"text": "T", "entities": [], "triples": []}, "T"),
    ],
)
def test_what_a_model_is_asked(record: dict[str, Any], said: str) -> None:
    assert input_of(record) == said
    assert input_key(record) == key_of(said)
