"""Questions in the layout of SQuAD and CMRC, and stories of bAbI: answers stand where they say, or are repaired."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.sources.example_formats.questions import nearest

TASK = "question_answering"
CONTEXT = "Ann met Bob in Rome. Bob left Rome for Oslo."
CHINESE = "小明去了北京，后来小明又去了上海。"


def document(*questions: Any, context: Any = CONTEXT, **article: Any) -> dict[str, Any]:
    return {"version": "1", "data": [{**article, "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(*answers: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "Where?", "answers": list(answers), **fields}


def answer(text: Any, start: Any) -> dict[str, Any]:
    return {"text": text, "answer_start": start}


def test_a_question_is_read_with_its_article(read_format: Any) -> None:
    (record,), bad = read_format(document(question(answer("Rome", 15)), title="Trips"), "squad", TASK)
    assert not bad
    assert record == {
        "id": "q1",
        "group": "Trips",
        "context": CONTEXT,
        "question": "Where?",
        "answers": [{"text": "Rome", "start": 15}],
        "language": "en",
    }


def test_the_layout_of_cmrc_is_read(read_format: Any) -> None:
    asked = {"id": "DEV_0_QUERY_0", "question": "先去了哪里？", "answers": [answer("北京", 4)] * 3}
    (record,), bad = read_format(document(asked, context=CHINESE, id="DEV_0", title="小明"), "squad", TASK)
    assert not bad
    assert (record["id"], record["group"], record["language"]) == ("DEV_0_QUERY_0", "小明", "zh")
    assert record["answers"] == [{"text": "北京", "start": 4}]  # three equal ones are one


def test_articles_are_told_by_title_by_id_or_by_what_is_said_of_the_text(read_format: Any) -> None:
    one = {"context": CONTEXT, "document_id": 630, "qas": [question(id=1)]}
    two = {"context": CONTEXT, "qas": [question(id=2)]}
    records, _ = read_format(
        [{"paragraphs": [one]}, {"id": "a7", "paragraphs": [two]}, {"title": " ", "paragraphs": [two]}], "squad", TASK
    )
    assert [record["group"] for record in records[:2]] == ["630", "a7"]
    assert len(records[2]["group"]) == 32
    assert [record["id"] for record in records] == ["1", "2", "2:3"]  # an id that is there already gets its number


@pytest.mark.parametrize(
    ("text", "said", "start"),
    [
        ("Rome", 14, 15),  # a little before
        ("Rome", 29, 30),  # the nearer one is the second
        ("Rome", 0, 15),
        ("Rome", 900, 30),
        ("Rome", -1, 15),
        ("Rome", None, 15),
        ("Rome", "15", 15),
        ("Bob ", 6, 8),
    ],
)
def test_an_answer_that_stands_elsewhere_is_taken_from_the_nearest_place(
    read_format: Any, text: str, said: Any, start: int
) -> None:
    (record,), bad = read_format(document(question(answer(text, said))), "squad", TASK)
    assert not bad
    assert record["answers"] == [{"text": text.strip(), "start": start}]
    assert record["repaired"] is True
    records, bad = read_format(document(question(answer(text, said))), "squad", TASK, repair_offsets=False)
    assert not records
    assert "is not where it is said to be" in bad[0].reason
    assert "`repair_offsets`" in bad[0].reason


def test_white_space_around_an_answer_is_no_part_of_it_and_no_repair(read_format: Any) -> None:
    (record,), _ = read_format(document(question(answer(" Rome. ", 14))), "squad", TASK)
    assert record["answers"] == [{"text": "Rome.", "start": 15}]
    assert "repaired" not in record


def test_an_answer_that_stands_nowhere_is_dropped_and_the_last_one_takes_the_question_along(read_format: Any) -> None:
    kept = question(answer("Paris", 3), answer("Oslo", 39), id="kept")
    lost = question(answer("Paris", 3), id="lost")
    (record,), (bad,) = read_format(document(kept, lost), "squad", TASK)
    assert (record["id"], record["answers"]) == ("kept", [{"text": "Oslo", "start": 39}])
    assert "repaired" not in record
    assert bad.record == 2
    assert bad.reason == (
        "record 2: the answer 'Paris' is not where it is said to be: ' met ' stands at 3 and nowhere in the context"
    )


def test_questions_without_an_answer_are_kept_where_the_file_says_so(read_format: Any) -> None:
    questions = [
        question(id="impossible", is_impossible=True, plausible_answers=[answer("Rome", 15)]),
        {"id": "v2", "question": "Why?", "is_impossible": True},
        question(id="none"),
        question(id="forgotten", is_impossible=False),
        {"id": "without", "question": "Why?"},
    ]
    records, bad = read_format(document(*questions), "squad", TASK)
    assert [(record["id"], record["answers"]) for record in records] == [("impossible", []), ("v2", []), ("none", [])]
    assert [(item.record, item.reason.partition(": ")[2]) for item in bad] == [
        (4, "the question has no answer, though it is said to be possible"),
        (5, "the question has no 'answers'"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"data": [', "not JSON"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"3", "the document is a number, not an object"),
        ({"data": {}}, "'data' of the document is an object, not a list"),
        ({"data": [{}]}, "an article has no 'paragraphs'"),
        ({"data": [7]}, "an article is a number, not an object"),
        ({"data": [{"paragraphs": [{"context": "A."}]}]}, "a paragraph has no 'qas'"),
        (document(question(), context=" "), "'context' of the paragraph is empty"),
        (document(question(), context=None), "the paragraph has no 'context'"),
        (document("Where?"), "the question is a string, not an object"),
        (document({"id": "a", "answers": []}), "the question has no 'question'"),
        (document({"question": " ", "answers": []}), "'question' of the question is empty"),
        (document({"question": "W?", "answers": "Rome"}), "'answers' of the question is a string, not a list"),
        (document(question("Rome")), "an answer is a string, not an object"),
        (document(question(answer(5, 0))), "'text' of an answer is a number, not a text"),
        (document(question(answer(" ", 0))), "'text' of an answer is empty"),
        (json.dumps(document(question(), context="a \ud83d b")).encode(), "half of a surrogate pair"),
    ],
)
def test_what_is_no_question_is_quarantined(read_format: Any, content: Any, reason: str) -> None:
    records, (bad,) = read_format(content, "squad", TASK)
    assert not records
    assert reason in bad.reason


def test_a_document_may_begin_with_a_byte_order_mark(read_format: Any) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(document(question())).encode().replace(b", ", b",\r\n")
    assert len(read_format(content, "squad", TASK)[0]) == 1


@given(st.text("ab", min_size=1, max_size=12), st.text("ab", min_size=1, max_size=3), st.integers(0, 15))
def test_the_nearest_occurrence_is_the_nearest(text: str, part: str, place: int) -> None:
    places = [at for at in range(len(text)) if text.startswith(part, at)]
    found = nearest(text, part, place)
    assert found == min(places, key=lambda at: (abs(at - place), at), default=None)


STORY = b"""1 Olga sat down in the cellar.
2 Igor climbed to the attic.
3 Where is Olga? \tcellar\t1
4 Olga climbed to the attic.
5 Where is Igor? \tattic\t2
6 Is Olga in the attic? \tyes\t4
1 Nina is no longer in the barn.
2 Is Nina in the barn? \tno\t1
3 What does Nina hold? \tplum,rope\t1
4 How many things does Nina hold?\ttwo\t1
"""


def test_stories_are_read_up_to_each_question(read_format: Any) -> None:
    records, bad = read_format(STORY, "babi", TASK)
    assert not bad
    assert [record["id"] for record in records] == ["3", "5", "6", "8", "9", "10"]
    first, second, *rest = records
    assert first["context"] == "Olga sat down in the cellar. Igor climbed to the attic."
    assert (first["question"], first["language"]) == ("Where is Olga?", "en")
    assert first["answers"] == [{"text": "cellar", "start": first["context"].index("cellar")}]
    assert first["evidence"] == [{"text": "Olga sat down in the cellar.", "start": 0}]
    # The support says which attic: the last one is Olga's.
    assert second["answers"] == [{"text": "attic", "start": second["context"].index("attic")}]
    assert [record["answers"] for record in rest] == [[{"text": text}] for text in ("yes", "no", "plum,rope", "two")]
    assert len({record["group"] for record in records[:3]}) == 1
    assert len({record["group"] for record in records}) == 2


def test_a_word_without_support_is_taken_where_it_stands_last_and_whole(read_format: Any) -> None:
    lines = b"1 Ann is in the park.\n2 Bob is in the park.\n3 The parking is full.\n4 Where is Bob?\tpark\n"
    (record,), _ = read_format(lines.replace(b"\n", b"\r\n"), "babi", TASK)
    assert record["answers"] == [{"text": "park", "start": record["context"].rindex("park.")}]
    assert "\r" not in record["context"]


def test_equal_stories_are_one_group_wherever_they_stand(read_format: Any) -> None:
    one = b"1 Ann is here.\n2 Where is Ann?\there\n"
    records, _ = read_format(one + STORY + one, "babi", TASK)
    assert records[0]["group"] == records[-1]["group"]


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (
            b"1 Ann is here.\nBob\n3 Where is Ann?\there\n1 A b.\n2 Where?\tb\n",
            [(2, "no number"), (3, "gap at line 2")],
        ),
        (b"1 Ann is here.\n\xff\n3 Where is Ann?\there\n", [(2, "not UTF-8"), (3, "gap at line 2")]),
        (b"1 Ann is here.\n3 Bob left.\n4 Where is Ann?\there\n", [(3, "gap at line 2")]),
        (b"2 Ann is here.\n3 Where is Ann?\there\n", [(2, "gap at line 1")]),
        (b"1 Ann is here.\n2 Where is Ann?\t\n", [(2, "no answer")]),
        (b"1 Ann is here.\n2 Where is Ann?\n", [(2, "no answer")]),
        (b"1 Ann is here.\n2 \there\t1\n", [(2, "no number")]),
        (b"1 Where is Ann?\there\n", [(1, "no sentence before the question")]),
        (b"", []),
    ],
)
def test_a_story_with_a_gap_is_quarantined_from_there_on(
    read_format: Any, content: bytes, bad: list[tuple[int, str]]
) -> None:
    records, found = read_format(content, "babi", TASK)
    assert [item.record for item in found] == [number for number, _ in bad]
    assert all(reason in item.reason for item, (_, reason) in zip(found, bad, strict=True))
    assert [record["answers"] for record in records] == ([[{"text": "b", "start": 2}]] if b"A b" in content else [])
