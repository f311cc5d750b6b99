"""Texts of a task's examples as documents: held-out ones only where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from llmyard.sources.config import Limits, TaskTexts
from llmyard.sources.task_texts import read_task_texts, units_of


def source(folder: Path, named: bool, **fields: Any) -> TaskTexts:
    """Examples of three splits, in files of their own or dealt out of one."""
    rows = [{"id": str(at), "text": f"第{at}句。", "label": "a", "language": "zh"} for at in range(60)]
    parts = {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]} if named else {"train": rows}
    for split, part in parts.items():
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in part)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    data = {"kind": "records"} | {split: str(folder / f"{split}.jsonl") for split in parts}
    return TypeAdapter(TaskTexts).validate_python({"task": "classification", "data": data, **fields})


def texts(given: TaskTexts) -> list[str]:
    return [
        text
        for unit in units_of(0, given)
        for batch in read_task_texts(unit, given, Limits())
        for text in batch.table["text"].to_pylist()
    ]


@pytest.mark.parametrize("named", [True, False])
def test_held_out_texts_are_read_only_where_that_is_asked_for(tmp_path: Path, named: bool) -> None:
    trained = texts(source(tmp_path, named))
    everything = texts(source(tmp_path, named, held_out=True))
    assert len(everything) == len(set(everything)) == 60
    assert set(trained) < set(everything)
    assert "第59句。" in everything
    if named:
        assert len(trained) == 40


def test_only_the_fields_that_are_named_are_read(tmp_path: Path) -> None:
    assert texts(source(tmp_path, True, fields=["summary"])) == []
