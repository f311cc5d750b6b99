"""Whatever stands in a file, reading it gives records or says what is wrong: it raises nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.config import FORMAT_TASKS, Records
from llmyard.sources.examples import ExampleUnit, read_examples
from llmyard.sources.records import BadRecord

QUESTION = {"id": 1, "question": "Where?", "answers": [{"text": "here", "answer_start": 3}], "is_impossible": False}
STATE = {"餐馆": {"名称": "甲", "selectedResults": []}}
FRAME = {"service": "A_1", "state": {"slot_values": {"s": ["v"]}}}
# A good file of each format that is JSON, to be spoiled in one place.
GOOD: dict[str, Any] = {
    "squad": {"data": [{"title": "T", "paragraphs": [{"context": "It is here.", "qas": [QUESTION]}]}]},
    "messages": [
        {
            "messages": [
                {"role": "user", "content": "A"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "B"},
                {"role": "assistant", "content": [{"type": "text", "text": "C"}]},
            ]
        }
    ],
    "alpaca": [{"instruction": "A", "input": "B", "output": "C", "history": [["D", "E"]], "system": "S"}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}], "system": "S"}],
    "fewrel": {"P1": [{"tokens": ["a", "b"], "h": ["a", "Q1", [[0]]], "t": ["b", "Q2", [[1]]]}]},
    "sgd": [
        {
            "dialogue_id": "1",
            "turns": [
                {"speaker": "USER", "utterance": "A", "frames": [FRAME]},
                {"speaker": "SYSTEM", "utterance": "B", "frames": []},
            ],
        }
    ],
    "crosswoz": {
        "1": {
            "messages": [
                {"role": "usr", "content": "好"},
                {"role": "sys", "content": "好", "sys_state_init": STATE},
            ]
        }
    },
    "qmsum": [
        {
            "general_query_list": [{"query": "A", "answer": "B"}],
            "specific_query_list": [{"query": "A", "answer": "B", "relevant_text_span": [["0", "0"]]}],
            "meeting_transcripts": [{"speaker": "A", "content": "B"}],
        }
    ],
}
SPOILT = [None, True, -1, 1.5, 10**30, "", " ", "x", "\ud83d", [], {}, [[]], [None], [{}], {"x": None}, {"text": 5}]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths to all values in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in items for place in places(each, (*at, key)))]


def spoilt(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """Returns a copy with another value in one place."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = spoilt(value[at[0]], at[1:], new)
    return copy


def read(folder: Path, format_: str, content: bytes) -> list[Any]:
    path = folder / "file"
    path.write_bytes(content)
    source = Records(format=format_, train=str(path), validation=str(path), test=str(path))  # type: ignore[arg-type]
    return list(read_examples(ExampleUnit("train", str(path), 0, 0), source, FORMAT_TASKS[format_][0]))


def fits(item: Any) -> bool:
    if isinstance(item, BadRecord):
        return bool(item.reason) and bool(item.reason.encode())
    return bool(json.dumps(item, ensure_ascii=False).encode()) and isinstance(item["id"], str)


@pytest.mark.parametrize("format_", GOOD)
def test_one_spoilt_value_never_stops_the_reading(tmp_path: Path, format_: str) -> None:
    assert all(isinstance(item, dict) for item in read(tmp_path, format_, json.dumps(GOOD[format_]).encode()))
    for place in places(GOOD[format_]):
        for new in SPOILT:
            content = json.dumps(spoilt(GOOD[format_], place, new)).encode()
            assert all(fits(item) for item in read(tmp_path, format_, content)), (place, new)


LINES = {
    "semeval": b'1\t"<e1>A</e1> b <e2>c</e2>"\nOther\nComment:\n\n2\t"<e1>A</e1> <e2>c</e2>"\nR(e1,e2)\n',
    "finre": "甲\t乙\t持股\t甲和乙\n\n乙\t甲\t持股\t甲和乙\n".encode(),
    "conll": "a B-X\nb I-X\n\n好\tO\n".encode(),
    "babi": b"1 Ann is here.\n2 Where is Ann?\there\t1\n1 Bob left.\n2 Who left?\tBob\t1\n",
    **{name: json.dumps(value, ensure_ascii=False).encode() for name, value in GOOD.items()},
}


@pytest.mark.parametrize("format_", LINES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_changed_bytes_never_stop_the_reading(
    tmp_path_factory: pytest.TempPathFactory, format_: str, seed: int
) -> None:
    chance = random.Random(seed)
    content = bytearray(LINES[format_])
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] = chance.choice(b'\t\n\r "<>{}[]:,1a\xff\xe5\x00-')
    if chance.random() < 0.3:
        del content[chance.randrange(len(content)) :]
    assert all(fits(item) for item in read(tmp_path_factory.getbasetemp(), format_, bytes(content)))
