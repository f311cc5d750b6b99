"""Entities in CoNLL's columns, and summaries of QMSum's meetings."""

from __future__ import annotations

import json
from typing import Any

import pytest


def named(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns names and types of entities, which stand where they say."""
    for entity in record["entities"]:
        assert record["text"][entity["start"] : entity["end"]] == entity["text"]
    return [(entity["text"], entity["type"]) for entity in record["entities"]]


ENGLISH = b"""-DOCSTART- -X- O

# id 7
Ann NNP B-PER
Lee NNP I-PER
left VB O
New NNP B-LOC
York NNP I-LOC
. . O

# O
"""
CHINESE = "小\tB-PER\n明\tI-PER\n去\tO\n北\tB-LOC\n京\tI-LOC\n\u3000\tO\n。\tO\n"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_english_tokens_are_joined_by_spaces(read_format: Any, line_end: bytes) -> None:
    (one, two), bad = read_format(ENGLISH.replace(b"\n", line_end), "conll", "knowledge_graph")
    assert not bad
    assert (one["id"], one["text"], one["language"], one["triples"]) == ("4", "Ann Lee left New York .", "en", [])
    assert named(one) == [("Ann Lee", "PER"), ("New York", "LOC")]
    assert (two["text"], two["entities"]) == ("#", [])  # with a tag a number sign is a token


def test_chinese_tokens_are_joined_as_they_are(read_format: Any) -> None:
    (record,), bad = read_format(b"\xef\xbb\xbf" + CHINESE.encode(), "conll", "knowledge_graph")
    assert not bad
    assert (record["text"], record["language"]) == ("小明去北京\u3000。", "zh")
    assert named(record) == [("小明", "PER"), ("北京", "LOC")]
    (spaced,), _ = read_format(CHINESE.encode(), "conll", "knowledge_graph", language="en")
    assert named(spaced) == [("小 明", "PER"), ("北 京", "LOC")]


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-X B-X O", ["a", "b"]),
        ("I-X I-X I-Y", ["a b", "c"]),
        ("B-X O I-X", ["a", "c"]),
        ("B-X I-Y I-Y", ["a", "b c"]),
        ("B-X M-X E-X", ["a b c"]),
        ("S-X S-X O", ["a", "b"]),
        ("B-X E-X I-X", ["a b", "c"]),
        ("U-X B-X L-X", ["a", "b c"]),
        ("O O O", []),
    ],
)
def test_tags_of_all_schemes_are_read(read_format: Any, tags: str, entities: list[str]) -> None:
    lines = "".join(f"{token} {tag}\n" for token, tag in zip("abc", tags.split(), strict=True))
    (record,), _ = read_format(lines.encode(), "conll", "knowledge_graph")
    assert [name for name, _ in named(record)] == entities


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"token", "there is one column"),
        (b"token X", "the tag 'X' is not O, B-type or I-type"),
        (b"token B", "the tag 'B' is not"),
        (b"token B-", "the tag 'B-' is not"),
        (b"token Z-PER", "the tag 'Z-PER' is not"),
        (b"O", "there is one column"),
        (b"\xe5\x8c O", "not UTF-8"),
    ],
)
def test_a_wrong_line_takes_its_sentence_along(read_format: Any, line: bytes, reason: str) -> None:
    content = b"a O\n" + line + b"\nb O\n\nc O\n"
    (record,), (bad,) = read_format(content, "conll", "knowledge_graph")
    assert record["text"] == "c"
    assert bad.record == 2
    assert reason in bad.reason
    assert read_format(b"", "conll", "knowledge_graph") == ([], [])


def meeting(*specific: Any, general: Any = (), turns: Any = None) -> dict[str, Any]:
    said = [("Ann", " Hello  all .\n"), ("Bob", ""), ("Cid", "Yes ."), ("Ann", "Bye .")]
    return {
        "general_query_list": list(general),
        "specific_query_list": list(specific),
        "meeting_transcripts": [{"speaker": who, "content": what} for who, what in said] if turns is None else turns,
    }


def query(*spans: Any, text: Any = "What?", answer: Any = "That.") -> dict[str, Any]:
    return {"query": text, "answer": answer, **({"relevant_text_span": list(spans)} if spans else {})}


def test_meetings_are_read_where_a_query_points(read_format: Any) -> None:
    rows = [
        meeting(query(["2", "2"]), query(["3", "3"], ["0", "1"]), general=[query(text="All?")]),
        meeting(query([0, 3]), turns=[{"speaker": "甲", "content": f"第{at}句。"} for at in range(4)]),
    ]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    records, bad = read_format(content, "qmsum", "summarization")
    assert not bad
    whole = "Ann: Hello all .\nCid: Yes .\nAnn: Bye ."
    assert {name: value for name, value in records[0].items() if name != "group"} == {
        "id": "1:1",
        "text": whole,
        "query": "All?",
        "summary": "That.",
        "language": "en",
    }
    assert [(record["id"], record["text"]) for record in records[1:3]] == [
        ("1:2", "Cid: Yes ."),
        ("1:3", "Ann: Hello all .\nAnn: Bye ."),
    ]
    assert records[3]["text"].splitlines() == [f"甲: 第{at}句。" for at in range(4)]
    assert records[3]["language"] == "zh"
    assert [record["group"] == records[0]["group"] for record in records] == [True, True, True, False]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "the meeting is a list, not an object"),
        ({"general_query_list": [query()]}, "the meeting has no 'meeting_transcripts'"),
        (meeting(), "the meeting has no queries"),
        (meeting(query(), turns=["Hello"]), "a turn is a string, not an object"),
        (meeting(query(), turns=[{"content": "A"}]), "a turn has no 'speaker'"),
        (meeting(query(), turns=[{"speaker": "A", "content": None}]), "'content' of a turn is null, not a text"),
        (meeting(query(), turns=[]), "query 1: no words are said where it points"),
        (meeting(query(["1", "1"])), "query 1: no words are said where it points"),
        (meeting(query(["2", "4"])), "'relevant_text_span' says turns 2 to 4 of 4"),
        (meeting(query(["3", "2"])), "'relevant_text_span' says turns 3 to 2 of 4"),
        (meeting(query(["a", "b"])), "is no pair of numbers"),
        (meeting(query(7)), "is no pair of numbers"),
        (meeting(query() | {"relevant_text_span": "12"}), "'relevant_text_span' of the query is a string, not a list"),
        (meeting(query(answer=" ")), "'answer' of the query is empty"),
        (meeting(query(text=None)), "the query has no 'query'"),
        (meeting(query(answer="\ud83d")), "half of a surrogate pair"),
    ],
)
def test_what_is_no_meeting_is_quarantined(read_format: Any, row: Any, reason: str) -> None:
    content = json.dumps(row).encode() + b"\r\n{\n"
    records, bad = read_format(content, "qmsum", "summarization")
    assert not records
    assert [item.record for item in bad] == [1, 2]
    assert reason in bad[0].reason
    assert "not JSON" in bad[1].reason
