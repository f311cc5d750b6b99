"""Conversations: exactly the answers are learned, the oldest turns are forgotten, states are text and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Dialogue, Instruction
from llmyard.tasks.dialogue import state_text
from llmyard.tasks.task import BadExample
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import ASSISTANT, SEPARATOR, SYSTEM, USER, Tokenizer
from llmyard.tokens.views import Example
from llmyard.training.objectives import IGNORE
from llmyard.training.task_objectives import PromptedLmObjective, SequenceToSequenceObjective

TALK: dict[str, Any] = {
    "id": "t1",
    "messages": [
        {"role": "system", "content": "You book tables."},
        {"role": "user", "content": "A table for two, please."},
        {"role": "assistant", "content": "For which day?"},
        {"role": "user", "content": "星期五。"},
        {"role": "assistant", "content": '{"call":"book"}', "learned": False},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "订好了，星期五两位。"},
    ],
}
LEARNED = ["For which day?", "订好了，星期五两位。"]
SLOTS: dict[str, Any] = {
    "id": "s1",
    "messages": TALK["messages"][:4],
    "states": [{"people": "2"}, {"people": "2", "day": "星期五"}],
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [turn["content"] for turn in TALK["messages"]] * 4
    return Tokenizer.train(texts, BpeTokenizer(vocab_size=400, split_han=True))


def sample(example: Any) -> Example:
    labels = None if example.labels is None else np.array(example.labels)
    return Example(np.array(example.ids), labels, example.target_start, np.zeros(0, np.int32))


def runs_of(row: Any) -> list[list[int]]:
    """Returns the runs of learned ids in a row of labels."""
    runs: list[list[int]] = [[]]
    for label in row.tolist():
        if label == IGNORE:
            runs.append([])
        else:
            runs[-1].append(label)
    return [run for run in runs if run]


@pytest.mark.parametrize("config", [Dialogue(), Instruction()])
def test_a_decoder_learns_the_answers_of_a_conversation_and_nothing_else(config: Any, tokenizer: Tokenizer) -> None:
    task = task_of(config, "gpt2")
    (made,) = task.encode([task.check(TALK)], tokenizer, {})
    assert made is not None
    (example,) = made
    batch = PromptedLmObjective(tokenizer.pad_id).collate([sample(example)])
    runs = runs_of(batch["labels"][0])
    assert [tokenizer.decode(run[:-1]) for run in runs] == LEARNED
    assert all(run[-1] == tokenizer.end_id for run in runs)
    # Each learned id stands one place before itself: it is foretold from what comes before.
    for place, label in enumerate(batch["labels"][0].tolist()):
        if label != IGNORE:
            assert example.ids[place + 1] == label


def test_an_encoder_decoder_learns_one_answer_an_example(tokenizer: Tokenizer) -> None:
    task = task_of(Dialogue(), "transformer")
    (made,) = task.encode([TALK], tokenizer, {})
    assert made is not None
    batch = SequenceToSequenceObjective(tokenizer.pad_id).collate([sample(each) for each in made])
    said = [[each for each in row.tolist() if each != IGNORE] for row in batch["targets"]]
    assert [tokenizer.decode(each[:-1]) for each in said] == LEARNED
    for case, example in zip(task.cases(TALK), made, strict=True):
        assert example.ids[: example.target_start] == task.prompt(case, tokenizer)


def test_the_prompt_of_evaluation_is_the_one_that_was_trained(tokenizer: Tokenizer) -> None:
    task = task_of(Dialogue(), "gpt2")
    (made,) = task.encode([TALK], tokenizer, {})
    assert made is not None
    whole = made[0].ids
    for case in task.cases(TALK):
        prompt = task.prompt(case, tokenizer)
        assert prompt == whole[: len(prompt)]
        answer = [*tokenizer.encode(case["reply"]), tokenizer.end_id]
        assert whole[len(prompt) : len(prompt) + len(answer)] == answer


def test_the_oldest_turns_are_forgotten_and_the_system_is_not(tokenizer: Tokenizer) -> None:
    turns = [{"role": role, "content": f"turn {n}"} for n in range(20) for role in ("user", "assistant")]
    lead = {"role": "system", "content": "Be kind."}
    task = task_of(Dialogue(max_source_tokens=60), "gpt2")
    prompt = task.prompt({"messages": [lead, *turns, {"role": "user", "content": "the last"}]}, tokenizer)
    assert len(prompt) <= 60
    assert prompt[0] == tokenizer.control(SYSTEM)
    assert prompt[-1] == tokenizer.control(ASSISTANT)
    assert prompt.count(tokenizer.control(SYSTEM)) == 1
    text = tokenizer.decode(prompt)
    assert "the last" in text
    assert "turn 1" not in text.replace("turn 19", "").replace("turn 18", "").replace("turn 17", "")
    assert prompt[len(tokenizer.encode("Be kind.")) + 2] in (tokenizer.control(USER), tokenizer.control(ASSISTANT))
    one = {"messages": [lead, {"role": "user", "content": "word " * 500}]}
    assert len(task.prompt(one, tokenizer)) <= 60


def test_a_long_conversation_is_learned_answer_by_answer(tokenizer: Tokenizer) -> None:
    turns = [{"role": role, "content": f"turn {n}"} for n in range(30) for role in ("user", "assistant")]
    task = task_of(Dialogue(max_source_tokens=40, max_target_tokens=20), "llama")
    (made,) = task.encode([{"id": "x", "messages": turns}], tokenizer, {})
    assert made is not None
    assert len(made) == 30
    assert all(len(each.ids) <= 60 for each in made)


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user", "content": " "}], "'content'"),
        ([{"role": "user", "content": "hello"}], "has an answer"),
        ("hello", "'messages'"),
    ],
)
def test_conversations_without_an_answer_are_refused(messages: Any, what: str) -> None:
    with pytest.raises(BadExample, match=what):
        task_of(Dialogue(), "gpt2").check({"messages": messages})


def test_states_are_learned_and_read_as_text(tokenizer: Tokenizer) -> None:
    task = task_of(Dialogue(slots=True), "transformer")
    (made,) = task.encode([task.check(SLOTS)], tokenizer, {})
    assert made is not None
    targets = [tokenizer.decode(each.ids[each.target_start : -1]) for each in made]
    assert targets == ["people=2", "day=星期五; people=2"]
    assert all(each.ids[each.target_start - 1] == tokenizer.control(SEPARATOR) for each in made)
    cases = task.cases(SLOTS)
    said = [task.prediction(case, text) for case, text in zip(cases, targets, strict=True)]
    assert said == [case["state"] for case in cases]
    assert task.measures(said, cases)["joint_accuracy"].value == 1.0
    wrong = task.measures([{"people": "２"}, {"people": "3"}], cases)  # full width is the same number
    assert wrong["slot_f1"].value == pytest.approx(2 * 1 / (2 + 3))
    assert wrong["joint_accuracy"].value == 0.5
    assert task.prediction(cases[0], "nonsense; =2; a=; b = c") == {"b": "c"}
    assert state_text({}) == "none"
    assert task.bucket({"people": "3"}, cases[0]) == "wrong value"
    with pytest.raises(BadExample, match="2 turns of the user, 1 states"):
        task.check({**SLOTS, "states": SLOTS["states"][:1]})


def test_replies_are_measured_in_both_languages() -> None:
    task = task_of(Dialogue(), "gpt2")
    cases = task.cases(TALK)
    assert [case["language"] for case in cases] == ["en", "zh"]
    assert task.measures(LEARNED, cases)["rouge_l"].value == 1.0
    assert task.figures(LEARNED, cases)["distinct1_zh"] > 0.8
    assert task.figures(["", ""], cases) == {}
    name, floor = task.baseline([TALK], cases)
    assert floor == LEARNED
    assert name
    assert task.bucket("", cases[0]) == "empty"
    assert task.bucket("订好了", cases[0]) == "wrong language"


def state_scores(said: list[dict[str, str]], states: list[dict[str, str]]) -> dict[str, float]:
    task = task_of(Dialogue(slots=True), "transformer")
    return {name: each.value for name, each in task.measures(said, [{"state": state} for state in states]).items()}


def test_states_are_scored_by_slot_and_as_a_whole() -> None:
    states = [{"area": "North", "time": "18:00"}, {"名称": "７天 酒店"}, {"area": ""}]
    found = state_scores([{"area": "north", "time": "18:00"}, {"名称": "7天酒店", "评分": "4.5"}, {}], states)
    assert found["slot_precision"] == 3 / 4
    assert found["slot_recall"] == 1  # an empty value is none
    assert found["joint_accuracy"] == 2 / 3
    assert found["slot_f1"] == pytest.approx(6 / 7)
    assert state_text(states[2]) == state_text({}) == "none"
    # A wrong value is a false alarm and a miss.
    wrong = state_scores([{"area": "south"}], [{"area": "north"}])
    assert (wrong["slot_precision"], wrong["slot_recall"]) == (0, 0)


STATES = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y", "酒店"])), min_size=1, max_size=6
).filter(any)


@settings(deadline=None)
@given(STATES, st.randoms(use_true_random=False))
def test_the_right_states_score_1_and_others_less(states: list[dict[str, str]], random: Any) -> None:
    assert set(state_scores(states, states).values()) == {1.0}
    other = random.sample(states, len(states))
    found = state_scores(other, states)
    assert 0 <= found["slot_f1"] <= 1
    assert (found["joint_accuracy"] == 1) == (other == states)
