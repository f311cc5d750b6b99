"""The readers on real corpora, where they are on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmyard.sources.config import Files

DATA = Path(os.environ.get("LLMYARD_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


@pytest.mark.parametrize(
    ("folder", "fields"),
    [
        ("gutenberg_en", {"format": "text", "document": "paragraph"}),
        ("gutenberg_en", {"format": "text"}),
        ("chinese_poetry", {"format": "json", "text_fields": ("paragraphs", "content"), "language": "zh"}),
        ("tatoeba_cmn/cmn.txt", {"format": "tsv", "columns": (0, 1)}),
    ],
)
def test_real_files_are_read_whole(read_source: Any, folder: str, fields: dict[str, Any]) -> None:
    pattern = "/**/*." + {"text": "txt", "json": "json", "tsv": ""}[fields["format"]]
    path = DATA / folder
    if not path.exists():
        pytest.skip(f"{path} is not here")
    paths = (str(path),) if path.is_file() else (f"{path}{pattern}",)
    found, bad = read_source(Files(paths=paths, **fields))
    assert len(found) > 2
    # One book has Latin-1 accents; some poems are empty.
    assert len(bad) <= max(1, 0.03 * len(found)), bad[:3]
    assert all("not UTF-8" in item.reason or "no text" in item.reason for item in bad)
    parts, parts_bad = read_source(Files(paths=paths, **fields), bytes_per_task=100_000)
    assert (parts, parts_bad) == (found, bad)
