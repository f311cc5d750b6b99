"""Reading whole sources, for the tests of all formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmyard.sources.config import Files, HubDataset, Limits
from llmyard.sources.corpus import BadRecord, plan, read

Read = Callable[..., tuple[list[dict[str, str]], list[BadRecord]]]


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
