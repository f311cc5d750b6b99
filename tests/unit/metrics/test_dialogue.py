"""Variety of responses, by hand and by its invariants, and how values are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.dialogue import distinct, normalized_value


def test_distinct_by_hand() -> None:
    # 7 words, of which i, do, not, know are different.
    said = ["I do not know.", "I do know!"]
    assert distinct(said, 1, "en") == 4 / 7
    assert distinct(said, 2, "en") == 4 / 7  # i do, do not, not know, do know; over 7 words as in the paper
    # 我不知道 + 我知道: 7 characters, 4 different; pairs 我不 不知 知道 我知.
    assert distinct(["我不知道。", "我知道！"], 1, "zh") == 4 / 7
    assert distinct(["我不知道。", "我知道！"], 2, "zh") == 4 / 7


@given(st.lists(st.text("好的吗ab ", min_size=1), min_size=1, max_size=5).filter(lambda each: "".join(each).strip()))
def test_distinct_is_bounded_and_falls_when_all_is_said_again(responses: list[str]) -> None:
    for size in (1, 2):
        once = distinct(responses, size, "zh")
        assert 0 <= once <= 1
        assert distinct(responses * 2, size, "zh") == pytest.approx(once / 2)
        assert distinct(responses[::-1], size, "zh") == pytest.approx(once)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("  Kora   Town ", "kora town"),
        ("１８：００", "18:00"),
        ("锦江 之星 ＡＢＣ", "锦江之星abc"),
        ("7 天 酒店", "7天酒店"),
        ("STRASSE", "strasse"),
    ],
)
def test_values_are_normalized(value: str, expected: str) -> None:
    assert normalized_value(value) == expected


def test_refusals() -> None:
    with pytest.raises(DataError, match="2 responses hold no words"):
        distinct(["？", ""], 1, "zh")
