"""Documents from files: what cannot be read is quarantined with its place, the rest goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.config import Files, SmallWorldDocuments
from llmyard.sources.corpus import BadRecord, Document, digest, expand, plan, read


def read_all(source: Files) -> tuple[list[Document], list[BadRecord]]:
    found = [item for unit in plan([source], 10) for item in read(unit, source)]
    return [item for item in found if isinstance(item, Document)], [
        item for item in found if isinstance(item, BadRecord)
    ]


def files(folder: Path, **fields: Any) -> Files:
    return Files(paths=(str(folder),), **fields)


def test_a_text_file_is_a_document_with_an_id_that_survives_a_move(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        folder = tmp_path / place / "书"
        folder.mkdir(parents=True)
        (folder / "三国.txt").write_bytes("\ufeff第一回\r\n桃园三结义".encode())
    one, _ = read_all(files(tmp_path / "here" / "书", name="书"))
    two, _ = read_all(files(tmp_path / "there/deeper" / "书", name="书"))
    assert one == two == [Document("书/三国.txt#0", "第一回\n桃园三结义", "书", "")]


def test_paragraphs_are_gathered_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一二三\n\n四五六\n \n七八九十\n\n\n末", encoding="utf-8")
    found, _ = read_all(files(tmp_path, document="paragraph", document_characters=6))
    assert [item.text for item in found] == ["一二三\n\n四五六", "七八九十\n\n末"]


def test_a_text_file_that_is_not_utf8_is_quarantined_with_path_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("好".encode() + b"\xff" + "文".encode())
    (tmp_path / "b.txt").write_text("好文", encoding="utf-8")
    found, bad = read_all(files(tmp_path))
    assert [item.text for item in found] == ["好文"]
    assert bad == [BadRecord(str(tmp_path / "a.txt"), 3, "not UTF-8 at byte 3")]


def test_bad_json_lines_are_quarantined_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [
        json.dumps({"text": "好的第一行"}).encode(),
        b'{"text": "cut',
        b"",
        b'{"text": "\xff\xfe"}',
        json.dumps({"title": "no text"}).encode(),
        json.dumps({"text": ""}).encode(),
        json.dumps({"text": ["两", "段"]}).encode(),
        json.dumps({"text": 3}).encode(),
        b"[1]",
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"text": "ok", "n": ' + b"9" * 5000 + b"}",
        '{"text": "行分隔\u2028符\u0085不分行"}'.encode(),
    ]
    file.write_bytes(b"\r\n".join(lines))
    found, bad = read_all(files(tmp_path, format="jsonl"))
    assert [(item.id.rpartition("#")[2], item.text) for item in found] == [
        ("1", "好的第一行"), ("7", "两\n段"), ("13", "行分隔\u2028符\u0085不分行"),
    ]  # fmt: skip
    assert [item.record for item in bad] == [2, 4, 5, 6, 8, 9, 10, 11, 12]
    assert {item.path for item in bad} == {str(file)}
    assert "not JSON" in bad[0].reason
    assert "not UTF-8" in bad[1].reason
    assert "no text in any of the fields text" in bad[2].reason
    assert "surrogate" in bad[6].reason


def test_a_byte_order_mark_before_json_lines_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}\n')
    found, bad = read_all(files(tmp_path, format="jsonl"))
    assert [item.text for item in found] == ["a", "b"]
    assert bad == []


def test_a_json_file_is_a_list_of_records_or_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"body": "一"}, {"text": "二", "body": "三"}]), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"text": "四"}), encoding="utf-8")
    (tmp_path / "c.json").write_text("[{'text'", encoding="utf-8")
    found, bad = read_all(files(tmp_path, format="json", text_fields=("text", "body")))
    assert [item.text for item in found] == ["一", "二", "四"]
    assert [(Path(item.path).name, item.reason.split(":")[0]) for item in bad] == [("c.json", "not JSON")]


def test_a_file_that_vanishes_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    source = files(tmp_path)
    (unit,) = plan([source], 10)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*a\.txt"):
        list(read(unit, source))


def test_paths_are_files_folders_and_globs_sorted_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "odd[1].txt", "dir[2]/d.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    monkeypatch.setenv("CORPUS", str(tmp_path))
    found = expand(["$CORPUS/*.txt", str(tmp_path), "${CORPUS}/**/c.txt", "$CORPUS/odd[1].txt", "$CORPUS/dir[2]"])
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "a.txt", "b.txt", "dir[2]/d.txt", "odd[1].txt", "sub/c.txt",
    ]  # fmt: skip


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
    texts = [item.text for unit in units[:3] for item in read(unit, source) if isinstance(item, Document)]
    assert texts == [item.text for item in read(plan([source], 100)[0], source) if isinstance(item, Document)]


def test_texts_that_differ_have_different_digests() -> None:
    assert len({digest(text) for text in ("", "a", "b", "中", "\ud800")}) == 5
    assert len(digest("x")) == 16


def test_chosen_columns_of_a_line_are_a_document(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_bytes(
        "Hi.\t你好。\tsource 1\r\nonly one\nRun.\t跑。\tsource 2\n".encode() + b"\xff\t\xfe\n"
    )
    found, bad = read_all(files(tmp_path, format="tsv", columns=(0, 1)))
    assert [document.text for document in found] == ["Hi.\n你好。", "Run.\n跑。"]
    assert [record.record for record in bad] == [2, 4]
    assert "no column 1" in bad[0].reason
