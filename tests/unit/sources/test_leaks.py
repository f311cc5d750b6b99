"""Held-out examples that were seen in training are found, however they are spelled."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.sources.leaks import Leak, input_key, input_of, key_of, leaked


def test_examples_that_stand_in_training_are_counted_and_named() -> None:
    train = (key_of(text) for text in ("Hello  World", "你好", "x"))
    held_out = [
        ("a", key_of("hello world\n")),
        ("b", key_of("new")),
        ("c", key_of("ＨＥＬＬＯ\u3000world")),
        ("d", key_of("你好")),
    ]
    assert leaked(train, held_out) == Leak(4, 3, ("a", "c", "d"))
    assert leaked([], held_out) == Leak(4, 0, ())
    assert leaked([key_of("x")], []) == Leak(0, 0, ())
    assert leaked([key_of("new")], iter([("b", key_of("new"))] * 9), shown=2) == Leak(9, 9, ("b", "b"))


@pytest.mark.parametrize("other", ["a b", " A\tB ", "Ａ\u3000ｂ", "a\u00a0\r\nb"])
def test_case_width_and_white_space_do_not_matter(other: str) -> None:
    assert key_of("a b") == key_of(other)
    assert key_of("ab") != key_of(other)


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert len(key_of("\ud83d")) == 16


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_it_is_what_sets_say(train: list[str], held_out: list[str]) -> None:
    known = {key_of(text) for text in train}
    found = leaked([key_of(text) for text in train], [(str(at), key_of(text)) for at, text in enumerate(held_out)])
    assert found.leaked == sum(key_of(text) in known for text in held_out)


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
