"""Tab- and comma-separated records, JSON lists."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmyard.sources.batches import Origin
from llmyard.sources.config import Files, Limits
from llmyard.sources.fields import Fields
from llmyard.sources.formats.csv_records import read_comma_separated
from llmyard.sources.streams import Stream


def test_chosen_columns_of_a_line_are_a_document(read_bytes: Any) -> None:
    data = "Hi.\t你好。\tsource 1\r\nonly one\n\n \t \nRun.\t跑，全角　。\tsource 2\n".encode() + b"\xff\t\xfe\nA\tB"
    found, bad = read_bytes(data, "pairs.tsv", columns=(0, 1))
    assert [row["text"] for row in found] == ["Hi.\n你好。", "Run.\n跑，全角　。", "A\nB"]
    assert [row["id"].rpartition("#")[2] for row in found] == ["0", "38", str(len(data) - 3)]
    assert [(item.offset, item.reason) for item in bad] == [
        (data.index(b"\xff"), "not UTF-8 at byte 0 of the line"),
        (24, "the line has 1 columns, no column 1"),
    ]
    assert [item.excerpt for item in bad] == ["\\xff\t\\xfe", "only one"]
    one, _ = read_bytes(data, "pairs.tsv", columns=(1,))
    assert [row["text"] for row in one] == ["你好。", "跑，全角　。", "B"]


def test_lines_of_another_encoding_or_too_long_are_quarantined(read_bytes: Any) -> None:
    data = "好\t一\n".encode() + "国标\t码\n".encode("gbk") + b"x" * 200 + b"\ty\n" + "好\t二\n".encode()
    for parts in (5, 64, 1 << 20):
        found, bad = read_bytes(data, "a.tsv", Limits(max_record_bytes=100), bytes_per_task=parts, columns=(1,))
        assert [row["text"] for row in found] == ["一", "二"]
        assert sorted(item.offset for item in bad) == [8, 16]
    found, bad = read_bytes(gzip.compress(data), "a.tsv.gz", columns=(1,))
    assert len(found) == 3


def rows_of(rows: list[list[str]], **options: Any) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **options).writerows(rows)
    return buffer.getvalue().encode()


def test_cells_of_comma_separated_records_may_hold_anything(read_bytes: Any) -> None:
    rows = [
        ["id", "text", "lang", "url"],
        ["1", '他说："你好，世界"\n第二行\r\n第三行', "zh", "http://x/"],
        ["2", "plain　全角", "", ""],
        ["3", "", "en", ""],
        ["4", "null", "en", "NA"],
    ]
    for options in ({}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\n"}, {"delimiter": ";"}):
        data = b"\xef\xbb\xbf" + rows_of(rows, **options)
        found, bad = read_bytes(
            data, "a.csv", language_field="lang", url_field="url", delimiter=options.get("delimiter", ",")
        )
        assert [(row["text"], row["language"], row["url"]) for row in found] == [
            (rows[1][1], "zh", "http://x/"), ("plain　全角", "", ""), ("null", "en", "NA"),
        ]  # fmt: skip
        assert [item.reason for item in bad] == ["no text in any of the fields text"]
        assert found[0]["id"].endswith(f"#{data.index(b'1', 3) - (1 if options.get('quoting') else 0)}")


def test_bad_comma_separated_records_cost_themselves_only(read_bytes: Any) -> None:
    data = b"\n".join(
        [
            b"id,text", b"1,a", b"2", b"3,b,c", b'4,"unclosed', b"5,d", "6,国标".encode("gbk"), b'7,5" disk',
            '8,"多行\n的字段"'.encode(), b"9,\xff", b'10,"x"y', b'11,"e"', b"",
        ]
    )  # fmt: skip
    found, bad = read_bytes(data, "a.csv")
    assert [row["text"] for row in found] == ["a", "d", '5" disk', "多行\n的字段", "xy", "e"]
    assert [item.reason for item in bad] == [
        "the record has 1 cells, the header 2",
        "the record has 3 cells, the header 2",
        "a quote is never closed, or stands where none may",
        "not UTF-8 at byte 2 of the record",
        "not UTF-8 at byte 2 of the record",
    ]
    assert [item.excerpt for item in bad][:3] == ["2", "3,b,c", '4,"unclosed']
    assert all(data[item.offset - 1 : item.offset] == b"\n" for item in bad)


def test_comma_separated_records_of_any_length_and_a_stray_quote(
    read_bytes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmyard.sources.formats.csv_records.BLOCK_BYTES", 50)
    limits = Limits(max_record_bytes=300)
    long = b'2,"' + b"y" * 500 + b'"\n'
    data = b"id,text\n1,a\n" + long + b"3,b\n" + b'4,"stray\n' + b"".join(b"5,line %d\n" % at for at in range(100))
    found, bad = read_bytes(data, "a.csv", limits)
    assert [row["text"] for row in found] == ["a", "b", *(f"line {at}" for at in range(100))]
    assert [item.offset for item in bad] == [12, 12 + len(long) + 4]
    assert "over max_record_bytes" in bad[0].reason


def test_a_csv_file_without_the_column_or_without_anything(read_bytes: Any) -> None:
    found, bad = read_bytes(b"id,body\n1,a\n", "a.csv")
    assert found == []
    assert bad[0].reason == "no text in any of the fields text; the first line's columns are id, body"
    assert read_bytes(b"", "a.csv") == ([], [])
    assert read_bytes(b"text\n", "a.csv") == ([], [])
    assert [row["text"] for row in read_bytes(b"text\na,b\n", "b.csv", delimiter=";")[0]] == ["a,b"]
    found, bad = read_bytes(
        gzip.compress(rows_of([["text"], *([str(at**3)] for at in range(9999))]))[:-999], "c.csv.gz"
    )
    assert len(found) > 5000
    assert "cut short" in bad[0].reason


CELLS = st.text(alphabet=st.sampled_from('ab,"\n\r 好　\x00'), max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    style=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    damage=st.lists(st.tuples(st.integers(0, 200), st.sampled_from(['"', "\n", ",", "\r", "\udcff"])), max_size=2),
    block=st.sampled_from([7, 1 << 20]),
)
def test_both_ways_to_read_comma_separated_records_agree(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[str, str]],
    style: Any,
    damage: list[tuple[int, str]],
    block: int,
) -> None:
    monkeypatch.setattr("llmyard.sources.formats.csv_records.BLOCK_BYTES", block)
    text = rows_of([["text", "lang"], *map(list, rows)], quoting=style, lineterminator="\n").decode()
    for at, piece in damage:
        text = text[:at] + piece + text[at:]
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    source = Files(paths=(str(path),), language_field="lang")
    limits = Limits()
    results = []
    for fast in (True, False):
        with Stream(str(path), limits) as stream:
            batches = list(
                read_comma_separated(stream, Origin("a", "a", source, limits), Fields.of(source), ",", fast=fast)
            )
        bad = sorted((item.offset, item.excerpt) for batch in batches for item in batch.bad)
        results.append(([row for batch in batches for row in batch.table.to_pylist()], bad))
    assert results[0] == results[1]
    if not damage and not any("\r" in cell for row in rows for cell in row):
        assert [row["text"] for row in results[0][0]] == [text for text, _ in rows if text]


def test_a_json_file_is_a_list_of_records_or_one(tmp_path: Path, read_source: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"body": "一"}, {"text": "二", "body": "三"}]), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"text": "四　全角", "n": int("9" * 400)}, indent=2), encoding="utf-8")
    (tmp_path / "c.json").write_text("[{'text'", encoding="utf-8")
    (tmp_path / "d.json").write_text(' \ufeff{"text": "五"}\n{"text": "六"} ', encoding="utf-8")
    (tmp_path / "e.json").write_text('[{"text": ["七", "八"]}, 3, {"text": "\\ud800"}]', encoding="utf-8")
    (tmp_path / "f.json").write_text("[]", encoding="utf-8")
    found, bad = read_source(Files(paths=(str(tmp_path),), format="json", text_fields=("text", "body")))
    assert [row["text"] for row in found] == ["一", "二", "四　全角", "五", "六", "七\n八"]
    assert [row["id"][-8:] for row in found] == [
        "a.json#0", "a.json#1", "b.json#0", "d.json#0", "d.json#1", "e.json#0",
    ]  # fmt: skip
    assert [(Path(item.path).name, item.record, item.reason.split(":")[0]) for item in bad] == [
        ("c.json", 0, "not JSON"),
        ("e.json", 1, "no text in any of the fields text, body"),
        ("e.json", 2, "holds half of a surrogate pair, which is no character"),
    ]


@pytest.mark.parametrize("block", [1, 3, 10, 1 << 20])
def test_the_records_before_damage_in_a_json_file_are_kept(
    read_bytes: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("llmyard.sources.formats.json_records.BLOCK_BYTES", block)
    good = '[ {"text": "一", "n": [12, 34]} ,\n{"text": "二\\n"}'.encode()
    for rest, reason, offset in (
        (b', {"text": "x', "not JSON", len(good) + 2),
        (b', {"text": "\xb9\xfa"}]', f"not UTF-8 at byte {len(good) + 12}", len(good) + 2),
        (b' {"text": "x"}]', "not JSON: no comma", len(good) + 1),
        (b", ]", "not JSON: no value after the comma", len(good) + 2),
        (b"", "not JSON: the file ends", len(good)),
        (b"] more", "not JSON: more data", len(good) + 2),
        (b', {"text": "' + b"x" * 2000 + b'"}]', "", len(good) + 2),
    ):
        limits = Limits(max_record_bytes=100) if len(rest) > 1000 else None
        found, bad = read_bytes(good + rest, "a.json", limits)
        assert [row["text"] for row in found] == ["一", "二\n"], rest
        assert len(bad) == 1
        assert bad[0].offset == offset or block <= 3, rest
        if block > 3 and not limits:
            assert bad[0].reason.startswith(reason)
    found, bad = read_bytes(good + b"]\n ", "a.json")
    assert (len(found), bad) == (2, [])


def test_what_is_left_of_a_cut_json_archive_is_read(read_bytes: Any) -> None:
    data = json.dumps([{"text": str(number**5)} for number in range(5000)]).encode()
    found, bad = read_bytes(gzip.compress(data)[:-500], "a.json.gz")
    assert len(found) > 1000
    assert [row["text"] for row in found] == [str(number**5) for number in range(len(found))]
    assert ["cut short" in item.reason for item in bad] == [True]
