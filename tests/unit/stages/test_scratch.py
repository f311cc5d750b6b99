"""What rounds leave for each other: a table that cannot be written is one clear error."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from llmyard.core.errors import LlmyardError
from llmyard.core.storage import Storage
from llmyard.stages.preparing.scratch import Scratch, TableWriter

TABLE = pa.table({"text": ["文字" * 1000]})


def test_a_table_comes_back_row_group_by_row_group(tmp_path: Path) -> None:
    scratch = Scratch(Storage(str(tmp_path)), "making")
    with scratch.table_writer("clean/000001.parquet", TABLE.schema) as writer:
        writer.write_table(TABLE)
        writer.write_table(TABLE)
    assert [len(table) for table in scratch.tables("clean/000001.parquet")] == [1, 1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, a disk that is always full")
def test_a_full_disk_is_told_with_its_remedy() -> None:
    with pytest.raises(LlmyardError, match="cannot write /dev/full") as caught:
        TableWriter(Storage("/dev"), "/dev/full", TABLE.schema)
    assert "free some disk space" in caught.value.remedy
