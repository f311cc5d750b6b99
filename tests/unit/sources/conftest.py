"""Reading whole sources, for the tests of all formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmyard.sources.config import Files, HubDataset, Limits, Records
from llmyard.sources.corpus import BadRecord, plan, read
from llmyard.sources.examples import plan_examples, read_examples

Read = Callable[..., tuple[list[dict[str, str]], list[BadRecord]]]
ReadExamples = Callable[..., tuple[list[dict[str, Any]], list[BadRecord]]]


@pytest.fixture
def read_source() -> Read:
    """Gives a function that reads a source to rows and bad records."""

    def read_all(
        source: Files | HubDataset, limits: Limits | None = None, bytes_per_task: int = 64 << 20
    ) -> tuple[list[dict[str, str]], list[BadRecord]]:
        rows: list[dict[str, str]] = []
        bad: list[BadRecord] = []
        for unit in plan([source], 10, bytes_per_task):
            for batch in read(unit, source, limits or Limits()):
                batch.table.validate(full=True)
                assert batch.table.schema.names == ["id", "text", "source", "language", "url"]
                assert not any(column.null_count for column in batch.table.columns)
                rows += batch.table.to_pylist()
                bad += batch.bad
        assert len({row["id"] for row in rows}) == len(rows)
        assert all(len(record.excerpt) <= 200 for record in bad)
        return rows, bad

    return read_all


@pytest.fixture
def read_bytes(tmp_path: Path, read_source: Read) -> Read:
    """Gives a function that reads bytes as a file of a format, named by its suffix."""

    def read_file(
        data: bytes, name: str, limits: Limits | None = None, bytes_per_task: int = 64 << 20, **fields: Any
    ) -> tuple[list[dict[str, str]], list[BadRecord]]:
        path = tmp_path / name
        path.write_bytes(data)
        return read_source(
            Files(paths=(str(path),), **{"format": "auto", **fields}), limits, bytes_per_task=bytes_per_task
        )

    return read_file


@pytest.fixture
def read_split() -> ReadExamples:
    """Gives a function that reads a split of a source of examples to records and bad records."""

    def read_all(source: Any, split: str, task: str) -> tuple[list[dict[str, Any]], list[BadRecord]]:
        found = [item for unit in plan_examples(source, split) for item in read_examples(unit, source, task)]
        records = [item for item in found if isinstance(item, dict)]
        assert len({record["id"] for record in records}) == len(records)
        return records, [item for item in found if isinstance(item, BadRecord)]

    return read_all


@pytest.fixture
def read_format(tmp_path: Path, read_split: ReadExamples) -> ReadExamples:
    """Gives a function that reads bytes, or data as JSON, as a file of a format of examples: no split is dealt out."""

    def read_file(
        content: Any, format_: str, task: str, name: str = "data", **fields: Any
    ) -> tuple[list[dict[str, Any]], list[BadRecord]]:
        path = tmp_path / name
        if not isinstance(content, bytes):
            content = json.dumps(content, ensure_ascii=False).encode()
        path.write_bytes(content)
        named = {split: str(path) for split in ("train", "validation", "test")}
        records, bad = read_split(Records(format=format_, **named, **fields), "train", task)
        assert all(item.path == str(path) for item in bad)
        prefix = f"{tmp_path.name}/{name}#"
        for record in records:
            assert record["id"].startswith(prefix)
            record["id"] = record["id"].removeprefix(prefix)
        return records, bad

    return read_file
