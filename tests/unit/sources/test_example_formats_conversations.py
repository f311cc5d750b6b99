"""Conversations in the layouts of OpenAI, ShareGPT and Alpaca: turns alternate, and something is learned of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmyard.core.errors import RequestError

TASK = "dialogue"


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def said(*turns: str) -> list[dict[str, Any]]:
    """Returns turns written as ``u:text``, ``a:text``, ``s:text``, ``t:text``."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": roles.get(turn[0], turn[0]), "content": turn[2:]} for turn in turns]


def row(*turns: str, **fields: Any) -> dict[str, Any]:
    return {"messages": said(*turns), **fields}


def test_messages_are_read_in_both_languages(read_format: Any) -> None:
    content = lines(
        row("s:Be short.", "u:Hello?", "a:Hi."), row("u:你好吗？", "a:很好。", "u:再见。", "a:再见。", id="mine")
    )
    records, bad = read_format(content, "messages", TASK)
    assert not bad
    assert records == [
        {"id": "1", "messages": said("s:Be short.", "u:Hello?", "a:Hi."), "language": "en"},
        {"id": "2", "messages": said("u:你好吗？", "a:很好。", "u:再见。", "a:再见。"), "language": "zh"},
    ]


def test_a_last_turn_that_nobody_answers_is_dropped(read_format: Any) -> None:
    (record,), bad = read_format(lines(row("u:One?", "a:Two.", "u:Three?")), "messages", TASK)
    assert not bad
    assert record["messages"] == said("u:One?", "a:Two.")


def test_calls_of_tools_are_read_and_not_learned(read_format: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    turns = [
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "晴"},
        {"role": "assistant", "content": "Let me look.", "function_call": {"name": "f", "arguments": "no json"}},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": "晴天。"},
    ]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    (record,), bad = read_format(lines({"messages": turns, "tools": tools}), "messages", TASK)
    assert not bad
    assert record["tools"] == tools
    assert record["messages"] == [
        {"role": "user", "content": "天气？"},
        {
            "role": "assistant",
            "content": '[{"name":"weather","arguments":{"city":"北京"}}]',
            "learned": False,
        },
        {"role": "tool", "content": "晴"},
        {
            "role": "assistant",
            "content": 'Let me look.\n[{"name":"f","arguments":"no json"}]',
            "learned": False,
        },
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "晴天。"},
    ]


def test_a_conversation_that_ends_with_a_call_ends_with_the_reply_before_it(read_format: Any) -> None:
    turns = [*said("u:A", "a:B", "u:C"), {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]
    (record,), _ = read_format(lines({"messages": turns}), "messages", TASK)
    assert record["messages"] == said("u:A", "a:B")


def test_replies_of_no_weight_are_not_learned_and_parts_of_a_text_are_joined(read_format: Any) -> None:
    turns = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "No.", "weight": 0},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Yes.", "weight": 1},
    ]
    (record,), _ = read_format(lines({"messages": turns}), "messages", TASK)
    assert record["messages"] == [
        *said("s:Be kind.", "u:One\ntwo?"),
        {"role": "assistant", "content": "No.", "learned": False},
        *said("u:Well?", "a:Yes."),
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row("u:A", "u:B", "a:C"), "turn 2 is of the user, after the user"),
        (row("u:A", "a:B", "a:C"), "turn 3 is of the assistant, after the assistant"),
        (row("a:B", "u:A"), "turn 1 is of the assistant, at the beginning"),
        (row("u:A", "a:B", "s:C", "u:D", "a:E"), "turn 3 is of the system, after the assistant"),
        (row("s:A", "s:B", "u:D", "a:E"), "turn 2 is of the system, after the system"),
        (row("u:A", "t:B", "a:C"), "turn 2 is of the tool, after the user"),
        (row("u:A", "a: \n"), "turn 2, of the assistant, is empty"),
        (row("u:", "a:B"), "turn 1, of the user, is empty"),
        (row("u:A"), "no turn of the assistant answers the user"),
        (row(), "no turn of the assistant answers the user"),
        (row("u:A", "critic:B"), "turn 2 has the role 'c'"),
        ({"messages": "A"}, "'messages' is a string, not a list"),
        ({"text": "A"}, "the record has no 'messages'"),
        (["A"], "the record is a list, not an object"),
        ({"messages": ["A"]}, "a message is a string, not an object"),
        ({"messages": [{"content": "A"}]}, "a message has no 'role'"),
        ({"messages": [{"role": "user", "content": 5}]}, "'content' of a message is a number, not a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text but image_url"),
        ({"messages": [{"role": "assistant", "tool_calls": {}, "content": ""}]}, "turn 1, of the assistant, is empty"),
        ({"messages": [{"role": "assistant", "tool_calls": "f"}]}, "'tool_calls' of a message is a string"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "a call has no 'name'"),
        (row("u:A", "a:\ud83d"), "half of a surrogate pair"),
    ],
)
def test_what_is_no_conversation_is_quarantined(read_format: Any, given: Any, reason: str) -> None:
    content = json.dumps(given).encode() + b"\n" + lines(row("u:A", "a:B"))
    records, (bad,) = read_format(content, "messages", TASK)
    assert [record["id"] for record in records] == ["2"]
    assert bad.record == 1
    assert reason in bad.reason


def test_an_unanswered_call_is_quarantined(read_format: Any) -> None:
    turns = [*said("u:A"), {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, *said("a:C")]
    _, (bad,) = read_format(lines({"messages": turns}), "messages", TASK)
    assert "turn 3 is of the assistant, after the assistant, who calls a tool" in bad.reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_rows_are_lines_or_one_list(read_format: Any, name: str) -> None:
    rows = [row("u:A", "a:B"), row("u:C"), row("u:你", "a:好")]
    content = json.dumps(rows, indent=1).encode() if name == "a.json" else lines(*rows).replace(b"\n", b"\r\n\r\n")
    records, bad = read_format(b"\xef\xbb\xbf" + content, "messages", TASK, name)
    assert [record["messages"] for record in records] == [said("u:A", "a:B"), said("u:你", "a:好")]
    assert [item.record for item in bad] == [2 if name == "a.json" else 3]


def test_torn_files_are_quarantined(read_format: Any) -> None:
    content = lines(row("u:A", "a:B")) + b'{"messages": [\n\xff\n' + lines(row("u:C", "a:D"))
    records, bad = read_format(content, "messages", TASK)
    assert [record["id"] for record in records] == ["1", "4"]
    assert [item.record for item in bad] == [2, 3]
    assert "line 2: not JSON" in bad[0].reason
    _, (whole,) = read_format(b"[" + lines(row("u:A", "a:B")), "messages", TASK)
    assert (whole.record, whole.reason.partition(":")[0]) == (0, "not JSON")
    assert read_format(b"", "messages", TASK) == ([], [])


def test_alpaca_is_a_conversation_of_two_turns(read_format: Any) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "问好。", "input": "", "output": "你好。"},
        {"instruction": "C", "output": "D", "history": [["A", "B"]], "system": "S", "input": None},
    ]
    records, bad = read_format(rows, "alpaca", "instruction")
    assert not bad
    assert [record["messages"] for record in records] == [
        said("u:Add.\n1 2", "a:3"),
        said("u:问好。", "a:你好。"),
        said("s:S", "u:A", "a:B", "u:C", "a:D"),
    ]
    assert [record["language"] for record in records] == ["en", "zh", "en"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"instruction": "", "input": "1", "output": "3"}, "'instruction' is empty"),
        ({"instruction": "A", "output": ""}, "'output' is empty"),
        ({"instruction": "A"}, "the record has no 'output'"),
        ({"instruction": "A", "output": 3}, "'output' is a number, not a text"),
        ({"instruction": "A", "output": "B", "history": "C"}, "'history' is a string, not a list"),
        ({"instruction": "A", "output": "B", "history": [["C"]]}, "'history' holds something else than pairs"),
        ({"instruction": "A", "output": "B", "history": [["C", ""]]}, "turn 2, of the assistant, is empty"),
        ("A", "the record is a string, not an object"),
    ],
)
def test_what_is_no_instruction_is_quarantined(read_format: Any, given: Any, reason: str) -> None:
    records, (bad,) = read_format(lines(given), "alpaca", "instruction")
    assert not records
    assert reason in bad.reason


def test_sharegpt_is_read(read_format: Any) -> None:
    rows = [
        {"id": "x", "conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "好"}]},
        {
            "system": "S",
            "tools": "[]",
            "conversations": [
                {"from": "user", "value": "A"},
                {"from": "function_call", "value": '{"name": "f"}'},
                {"from": "observation", "value": "1"},
                {"from": "assistant", "value": "B"},
                {"from": "human", "value": "C"},
            ],
        },
    ]
    (one, two), bad = read_format(lines(*rows), "sharegpt", TASK)
    assert not bad
    assert one["messages"] == said("u:你好", "a:好")
    assert two["tools"] == "[]"
    assert two["messages"] == [
        *said("s:S", "u:A"),
        {"role": "assistant", "content": '{"name": "f"}', "learned": False},
        *said("t:1", "a:B"),
    ]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"from": "gpt", "value": "B"}], "turn 1 is of the assistant, at the beginning"),
        ([{"from": "human", "value": "A"}, {"from": "gpt", "value": None}], "turn 2, of the assistant, is empty"),
        ([{"from": "human", "value": 5}], "'value' of a turn is a number, not a text"),
        ([{"value": "A"}], "a turn has no 'from'"),
        ([{"from": "human", "value": "A"}, {"from": "claude3", "value": "B"}], "turn 2 has the role 'claude3'"),
        (None, "the record has no 'conversations'"),
    ],
)
def test_what_is_no_sharegpt_is_quarantined(read_format: Any, turns: Any, reason: str) -> None:
    records, (bad,) = read_format(lines({"conversations": turns}), "sharegpt", TASK)
    assert not records
    assert reason in bad.reason


def test_a_format_for_another_task_is_refused(read_format: Any) -> None:
    with pytest.raises(RequestError, match="format 'alpaca' are for dialogue and instruction, not for translation"):
        read_format(b"", "alpaca", "translation")
