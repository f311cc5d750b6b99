"""Conversations: messages as OpenAI's interface has them, ShareGPT's, and Alpaca's instructions.

Where the last turn is no reply to be learned it is dropped; a conversation whose turns do not alternate is refused: who
answers whom could not be told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from llmyard.sources.example_formats.needed import Unfit, need
from llmyard.sources.records import Fault, Found, Record, kind_of

# The role, while a conversation is looked at, of turns in which the assistant calls tools.
_CALL = "assistant, who calls a tool"
# Who may speak after whom.
_AFTER = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", _CALL),
    "assistant": ("user",),
    _CALL: ("tool",),
    "tool": ("tool", "assistant", _CALL),
}
_OPENAI = {"developer": "system", "function": "tool"}
_SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": _CALL,
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}


def messages(rows: Iterable[tuple[int, Any]]) -> Iterator[Found]:
    """Yields conversations whose ``messages`` have ``role`` and ``content``; the number is the row's.

    A turn with ``tool_calls`` becomes one that says them as JSON and is not learned, as one of ``weight`` 0 is not.
    """
    return _each(rows, lambda row: _record(row, [_message(each) for each in need(row, "messages", list)]))


def sharegpt(rows: Iterable[tuple[int, Any]]) -> Iterator[Found]:
    """Yields conversations whose ``conversations`` have ``from`` and ``value``; the number is the row's."""
    return _each(rows, _sharegpt)


def alpaca(rows: Iterable[tuple[int, Any]]) -> Iterator[Found]:
    """Yields each ``instruction``, with ``input`` below it, and its ``output`` as a conversation of two turns.

    ``history``, a list of [question, answer], and ``system`` come before them, where a row has them.
    """
    return _each(rows, _alpaca)


def _each(rows: Iterable[tuple[int, Any]], read: Callable[[Any], Record]) -> Iterator[Found]:
    for number, row in rows:
        if isinstance(row, Fault):
            yield number, row
            continue
        try:
            yield number, read(row)
        except Unfit as unfit:
            yield number, Fault(str(unfit))


def _record(row: Record, turns: list[Record]) -> Record:
    record: Record = {"messages": learnable(turns)}
    tools = row.get("tools") or row.get("functions")
    if tools:
        record["tools"] = tools
    for field in ("group", "language"):
        if isinstance(row.get(field), str) and row[field]:
            record[field] = row[field]
    return record


def _message(turn: Any) -> Record:
    role = need(turn, "role", str, "a message")
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    content = _text(turn.get("content"))
    if calls:
        return {"role": _CALL, "content": "\n".join(filter(str.strip, (content, _calls(calls))))}
    found: Record = {"role": _OPENAI.get(role, role), "content": content}
    if turn.get("weight") == 0 or turn.get("learned") is False:
        found["learned"] = False
    return found


def _text(content: Any) -> str:
    """Returns the text of a message, which may be given in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise Unfit(f"'content' of a message is {kind_of(content)}, not a text")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise Unfit(f"a part of a message is no text but {kind}")
    return "\n".join(part["text"] for part in content)


def _calls(calls: Any) -> str:
    if not isinstance(calls, list):
        raise Unfit(f"'tool_calls' of a message is {kind_of(calls)}, not a list")
    found = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else call
        name, arguments = need(function, "name", str, "a call"), function.get("arguments")
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # what is no JSON stays the text that it is
                arguments = json.loads(arguments)
        found.append({"name": name, "arguments": arguments})
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _sharegpt(row: Any) -> Record:
    turns = [_said(each) for each in need(row, "conversations", list)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": system})
    return _record(row, turns)


def _said(turn: Any) -> Record:
    said_by = need(turn, "from", str, "a turn")
    value = turn.get("value")
    if value is not None and not isinstance(value, str):
        raise Unfit(f"'value' of a turn is {kind_of(value)}, not a text")
    return {"role": _SHAREGPT.get(said_by, said_by), "content": value or ""}


def _alpaca(row: Any) -> Record:
    asked = [need(row, "instruction", str), row.get("input")]
    turns: list[Record] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.append({"role": "system", "content": row["system"]})
    history = row.get("history") or []
    if not isinstance(history, list):
        raise Unfit(f"'history' is {kind_of(history)}, not a list")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise Unfit("'history' holds something else than pairs of a question and its answer")
        turns += _exchange(*pair)
    question = "\n".join(each for each in asked if isinstance(each, str) and each.strip())
    return _record(row, [*turns, *_exchange(question, need(row, "output", str))])


def _exchange(question: str, answer: str) -> list[Record]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def learnable(turns: Sequence[Record]) -> list[Record]:
    """Returns the turns of a conversation up to its last reply that is learned.

    Raises:
        Unfit: A turn is empty, its role is unknown, the roles do not alternate after what the system says, or nobody
            replies to the user.
    """
    before, last = "", 0
    for at, turn in enumerate(turns, start=1):
        role = turn["role"]
        if role not in _AFTER:
            raise Unfit(f"turn {at} has the role {role!r}; known are system, user, assistant and tool")
        if not turn["content"].strip():
            raise Unfit(f"turn {at}, of the {role}, is empty")
        if role not in _AFTER[before]:
            after = f"after the {before}" if before else "at the beginning"
            raise Unfit(f"turn {at} is of the {role}, {after}: nobody can tell what answers what")
        if role == "assistant" and turn.get("learned", True):
            last = at
        before = role
    if not last:
        raise Unfit("no turn of the assistant answers the user")
    return [
        {"role": "assistant", "content": turn["content"], "learned": False} if turn["role"] == _CALL else turn
        for turn in turns[:last]
    ]
