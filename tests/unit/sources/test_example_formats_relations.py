"""Relations between marked entities: SemEval-2010 task 8, FinRE and FewRel."""

from __future__ import annotations

import json
from typing import Any

import pytest

TASK = "relation_classification"

SEMEVAL = """1\t"The <e1>coin</e1> lies in the <e2>drawer</e2>."
Content-Container(e1,e2)
Comment: a note

17\t"Say "it": the <e2>effect</e2> of a <e1>cause</e1>."
Other
Comment:

"""


def spans(record: dict[str, Any]) -> list[str]:
    """Returns what stands where the entities are said to stand."""
    found = []
    for end in ("subject", "object"):
        entity = record[end]
        assert record["text"][entity["start"] : entity["end"]] == entity["text"]
        found.append(entity["text"])
    return found


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_semeval_is_read(read_format: Any, line_end: str, mark: str) -> None:
    content = (mark + SEMEVAL.replace("\n", line_end)).encode()
    (one, two), bad = read_format(content, "semeval", TASK)
    assert not bad
    assert one == {
        "id": "1",
        "text": "The coin lies in the drawer.",
        "subject": {"text": "coin", "start": 4, "end": 8},
        "object": {"text": "drawer", "start": 21, "end": 27},
        "relation": "Content-Container(e1,e2)",
        "language": "en",
    }
    assert (two["id"], two["text"], two["relation"]) == ("17", 'Say "it": the effect of a cause.', "Other")
    assert spans(two) == ["cause", "effect"]


@pytest.mark.parametrize("kept", ["", "\n"])
def test_the_last_sentence_needs_no_empty_line_and_none_a_comment(read_format: Any, kept: str) -> None:
    content = '1\t"<e1>A</e1> <e2>b</e2>"\nR\n2\t"<e1>C</e1> <e2>d</e2>"\nR(e2,e1)' + kept
    records, bad = read_format(content.encode(), "semeval", TASK)
    assert not bad
    assert [(record["id"], record["relation"]) for record in records] == [("1", "R"), ("2", "R(e2,e1)")]


@pytest.mark.parametrize(
    ("block", "number", "reason"),
    [
        ('"<e1>A</e1> <e2>b</e2>"\nOther\n', 1, "no sentence begins here"),
        ('1\t"<e1>A</e1> <e2>b</e2>"\n', 1, "no relation below it"),
        ('1\t"<e1>A</e1> <e2>b</e2>"\nComment:\n', 1, "is no relation such as"),
        ('1\t"<e1>A</e1> <e2>b</e2>"\nCause-Effect(e1,e3)\n', 1, "'Cause-Effect(e1,e3)' is no relation"),
        ('1\t"<e1>A</e1> b"\nOther\n', 1, "does not mark one entity"),
        ('1\t"<e1>A</e1> <e2>b</e2> <e2>c</e2>"\nOther\n', 1, "does not mark one entity"),
        ('1\t"</e1>A<e1> <e2>b</e2>"\nOther\n', 1, "the subject is empty"),
        ('1\t"<e1>A</e1> <e2> </e2>"\nOther\n', 1, "the object is empty"),
        ('1\t"<e1>A</e1> <e2>b</e2>"\nOther\nmore\n', 1, "more than a sentence"),
    ],
)
def test_what_is_no_sentence_of_semeval_is_quarantined(read_format: Any, block: str, number: int, reason: str) -> None:
    records, (bad,) = read_format((block + "\n" + SEMEVAL).encode(), "semeval", TASK)
    assert len(records) == 2
    assert bad.record == number
    assert reason in bad.reason


def test_a_torn_line_takes_its_sentence_along(read_format: Any) -> None:
    content = SEMEVAL.encode().replace(b"Container", b"Con\xff")
    (record,), (bad,) = read_format(content, "semeval", TASK)
    assert record["id"] == "17"
    assert (bad.record, bad.reason) == (1, "line 1: not UTF-8 at byte 11")
    assert read_format(b"", "semeval", TASK) == ([], [])


def test_finre_is_read_in_both_orders(read_format: Any) -> None:
    content = "甲公司\t乙银行\t持股\t乙银行由甲公司持股。\n\n乙银行\t甲公司\t被持股\t乙银行由甲公司持股。\r\n"
    (one, two), bad = read_format(content.encode(), "finre", TASK)
    assert not bad
    assert one == {
        "id": "1",
        "text": "乙银行由甲公司持股。",
        "subject": {"text": "甲公司", "start": 4, "end": 7},
        "object": {"text": "乙银行", "start": 0, "end": 3},
        "relation": "持股",
        "language": "zh",
    }
    assert (two["id"], spans(two), two["relation"]) == ("3", ["乙银行", "甲公司"], "被持股")


@pytest.mark.parametrize(
    ("head", "tail", "text", "starts"),
    [
        ("平安", "平安银行", "平安银行说平安好", (5, 0)),  # the shorter one stands apart from the longer one
        ("平安银行", "平安", "平安银行说平安好", (0, 5)),
        ("平安", "平安", "平安注资平安", (0, 4)),
        ("平安", "平安银行", "平安银行", (0, 0)),  # nowhere apart
        ("哈哈", "哈", "哈哈哈", (0, 2)),
    ],
)
def test_entities_of_finre_stand_apart_where_they_can(
    read_format: Any, head: str, tail: str, text: str, starts: tuple[int, int]
) -> None:
    (record,), _ = read_format(f"{head}\t{tail}\t自己\t{text}".encode(), "finre", TASK)
    assert (record["subject"]["start"], record["object"]["start"]) == starts
    assert spans(record) == [head, tail]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("甲\t乙\t持股\n".encode(), "3 cells, or an empty one"),
        ("甲\t乙\t持股\t甲 乙\t多\n".encode(), "5 cells"),
        ("甲\t\t持股\t甲乙\n".encode(), "4 cells, or an empty one"),
        ("甲\t丁\t持股\t甲和乙\n".encode(), "the entity '丁' does not stand in the text"),
        (b"\xff\t\xff\n", "not UTF-8 at byte 0"),
    ],
)
def test_what_is_no_line_of_finre_is_quarantined(read_format: Any, line: bytes, reason: str) -> None:
    content = b"\xef\xbb\xbf" + line + "甲\t乙\t持股\t甲和乙\n".encode()
    (record,), (bad,) = read_format(content, "finre", TASK)
    assert record["id"] == "2"
    assert bad.record == 1
    assert reason in bad.reason


def sentence(head: Any = (1, 2), tail: Any = (4,), **fields: Any) -> dict[str, Any]:
    tokens = ["In", "Cape", "Town", "the", "Zürich", "."]
    return {"tokens": tokens, "h": ["x", "Q1", [list(head)]], "t": ["y", "Q2", [list(tail), [0]]], **fields}


def test_fewrel_is_read(read_format: Any) -> None:
    (one, two), bad = read_format({"P17": [sentence()], "P2": [sentence((4,), (1, 2))]}, "fewrel", TASK)
    assert not bad
    assert one == {
        "id": "P17/1",
        "text": "In Cape Town the Zürich .",
        "subject": {"text": "Cape Town", "start": 3, "end": 12},
        "object": {"text": "Zürich", "start": 17, "end": 23},
        "relation": "P17",
        "language": "en",
    }
    assert (two["id"], two["relation"], spans(two)) == ("P2/1", "P2", ["Zürich", "Cape Town"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"P1": [', "not JSON"),
        ([sentence()], "the document is a list, not an object of relations"),
        ({"P1": {}}, "'P1' of the document is an object, not a list"),
        ({"P1": ["A"]}, "P1: the sentence is a string, not an object"),
        ({"P1": [{"h": []}]}, "the sentence has no 'tokens'"),
        ({"P1": [sentence(tokens=[])]}, "'tokens' holds something else than texts"),
        ({"P1": [sentence(tokens=[1, 2])]}, "'tokens' holds something else than texts"),
        ({"P1": [sentence(h=None)]}, "the sentence has no 'h'"),
        ({"P1": [sentence(h=["x", "Q1"])]}, "the entity 'h' is not [name, id, [[indices of tokens]]]"),
        ({"P1": [sentence(h=["x", "Q1", [["a"]]])]}, "the entity 'h' is not"),
        ({"P1": [sentence((4, 6))]}, "the entity 'h' says tokens [4, 6] of 6"),
        ({"P1": [sentence((5, 6))]}, "the entity 'h' says tokens [5, 6] of 6"),
        ({"P1": [sentence((-1,))]}, "the entity 'h' says tokens [-1] of 6"),
        ({"P1": [sentence(())]}, "the entity 'h' is not"),
        ({"P1": [sentence(tokens=["a", " ", " ", "b", "c"])]}, "the subject is empty"),
        (json.dumps({"P1": [sentence(tokens=["a", "\ud83d", "b", "c", "d"])]}).encode(), "half of a surrogate pair"),
    ],
)
def test_what_is_no_sentence_of_fewrel_is_quarantined(read_format: Any, content: Any, reason: str) -> None:
    records, (bad,) = read_format(content, "fewrel", TASK)
    assert not records
    assert reason in bad.reason


def test_a_relation_is_the_label_of_its_sentence_where_no_entities_are_asked_for(read_format: Any) -> None:
    lines = "甲公司\t乙公司\t收购\t甲公司收购了乙公司。\n丙\t丁\n".encode()
    (record,), (bad,) = read_format(lines, "finre", "classification")
    assert record == {"id": record["id"], "text": "甲公司收购了乙公司。", "label": "收购", "language": "zh"}
    assert bad.record == 2
    block = b'1\t"The <e1>fire</e1> came from a <e2>spark</e2>."\nCause-Effect(e2,e1)\n'
    (record,), _ = read_format(block, "semeval", "classification")
    assert (record["text"], record["label"]) == ("The fire came from a spark.", "Cause-Effect(e2,e1)")
