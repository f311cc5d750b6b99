"""What `check` says of the first examples of a job's files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.errors import RequestError
from llmyard.sources.config import ParallelText, Records
from llmyard.stages.config import job_adapter
from llmyard.stages.first_examples import misread, refuse_misread
from llmyard.tasks.config import Classification, QuestionAnswering

CONTEXT = "马洛住在科拉镇。"
QUESTION = {"question": "马洛住在哪里？", "context": CONTEXT, "answers": [{"text": "科拉镇", "start": 4}]}
SQUAD: dict[str, Any] = {
    "version": "1",
    "data": [
        {
            "title": "a",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [{"id": str(n), "question": "哪里？", "answers": [{"text": "科拉镇", "answer_start": 4}]}
                            for n in range(9)],
                }
            ],
        }
    ],
}  # fmt: skip
TALK = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
ASK = QuestionAnswering()


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def document(path: Path, value: Any, **layout: Any) -> str:
    path.write_text(json.dumps(value, ensure_ascii=False, **layout), encoding="utf-8")
    return str(path)


def said(source: Any, task: Any = ASK) -> str:
    found = misread(source, task)
    return "" if found is None else f"{found[0][0]}: {found[1].what}; {found[1].remedy}"


def test_json_lines_are_no_squad_whatever_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "a.jsonl", *[{**QUESTION, "id": str(n)} for n in range(40)])
    for small in (1 << 20, 10):
        monkeypatch.setattr("llmyard.stages.first_examples._SMALL", small)
        found = said(Records(format="squad", train=path))
        assert "a.jsonl can be read as format: squad" in found
        assert "it is JSON lines and not one document; it can be read as format: jsonl" in found
    assert said(Records(train=path)) == ""


@pytest.mark.parametrize("layout", [{}, {"indent": 1}])
def test_squad_is_no_json_lines(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = document(tmp_path / "squad.json", SQUAD, **layout)
    found = said(Records(train=path))
    assert "can be read as format: jsonl" in found
    assert found.endswith("it can be read as format: squad")
    assert said(Records(format="squad", train=path)) == ""
    assert said(Records(format="squad", train=path), None) == ""
    packed = tmp_path / "squad.json.gz"
    packed.write_bytes(gzip.compress(Path(path).read_bytes()))
    assert said(Records(format="squad", train=str(packed))) == ""


def test_what_the_task_cannot_use_is_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *[{"text": "好", "class": "a"}] * 9)
    assert "label" in said(Records(train=path), Classification())
    assert said(Records(train=path, columns={"label": "class"}), Classification()) == ""
    assert said(Records(train=path), None) == ""  # the checkpoint's own task is not known yet
    # Labels that encoders read and texts that others write are asked of the same records.
    assert said(Records(train=lines(tmp_path / "b.jsonl", *[{**QUESTION, "answers": []}] * 9))) == ""


def test_one_good_record_among_the_first_is_enough(tmp_path: Path) -> None:
    good = {**QUESTION, "id": "1"}
    path = lines(tmp_path / "a.jsonl", *[{"no": "record"}] * 20, *[good] * 30)
    assert said(Records(train=path)) == ""
    assert said(Records(train=path, max_bad_share=1.0)) == ""
    bad = lines(tmp_path / "b.jsonl", *[{"no": "record"}] * 20)
    assert said(Records(train=path, test=bad)).startswith("test: nothing at the beginning of")
    assert said(Records(train=path, test=bad, max_bad_share=1.0)) == ""


def test_a_folder_may_hold_what_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("About these data.\n", encoding="utf-8")
    lines(tmp_path / "a.jsonl", *[QUESTION] * 30)
    assert said(Records(train=str(tmp_path))) == ""
    (tmp_path / "a.jsonl").unlink()
    assert "README.md" in said(Records(train=str(tmp_path)))


def test_long_documents_are_not_parsed_only_to_look_at_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmyard.stages.first_examples._SMALL", 10)

    def parsed(path: str) -> Any:
        raise AssertionError(f"{path} was parsed")

    monkeypatch.setattr("llmyard.sources.example_formats.reading.document_of", parsed)
    assert said(Records(format="squad", train=document(tmp_path / "a.json", SQUAD))) == ""
    assert said(Records(train=document(tmp_path / "b.json", [QUESTION] * 5, indent=1))) == ""


def test_parallel_text_has_two_columns(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one column\n" * 9, encoding="utf-8")
    assert "line 1 has no texts in columns 0 and 1" in said(ParallelText(paths=(str(tmp_path / "a.tsv"),)), None)
    (tmp_path / "a.tsv").write_text("A lamp.\t一盏灯。\n" * 9, encoding="utf-8")
    assert said(ParallelText(paths=(str(tmp_path / "a.tsv"),)), None) == ""


def test_a_stage_is_refused_with_the_place_in_the_file(tmp_path: Path) -> None:
    talk = lines(tmp_path / "talk.jsonl", *[TALK] * 20)
    data = {"kind": "records", "format": "alpaca", "train": talk}
    tuned = {"kind": "finetune", "output": "m", "task": {"kind": "dialogue"}, "tokenizer": "t", "init": "b",
             "steps": 1}  # fmt: skip
    also = {"task": {"kind": "instruction"}, "data": data}
    for fields, place in (
        ({"data": data}, "data.train"),
        ({"data": {**data, "format": "messages"}, "also": [also]}, "also.0.data.train"),
    ):
        stage = job_adapter().validate_python({**tuned, **fields})
        with pytest.raises(RequestError, match=f"job.yaml:{place}: .* read as format: alpaca: .*instruction") as found:
            refuse_misread(stage, lambda at: "job.yaml:" + ".".join(map(str, at)))
        assert found.value.remedy == "it can be read as format: jsonl or messages"
    texts = {"kind": "task_texts", "task": "dialogue", "data": data}
    stage = job_adapter().validate_python(
        {"kind": "prepare", "output": "c", "sources": [{"kind": "smallworld"}, texts]}
    )
    with pytest.raises(RequestError, match=r"sources\.1\.data\.train"):
        refuse_misread(stage, lambda at: ".".join(map(str, at)))


def test_a_format_of_other_tasks_is_refused_with_its_place(tmp_path: Path) -> None:
    data = {"kind": "records", "format": "squad", "train": document(tmp_path / "a.json", SQUAD)}
    texts = {"kind": "task_texts", "task": "translation", "data": data}
    stage = job_adapter().validate_python({"kind": "prepare", "output": "c", "sources": [texts]})
    with pytest.raises(RequestError, match=r"sources\.0\.data\.train: .* for question_answering, not for translation"):
        refuse_misread(stage, lambda at: ".".join(map(str, at)))


def test_questions_asked_of_an_index_need_no_text(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *[{"question": "哪里？", "answers": [{"text": "科拉镇"}]}] * 20)
    asked = {"kind": "evaluate", "output": "e", "checkpoint": "m", "task": {"kind": "question_answering"},
             "data": {"kind": "records", "train": path}}  # fmt: skip
    refuse_misread(job_adapter().validate_python({**asked, "retrieval": {"index": "i"}}), str)
    with pytest.raises(RequestError, match="context"):
        refuse_misread(job_adapter().validate_python(asked), str)
