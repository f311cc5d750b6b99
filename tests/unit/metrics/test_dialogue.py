"""Variety of responses and dialogue states, by hand and by their invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.dialogue import distinct, joint_goal_each, normalized_value, slots_each
from llmyard.metrics.measure import f1_of, precision_of


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


def test_slots_by_hand() -> None:
    expected = [{"area": "North", "time": ["6 pm", "18:00"]}, {"名称": "７天 酒店"}, {}]
    predicted = [{"area": "north", "time": "18:00"}, {"名称": "7天酒店", "评分": "4.5"}, {"area": " "}]
    assert slots_each(predicted, expected).tolist() == [[2, 2, 2], [1, 2, 1], [0, 0, 0]]
    right, guessed, wanted = slots_each(predicted, expected).T
    assert (precision_of(right, guessed).value, precision_of(right, wanted).value) == (3 / 4, 1)
    assert f1_of(right, guessed, wanted).value == pytest.approx(6 / 7)
    assert joint_goal_each(predicted, expected).tolist() == [1, 0, 1]


def test_a_wrong_value_is_a_false_alarm_and_a_miss() -> None:
    assert slots_each([{"area": "south"}], [{"area": "north"}]).tolist() == [[0, 1, 1]]


states = st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y", "酒店"])), min_size=1, max_size=6)


@given(states, st.randoms(use_true_random=False))
def test_the_right_states_score_1_in_any_order(turns: list[dict[str, str]], random) -> None:  # type: ignore[no-untyped-def]
    assert joint_goal_each(turns, turns).all()
    assert f1_of(*slots_each(turns, turns).T).value == 1
    other = random.sample(turns, len(turns))
    # A turn that is right as a whole has no wrong slot.
    rows, joint = slots_each(turns, other), joint_goal_each(turns, other)
    assert ((rows[:, 0] == rows[:, 1])[joint == 1]).all()


def test_refusals() -> None:
    for figure in (slots_each, joint_goal_each):
        with pytest.raises(DataError, match="no hypotheses"):
            figure([], [])
        with pytest.raises(DataError, match="do not pair up"):
            figure([{}], [])
    with pytest.raises(DataError, match="2 responses hold no words"):
        distinct(["？", ""], 1, "zh")
