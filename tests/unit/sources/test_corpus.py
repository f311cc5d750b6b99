"""What is read: files found, divided into units, listed for the fingerprint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.config import Files, SmallWorldDocuments
from llmyard.sources.corpus import digest, expand, listing, plan, read
from llmyard.sources.planning import format_of


def files(folder: Path, **fields: Any) -> Files:
    return Files(paths=(str(folder),), **fields)


def test_a_file_that_vanishes_is_a_data_error(tmp_path: Path) -> None:
    for name in ("a.txt", "a.parquet"):
        (tmp_path / name).write_text("x", encoding="utf-8")
        source = files(tmp_path / name, format="auto")
        (unit,) = plan([source], 10)
        (tmp_path / name).unlink()
        with pytest.raises(DataError, match=r"cannot read .*a\."):
            list(read(unit, source))


def test_a_file_that_cannot_be_opened_is_one_bad_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    source = files(tmp_path)

    class Locked:
        def open_input_file(self, path: str) -> Any:
            raise PermissionError(13, "Permission denied")

    (unit,) = plan([source], 10)
    monkeypatch.setattr("llmyard.sources.streams.opened", lambda path: (Locked(), path))
    (batch,) = read(unit, source)
    assert len(batch.table) == 0
    assert "cannot be opened: [Errno 13] Permission denied" in batch.bad[0].reason


def test_a_disk_that_fails_in_mid_file_is_no_bad_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def open_input_file(self, path: str) -> Any:
            return self

        def read(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

        def close(self) -> None:
            return

    for name in ("a.jsonl", "a.jsonl.gz"):
        (tmp_path / name).write_text("x", encoding="utf-8")
        source = files(tmp_path / name, format="auto")
        (unit,) = plan([source], 10)
        with monkeypatch.context() as patched:
            patched.setattr("llmyard.sources.streams.opened", lambda path: (Failing(), path))
            with pytest.raises(DataError, match="Input/output error"):
                list(read(unit, source))


def test_paths_are_files_folders_and_globs_sorted_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "odd[1].txt", "dir[2]/d.txt", ".hidden", "_SUCCESS", "_logs/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    monkeypatch.setenv("CORPUS", str(tmp_path))
    found = expand(["$CORPUS/*.txt", str(tmp_path), "${CORPUS}/**/c.txt", "$CORPUS/odd[1].txt", "$CORPUS/dir[2]"])
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "a.txt", "b.txt", "dir[2]/d.txt", "odd[1].txt", "sub/c.txt",
    ]  # fmt: skip
    assert expand(["$CORPUS/_logs/*"]) == [str(tmp_path / "_logs/x.txt")]


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_CORPUS", raising=False)
    for given in ("$NO_SUCH_CORPUS/x", "${NO_SUCH_CORPUS}/x"):
        with pytest.raises(RequestError, match="NO_SUCH_CORPUS is not set") as caught:
            expand([given])
        assert caught.value.remedy == "export NO_SUCH_CORPUS=/your/folder"


@pytest.mark.parametrize("given", ["nothing/here", "empty", "empty/*.txt"])
def test_where_no_file_is_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="no file at") as caught:
        expand([given])
    assert str(tmp_path) in caught.value.what


def test_synthetic_documents_are_planned_in_ranges_that_cover_all() -> None:
    source = SmallWorldDocuments(documents=25)
    units = plan([source, source], 10)
    assert [(unit.source, unit.start, unit.stop) for unit in units] == [
        (0, 0, 10), (0, 10, 20), (0, 20, 25), (1, 0, 10), (1, 10, 20), (1, 20, 25),
    ]  # fmt: skip
    texts = [text for unit in units[:3] for batch in read(unit, source) for text in batch.table["text"].to_pylist()]
    (whole,) = read(plan([source], 100)[0], source)
    assert texts == whole.table["text"].to_pylist()
    assert set(whole.table["language"].to_pylist()) == {"en", "zh"}
    assert set(whole.table["source"].to_pylist()) == {"smallworld"}


def test_texts_that_differ_have_different_digests() -> None:
    assert len({digest(text) for text in ("", "a", "b", "中", "\ud800")}) == 5
    assert len(digest("x")) == 16


def test_the_suffix_tells_the_format(tmp_path: Path) -> None:
    source = files(tmp_path, format="auto")
    names = {
        "a.jsonl": "jsonl", "a.ndjson.gz": "jsonl", "a.JSON": "json", "a.tsv.zst": "tsv", "a.csv": "csv",
        "a.pq": "parquet", "a.b.txt": "text", "书.htm": "html", "CC.warc.gz": "warc", "CC.warc.wet.gz": "wet",
    }  # fmt: skip
    assert {name: format_of(f"/data/{name}", source) for name in names} == names
    assert format_of("s3://bucket/a.jsonl?region=x", source) == "jsonl"
    for name in ("a.doc", "jsonl", "a.gz"):
        with pytest.raises(RequestError, match=r"does not tell the format; known are \.jsonl"):
            format_of(name, source)


def test_large_lines_and_row_groups_are_divided_other_files_are_not(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": "x" * 90}).encode() + b"\n" for _ in range(10))
    for name in ("a.jsonl", "b.jsonl.gz", "c.txt"):
        (tmp_path / name).write_bytes(lines)
    table = pa.table({"text": [str(number) * 50 for number in range(1000)]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=100, compression="none", use_dictionary=False)
    units = plan([files(tmp_path, format="auto")], 10, bytes_per_task=400)
    ranges = {name: [(unit.start, unit.stop) for unit in units if f"/{name}." in unit.path] for name in "abcd"}
    assert ranges == {
        "a": [(0, 400), (400, 800), (800, 1030)],
        "b": [(0, 0)],
        "c": [(0, 0)],
        "d": [(at, at + 1) for at in range(10)],
    }
    grouped = [(unit.start, unit.stop) for unit in plan([files(tmp_path / "d.parquet", format="auto")], 10, 40_000)]
    assert grouped[0][0] == 0
    assert grouped[-1][1] == 10
    assert 1 < len(grouped) < 10
    assert [stop for _, stop in grouped[:-1]] == [start for start, _ in grouped[1:]]


def test_units_are_taken_up_to_max_bytes(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_bytes(b"x" * 1000)
    units = plan([files(tmp_path, format="jsonl", max_bytes=1500), files(tmp_path, format="jsonl")], 10, 400)
    assert [(Path(unit.path).name, unit.start) for unit in units if unit.source == 0] == [
        ("a.jsonl", 0), ("a.jsonl", 400), ("a.jsonl", 800), ("b.jsonl", 0), ("b.jsonl", 400),
    ]  # fmt: skip
    assert sum(unit.source for unit in units) == 9


def test_a_file_uri_is_listed_found_and_read_as_the_path_is(tmp_path: Path) -> None:
    folder = tmp_path / "语料 库"
    (folder / "下").mkdir(parents=True)
    for name in ("一.jsonl", "下/二 %20.jsonl", ".h.jsonl", "_s.jsonl", "其他.txt"):
        (folder / name).write_text('{"text": "好"}\n', encoding="utf-8")
    uri = f"file://{folder}"
    local = listing(Files(paths=(f"{folder}",)))
    remote = listing(Files(paths=(uri,)))
    assert [[path.replace(str(folder), uri), *rest] for path, *rest in local if isinstance(path, str)] == remote
    for pattern in ("*.jsonl", "**/*.jsonl", "下/*", "?.jsonl", "[一二].jsonl", "no*"):
        here = sorted(str(path) for path in folder.glob(pattern) if not path.name.startswith((".", "_")))
        if "?" in pattern or not here:
            continue
        there = [path.removeprefix("file://") for path in expand([f"{uri}/{pattern}"]) if "/_s" not in path]
        assert there == here, pattern
    source = Files(paths=(f"{uri}/**/*.jsonl",), format="jsonl")
    texts = [row for unit in plan([source], 1) for batch in read(unit, source) for row in batch.table["id"].to_pylist()]
    assert "语料 库/一.jsonl#0" in texts
    assert "下/二 %20.jsonl#0" in texts


def test_any_filesystem_of_pyarrow_is_read(read_source: Any) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a/一.jsonl", '{"text": "好"}\n{"text": "文"}\n'.encode())
    memory.pipe("/corpus/b.jsonl", b'{"text": "c"}\n')
    uri = "fsspec+memory://corpus"
    assert expand([f"{uri}/**/*.jsonl"]) == [f"{uri}/a/一.jsonl", f"{uri}/b.jsonl"]
    assert expand([uri]) == expand([f"{uri}/"]) == expand([f"{uri}/a", f"{uri}/b.jsonl"])
    assert [size for _, size, _ in listing(Files(paths=(uri,)))] == [32, 14]
    rows, bad = read_source(Files(paths=(uri,), format="auto"), bytes_per_task=20)
    assert [row["text"] for row in rows] == ["好", "文", "c"]
    assert bad == []
    for given in ("nothing", "*.txt", "no/*.jsonl"):
        with pytest.raises(RequestError, match="no file at fsspec"):
            expand([f"{uri}/{given}"])


def test_a_bucket_within_a_filesystem_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_source: Any
) -> None:
    from pyarrow import fs

    (tmp_path / "bucket/data").mkdir(parents=True)
    (tmp_path / "bucket/data/a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    tree = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    asked: list[str] = []
    monkeypatch.setattr("llmyard.core.files._filesystem", lambda root: (asked.append(root), (tree, "bucket"))[1])
    rows, _ = read_source(Files(paths=("s3://bucket/data/*.jsonl?region=eu-west-1",), format="auto"))
    assert [row["id"] for row in rows] == ["data/a.jsonl#0"]
    assert set(asked) == {"s3://bucket?region=eu-west-1"}


def test_an_unknown_filesystem_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="cannot open ftp://host"):
        expand(["ftp://host/data"])
