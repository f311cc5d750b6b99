"""Data sets through the datasets library; the hub itself is not reached, a local folder in its layout is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmyard.core.errors import RequestError
from llmyard.sources.config import HubDataset, Limits
from llmyard.sources.corpus import listing, plan, read, revision


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "组/集/data").mkdir(parents=True)
    for part in range(3):
        table = pa.table(
            {
                "text": [f"文{part}-{row}　Ａ" if row != 2 else "" for row in range(5)],
                "lang": ["zh", "en", None, "zh", "en"],
                "link": [f"http://{part}/{row}" for row in range(5)],
            }
        )
        pq.write_table(table, tmp_path / f"组/集/data/train-0000{part}-of-00003.parquet")
    return tmp_path / "组/集"


def test_a_local_folder_is_read_part_by_part(folder: Path, read_source: Any) -> None:
    source = HubDataset(name="集", dataset=str(folder), language_field="lang", url_field="link", language="zh")
    units = plan([source], 1)
    assert [(unit.path, unit.start, unit.stop) for unit in units] == [(str(folder), at, at + 1) for at in range(3)]
    found, bad = read_source(source)
    assert [row["text"] for row in found] == [f"文{part}-{row}　Ａ" for part in range(3) for row in (0, 1, 3, 4)]
    assert found[5] == {
        "id": "组/集/train/1#1", "text": "文1-1　Ａ", "source": "集", "language": "en", "url": "http://1/1",
    }  # fmt: skip
    assert [(item.record, item.reason) for item in bad] == [(2, "no text in any of the fields text")] * 3
    shared, _ = read_source(source.model_copy(update={"share": 0.5}))
    assert {row["id"] for row in shared} < {row["id"] for row in found}


def test_the_listing_of_a_local_folder_is_that_of_its_files(folder: Path) -> None:
    source = HubDataset(dataset=str(folder))
    before = listing(source)
    assert [Path(str(path)).name for path, _, _ in before] == [
        f"train-0000{part}-of-00003.parquet" for part in range(3)
    ]
    (folder / "data/more.parquet").write_bytes(b"x")
    assert len(listing(source)) == 4
    assert revision(source) == ""


def test_json_lines_of_a_folder_are_read_up_to_what_the_library_refuses(tmp_path: Path, read_source: Any) -> None:
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"text": f"行{number}"}, ensure_ascii=False) for number in range(5)]
    (tmp_path / "set/a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found, bad = read_source(HubDataset(dataset=str(tmp_path / "set")))
    assert [row["text"] for row in found] == [f"行{number}" for number in range(5)]
    (tmp_path / "set/a.jsonl").write_text("\n".join([*lines, "{bad", *lines]), encoding="utf-8")
    found, bad = read_source(HubDataset(dataset=str(tmp_path / "set")))
    assert [item.reason.partition(":")[0] for item in bad] == ["part 0 cannot be read from row 0 or a little later on"]


def test_a_field_that_is_not_there_is_one_bad_record_a_part(folder: Path, read_source: Any) -> None:
    found, bad = read_source(HubDataset(dataset=str(folder), text_field="body"))
    assert found == []
    assert [item.reason for item in bad] == ["no text in any of the fields body; the columns are text, lang, link"] * 3


def test_a_split_or_configuration_that_is_not_there_is_named(folder: Path) -> None:
    for fields in ({"split": "test"}, {"config": "zh"}):
        with pytest.raises(RequestError, match=r"cannot open the split (test|train) of /.*集"):
            plan([HubDataset(dataset=str(folder), **fields)], 1)


def test_the_revision_is_resolved_once_and_kept(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import datasets
    import huggingface_hub

    commit = "0123456789" * 4
    asked: list[Any] = []

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            if name == "no/such":
                raise ConnectionError("offline")
            asked.append((name, revision))
            return type("Info", (), {"sha": commit})

    load = datasets.load_dataset

    def loaded(name: str, config: str | None, **options: Any) -> Any:
        assert (name, config, options.pop("revision")) == ("org/集", None, commit)
        assert options == {"split": "train", "streaming": True}
        return load(str(folder), config, **options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", loaded)
    source = HubDataset(dataset="org/集", revision="main")
    assert listing(source) == [["org/集", 0, commit]]
    units = plan([source], 1)
    assert {unit.path for unit in units} == {f"org/集@{commit}"}
    assert asked == [("org/集", "main")] * 2
    (batch,) = read(units[1], source, Limits())
    assert batch.table["id"].to_pylist()[0] == "org/集/train/1#0"
    assert asked == [("org/集", "main")] * 2  # a worker asks no more
    assert listing(HubDataset(dataset="no/such", revision=commit)) == [["no/such", 0, commit]]
    with pytest.raises(RequestError, match="cannot find no/such@main on the hub: offline"):
        plan([HubDataset(dataset="no/such")], 1)
