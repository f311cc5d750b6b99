"""The data files of the harness's task files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmyard.evaluation.task_files import data_files


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dataset_kwargs: {data_files: {test: a.jsonl, train: [b.jsonl, c.jsonl]}}", ["a.jsonl", "b.jsonl", "c.jsonl"]),
        ("dataset_kwargs: {data_files: 数据.jsonl}\ndoc_to_text: !function code.ask", ["数据.jsonl"]),
        ("dataset_path: a/b", []),
        ("dataset_kwargs: {data_files: 3}", []),
        ("- a", []),
        ("a: [", []),
        ("since: 2026-02-30\ndataset_kwargs: {data_files: {test: a.jsonl}}", []),  # there is no such day
    ],
)
def test_data_files_are_found_and_no_code_is_run(text: str, found: list[str], tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(text, encoding="utf-8")
    assert data_files(file) == found


def test_a_file_of_other_bytes_names_none(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_bytes(b"\xff\xfe\x00")
    assert data_files(tmp_path / "task.yaml") == []
