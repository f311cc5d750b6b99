"""Parquet: by row groups, each with its own damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmyard.sources.config import Files, Limits

TEXTS = [f"第{number}段，全角　ＡＢＣ {number * 7919 % 10007}" for number in range(3000)]


def write(path: Path, texts: Any, **options: Any) -> Path:
    table = texts if isinstance(texts, pa.Table) else pa.table({"text": texts, "n": list(range(len(texts)))})
    pq.write_table(table, path, **{"row_group_size": 1000, "write_page_checksum": True, **options})
    return path


def source_of(path: Path, **fields: Any) -> Files:
    return Files(paths=(str(path),), format="auto", **fields)


def test_rows_are_documents_with_the_same_ids_in_any_parts(tmp_path: Path, read_source: Any) -> None:
    source = source_of(write(tmp_path / "a.parquet", TEXTS))
    whole, bad = read_source(source)
    assert [row["text"] for row in whole] == TEXTS
    assert [row["id"].partition("#")[2] for row in whole] == [str(number) for number in range(3000)]
    assert bad == []
    assert read_source(source, bytes_per_task=100) == (whole, [])
    assert read_source(source_of(write(tmp_path / "b.parquet", TEXTS[:0]))) == ([], [])


@pytest.mark.parametrize("checksums", [True, False])
def test_a_flipped_bit_costs_its_page_and_no_other_row_group(tmp_path: Path, read_source: Any, checksums: bool) -> None:
    compression = "none" if checksums else "gzip"  # without compression only a checksum tells
    path = write(tmp_path / "a.parquet", TEXTS, write_page_checksum=checksums, compression=compression)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    place = (group.dictionary_page_offset or group.data_page_offset) + group.total_compressed_size // 2
    data[place] ^= 0x10
    path.write_bytes(data)
    for parts in (100, 1 << 30):
        found, bad = read_source(source_of(path), bytes_per_task=parts)
        assert [row["text"] for row in found] == TEXTS[:1000] + TEXTS[2000:]
        assert [row["id"].partition("#")[2] for row in found[1000:1002]] == ["2000", "2001"]
        assert [(item.record, item.offset) for item in bad] == [(1000, group.dictionary_page_offset)]
        assert bad[0].reason.startswith("1000 of 1000 rows of row group 1 are lost: ")
        assert ("CRC" in bad[0].reason) == checksums


def test_rows_without_a_text_or_with_bytes_that_are_none_are_quarantined(tmp_path: Path, read_source: Any) -> None:
    values = ["好".encode(), None, b"", "国标".encode("gbk"), b"ok", b"\xed\xa0\x80", b"x" * 99, b"nul\x00"]
    offsets = pa.array(values, pa.binary())
    for array in (offsets, offsets.view(pa.string()), offsets.cast(pa.large_binary())):
        path = write(tmp_path / "a.parquet", pa.table({"text": array}))
        found, bad = read_source(source_of(path), Limits(max_record_bytes=98))
        assert [row["text"] for row in found] == ["好", "ok", "nul\0"]
        assert sorted((item.record, item.reason) for item in bad) == [
            (1, "no text in any of the fields text"),
            (2, "no text in any of the fields text"),
            (3, "the text is not UTF-8"),
            (5, "the text is not UTF-8"),
            (6, "the record is 99 bytes long, over max_record_bytes = 98"),
        ]
        assert {item.record: item.excerpt for item in bad}[3] == "\\xb9\\xfa\\xb1\\xea"


def test_columns_of_all_text_types_are_read(tmp_path: Path, read_source: Any) -> None:
    strings = pa.array(["一", None, "二"])
    arrays = [
        strings,
        strings.cast(pa.large_string()),
        strings.cast(pa.string_view()),
        strings.dictionary_encode(),
        pa.array([["一"], None, ["二"]]),
    ]
    for array in arrays:
        table = pa.table(
            {"body": array, "text": pa.nulls(3), "lang": pa.array(["zh", "zh", None]), "url": pa.array([1, 2, 3])}
        )
        path = write(tmp_path / "a.parquet", table)
        found, bad = read_source(
            source_of(path, text_fields=("text", "body"), language_field="lang", url_field="url", language="en")
        )
        assert [(row["text"], row["language"], row["url"]) for row in found] == [("一", "zh", ""), ("二", "en", "")]
        assert [item.record for item in bad] == [1]
    lists = pa.table({"text": pa.array([["第一段", "第二段"]])})
    found, _ = read_source(source_of(write(tmp_path / "a.parquet", lists)))
    assert [row["text"] for row in found] == ["第一段\n第二段"]


def test_a_file_that_has_no_texts_or_is_no_parquet_is_one_bad_record(tmp_path: Path, read_source: Any) -> None:
    path = write(tmp_path / "a.parquet", TEXTS)
    whole = path.read_bytes()
    damaged = {b"": "Parquet", b"PAR1": "Parquet", whole[:-3000]: "Parquet", b"text\n" * 100: "Parquet"}
    for data, reason in damaged.items():
        path.write_bytes(data)
        for parts in (1, 1 << 30):
            found, bad = read_source(source_of(path), bytes_per_task=parts)
            assert found == []
            assert len(bad) == 1
            assert reason in bad[0].reason
    write(path, pa.table({"text": [1, 2], "body": [{"a": 1}, {"a": 2}]}))
    for field, reason in (
        ("text", "the column text holds int64, not texts"),
        ("body", "the column body holds struct<a: int64>, not texts"),
        ("no", "no text in any of the fields no; the columns are text, body"),
    ):
        found, bad = read_source(source_of(path, text_fields=(field,)))
        assert (found, [item.reason for item in bad]) == ([], [reason])


def test_batches_of_long_texts_are_small(tmp_path: Path) -> None:
    from llmyard.sources.corpus import plan, read

    texts = [f"{number:05d}" + "长文" * 20_000 for number in range(300)]  # 36 MB; a dictionary page hides their size
    source = source_of(write(tmp_path / "a.parquet", [*texts, *texts]))
    (unit,) = plan([source], 1)
    batches = list(read(unit, source))
    assert [row for batch in batches for row in batch.table["text"].to_pylist()] == texts * 2
    assert max(batch.table["text"].nbytes for batch in batches) < 20 << 20
    ids = [row for batch in batches for row in batch.table["id"].to_pylist()]
    assert [id_.partition("#")[2] for id_ in ids] == [str(number) for number in range(600)]
