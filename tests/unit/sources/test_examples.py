"""Task examples: splits are fixed by the data, bad records are quarantined with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.config import ParallelText, Records, SmallWorldExamples
from llmyard.sources.corpus import BadRecord
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples, splits_of

SPLITS = ("train", "validation", "test")


def read_split(source: Any, split: str, task: str = "translation") -> tuple[list[dict[str, Any]], list[BadRecord]]:
    found = [item for unit in plan_examples(source, split) for item in read_examples(unit, source, task)]
    return [item for item in found if isinstance(item, dict)], [item for item in found if isinstance(item, BadRecord)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), min_size=1, max_size=80), st.integers(0, 5))
def test_splits_of_parallel_text_never_share_an_english_sentence(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("p")
    # The same sentence stands in several files and lines, with other translations and white space.
    for name, part in (("a.tsv", pairs[::2]), ("b.tsv", pairs[1::2])):
        lines = [f" Sentence {one}.{' ' * (two % 2)}\t句子{two}。\n" for one, two in part]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    source = ParallelText(paths=(str(folder),), seed=seed, validation_share=0.2, test_share=0.3)
    english: dict[str, set[str]] = {}
    count = 0
    for split in SPLITS:
        records, bad = read_split(source, split)
        assert not bad
        count += len(records)
        english[split] = {record["source"] for record in records if record["source_language"] == "en"}
        english[split] |= {record["target"] for record in records if record["target_language"] == "en"}
    assert count == 2 * len(pairs)
    assert not english["train"] & english["test"]
    assert not english["train"] & english["validation"]
    assert not english["validation"] & english["test"]


def test_parallel_text_is_given_in_both_directions_with_an_id_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("x\t你好。\tHello.\n", encoding="utf-8")
    source = ParallelText(
        paths=(str(tmp_path),), columns=(2, 1), validation_share=1e-9, test_share=1e-9, languages=("en", "zh")
    )
    records, _ = read_split(source, "train")
    assert records == [
        {
            "id": "a.tsv#1:en-zh",
            "source_language": "en",
            "target_language": "zh",
            "source": "Hello.",
            "target": "你好。",
        },
        {
            "id": "a.tsv#1:zh-en",
            "source_language": "zh",
            "target_language": "en",
            "source": "你好。",
            "target": "Hello.",
        },
    ]


def test_bad_lines_of_parallel_text_are_quarantined_with_path_and_line(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    lines = [
        "\ufeffGood.\t好。".encode(),
        b"alone",
        b"\t\xe5\xa5\xbd",
        b"Bad.\t\xff\xfe",
        "Two\u2028.\t二。\r".encode(),
    ]
    file.write_bytes(b"\n".join(lines))
    source = ParallelText(paths=(str(file),), validation_share=1e-9, test_share=1e-9)
    records, bad = read_split(source, "train")
    assert [record["source"] for record in records if record["source_language"] == "en"] == ["Good.", "Two\u2028."]
    assert [record["target"] for record in records if record["source_language"] == "en"] == ["好。", "二。"]
    assert [(item.path, item.record) for item in bad] == [(str(file), 2), (str(file), 3), (str(file), 4)]
    assert "not UTF-8 at byte 5" in bad[2].reason


def test_records_are_read_from_their_splits_file(tmp_path: Path) -> None:
    paths = {}
    for split in SPLITS:
        paths[split] = str(tmp_path / f"{split}.jsonl")
        Path(paths[split]).write_text(json.dumps({"text": split}) + "\n", encoding="utf-8")
    source = Records(**paths)
    assert splits_of(source) == SPLITS
    for split in SPLITS:
        assert read_split(source, split)[0] == [{"id": f"{tmp_path.name}/{split}.jsonl#1", "text": split}]


def test_bad_records_are_quarantined_with_path_and_line(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    lines = [b'{"id": "mine", "text": "\xe5\xa5\xbd"}', b"{", b"", b"\xff", b"[]", b'{"t": "\\udc00"}', b'{"t": 1}']
    file.write_bytes(b"\n".join(lines))
    source = Records(train=str(file), validation=str(file), test=str(file))
    records, bad = read_split(source, "train")
    assert records == [{"id": "mine", "text": "好"}, {"id": f"{tmp_path.name}/train.jsonl#7", "t": 1}]
    assert [(item.path, item.record) for item in bad] == [(str(file), line) for line in (2, 4, 5, 6)]


def compressed(path: Path, content: bytes) -> str:
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.output_stream(str(path), compression=codec) as stream:
        stream.write(content)
    return str(path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("scheme", ["", "file://", "mock://"])
def test_examples_are_read_compressed_and_from_any_filesystem(
    tmp_path: Path, suffix: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme == "mock://":
        monkeypatch.setattr("llmyard.core.files._filesystem", lambda root: (fs.LocalFileSystem(), "/"))
    rows = "".join(json.dumps({"text": f"{number} 好"}, ensure_ascii=False) + "\n" for number in range(3))
    path = scheme + ("host" if scheme == "mock://" else "") + compressed(tmp_path / f"a.jsonl{suffix}", rows.encode())
    records, bad = read_split(Records(train=path, validation=path, test=path), "test")
    assert not bad
    assert records == [{"id": f"{tmp_path.name}/a.jsonl{suffix}#{at + 1}", "text": f"{at} 好"} for at in range(3)]
    pairs = path.replace("a.jsonl", "a.tsv")
    compressed(tmp_path / f"a.tsv{suffix}", "Hello.\t你好。\r\nBye.\t再见。".encode())
    source = ParallelText(paths=(pairs,), validation_share=1e-9, test_share=1e-9)
    assert [record["target"] for record in read_split(source, "train")[0]] == ["你好。", "Hello.", "再见。", "Bye."]


def test_what_is_torn_is_quarantined_and_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": f"{number}" * 99}) + "\n" for number in range(5000)).encode()
    path = Path(compressed(tmp_path / "a.jsonl.gz", content))
    path.write_bytes(path.read_bytes()[:-200])
    records, bad = read_split(Records(train=str(path), validation=str(path), test=str(path)), "train")
    assert len(records) > 1000
    assert "damaged or cut short" in bad[0].reason
    unit = ExampleUnit("train", str(tmp_path / "gone.jsonl"), 0, 0)
    with pytest.raises(DataError, match="no such file"):
        list(read_examples(unit, Records(train="t", validation="v", test="t"), "translation"))


def test_bad_lines_of_parallel_text_count_once(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("alone\n" + "Good.\t好。\n" * 9, encoding="utf-8")
    source = ParallelText(paths=(str(file),))
    assert [len(read_split(source, split)[1]) for split in SPLITS] == [1, 0, 0]


def test_a_missing_file_of_records_is_a_request_error(tmp_path: Path) -> None:
    source = Records(train=str(tmp_path / "no.jsonl"), validation="v", test="t")
    with pytest.raises(RequestError, match="no file at"):
        plan_examples(source, "train")


@pytest.mark.parametrize("task", ["translation", "knowledge_graph"])
def test_synthetic_examples_are_as_many_as_asked_and_have_harder_tests(task: str) -> None:
    source = SmallWorldExamples(train=7, validation=3, test=4)
    assert splits_of(source) == (*SPLITS, "test_names", "test_combinations", "test_long")
    counts = {split: len(read_split(source, split, task)[0]) for split in splits_of(source)}
    assert counts == {"train": 7, "validation": 3, "test": 4, "test_names": 4, "test_combinations": 4, "test_long": 4}
