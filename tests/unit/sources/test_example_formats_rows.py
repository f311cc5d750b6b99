"""Rows of a task's own schema, or brought to it by other names for fields and labels."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from llmyard.sources.config import FORMAT_TASKS, ExampleSource, Records


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_fields_are_taken_from_where_columns_say(read_format: Any) -> None:
    rows = [
        {"content": "好看", "stars": 5, "meta": {"shop": "a"}, "text": "a title", "kept": 1},
        {"content": "Dull", "stars": 1, "meta": {"shop": "b"}},
    ]
    columns = {"text": "content", "label": "stars", "group": "meta.shop", "text_pair": "second"}
    records, bad = read_format(
        lines(*rows), "jsonl", "classification", columns=columns, labels={"5": "good", "1": "bad"}
    )
    assert not bad
    assert records == [
        {"id": "1", "kept": 1, "text": "好看", "label": "good", "group": "a", "language": "zh"},
        {"id": "2", "text": "Dull", "label": "bad", "group": "b", "language": "en"},
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": 1}, "the record has no 'content', which `columns` says is its text"),
        ({"content": None, "label": 1}, "the record has no 'content'"),
        ({"content": "A", "label": 7}, "the label '7' is none of `labels`: 1, x"),
        ({"content": "A", "label": True}, "the label True is none of `labels`: 1, x"),
        ({"content": "A", "label": ["x"]}, "the label ['x'] is none of `labels`"),
        ([1], "the record is a list, not an object"),
    ],
)
def test_a_row_without_what_columns_and_labels_say_is_quarantined(read_format: Any, row: Any, reason: str) -> None:
    fields = {"columns": {"text": "content"}, "labels": {"1": "one", "x": "ex"}}
    records, (bad,) = read_format(lines({"content": "A", "label": "x"}, row), "jsonl", "classification", **fields)
    assert [record["label"] for record in records] == ["ex"]
    assert bad.record == 2
    assert reason in bad.reason


def test_labels_that_are_numbers_are_names(read_format: Any) -> None:
    records, _ = read_format(lines({"text": "A", "label": 0}, {"text": "B", "relation": 3}), "jsonl", "classification")
    assert (records[0]["label"], records[1]["relation"]) == ("0", "3")


@pytest.mark.parametrize(
    ("given", "answers"),
    [
        ({"text": ["A", "B"], "answer_start": [0, 5]}, [{"text": "A", "start": 0}, {"text": "B", "start": 5}]),
        ({"text": [], "answer_start": []}, []),
        ({"text": ["A"]}, [{"text": "A"}]),
        ([{"text": "A", "answer_start": 3}], [{"text": "A", "start": 3}]),
        ([{"text": "A", "start": 3}, {"text": "A", "start": 3}], [{"text": "A", "start": 3}]),
        ([{"text": "A", "start": None}], [{"text": "A"}]),
        ("A", [{"text": "A"}]),
        ("", []),
        (["A", "B"], [{"text": "A"}, {"text": "B"}]),
        (5, 5),  # the task says what is wrong with it
    ],
)
def test_answers_are_read_as_data_sets_write_them(read_format: Any, given: Any, answers: Any) -> None:
    row = {"context": "A, B.", "question": "?", "answers": given}
    (record,), _ = read_format(lines(row), "jsonl", "question_answering")
    assert record["answers"] == answers
    (other,), _ = read_format(lines(row), "jsonl", "translation")
    assert other["answers"] == given


@pytest.mark.parametrize("given", [{"text": "A"}, {"text": ["A"], "answer_start": [1, 2]}, {}])
def test_answers_that_do_not_fit_together_are_quarantined(read_format: Any, given: Any) -> None:
    _, (bad,) = read_format(lines({"context": "A", "question": "?", "answers": given}), "jsonl", "question_answering")
    assert "answers" in bad.reason


def test_the_language_is_the_records_own_or_the_jobs_or_told_by_its_letters(read_format: Any) -> None:
    rows = lines({"text": "Hello"}, {"text": "你好 Hi"}, {"text": "Hello", "language": "zh"}, {"label": "a"})
    records, _ = read_format(rows, "jsonl", "summarization")
    assert [record.get("language") for record in records] == ["en", "zh", "zh", None]
    records, _ = read_format(rows, "jsonl", "summarization", language="zh")
    assert [record.get("language") for record in records] == ["zh"] * 4


def test_both_languages_of_a_translation_are_told_by_their_letters(read_format: Any) -> None:
    rows = lines({"pair": {"en": "Hello", "zh": "你好"}}, {"pair": {"en": "Hi", "zh": "嗨"}, "target_language": "en"})
    columns = {"source": "pair.en", "target": "pair.zh"}
    records, _ = read_format(rows, "jsonl", "translation", columns=columns)
    assert [(record["source_language"], record["target_language"]) for record in records] == [
        ("en", "zh"),
        ("en", "en"),
    ]
    assert "pair" not in records[0]


def test_ids_are_the_users_or_tell_file_and_line(read_format: Any) -> None:
    content = lines({"text": "A"}, {"id": None, "text": "B"}) + b'\n{"text": "C"}\r\n'
    records, _ = read_format(content, "jsonl", "translation")
    assert [record["id"] for record in records] == ["1", "2", "4"]


def test_a_list_is_read_as_lines_are(read_format: Any) -> None:
    rows: list[Any] = [{"text": "A"}, [], {"text": "B"}]
    for content in (json.dumps(rows).encode(), json.dumps(rows, indent=2).encode(), b"\xef\xbb\xbf \n" + lines(rows)):
        records, bad = read_format(content, "jsonl", "translation")
        assert [record["text"] for record in records] == ["A", "B"]
        assert [item.record for item in bad] == [2]
    records, bad = read_format(lines([], {"text": "A"}), "jsonl", "translation")  # lines, the first of which is wrong
    assert ([record["id"] for record in records], [item.record for item in bad]) == (["2"], [1])


def test_old_job_files_stay_valid() -> None:
    old = {"kind": "records", "train": "a", "validation": "b", "test": "c"}
    source = TypeAdapter(ExampleSource).validate_python(old)
    assert isinstance(source, Records)
    assert source.format == "jsonl"
    again = TypeAdapter(ExampleSource).validate_python(source.model_dump(mode="json"))
    assert again == source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "squad", "columns": {"text": "a"}}, "`columns` is for format: jsonl"),
        ({"format": "messages", "labels": {"a": "b"}}, "`labels` is for format: jsonl"),
        ({"format": "csv"}, "Input should be 'jsonl'"),
        ({"test_share": 0.5}, "less than 0.5"),
        ({"language": "de"}, "Input should be 'en' or 'zh'"),
        ({"train": ()}, "at least 1 item"),
    ],
)
def test_wrong_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Records(**{"train": "a", **fields})


def test_all_formats_but_jsonl_say_what_they_are_for() -> None:
    formats = Records.model_fields["format"].annotation
    assert {*FORMAT_TASKS, "jsonl"} == set(formats.__args__)  # type: ignore[union-attr]
