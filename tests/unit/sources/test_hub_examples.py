"""Task examples through the datasets library; the hub itself is not reached, a local folder in its layout is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from llmyard.core.errors import RequestError
from llmyard.sources.config import ExampleSource, HubExamples
from llmyard.sources.corpus import check_source, listing, revision
from llmyard.sources.examples import plan_examples, splits_of

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Gives a data set with a training split in two parts and one for tests, with classes."""
    import datasets

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    place = tmp_path / "set"
    (place / "data").mkdir(parents=True)
    for name, start, stop in (
        ("train-00000-of-00002", 0, 60),
        ("train-00001-of-00002", 60, 120),
        ("test-00000-of-00001", 120, 124),
    ):
        rows = [{"sentence": f"句子 {at}", "label": at % 2} for at in range(start, stop)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(place / f"data/{name}.parquet"))
    return place


def source_of(folder: Path, **fields: Any) -> HubExamples:
    return HubExamples(**{"dataset": str(folder), "columns": {"text": "sentence"}, **fields})


def test_named_splits_are_read_part_by_part_and_missing_ones_are_dealt(folder: Path, read_split: Any) -> None:
    source = source_of(folder, test="test", validation_share=0.2)
    assert splits_of(source) == SPLITS
    units = plan_examples(source, "validation")
    assert [(unit.path, unit.start, unit.stop) for unit in units] == [(str(folder), at, at + 1) for at in range(2)]
    found = {split: read_split(source, split, "classification") for split in SPLITS}
    assert not any(bad for _, bad in found.values())
    records = {split: good for split, (good, _) in found.items()}
    assert records["test"] == [
        {"id": f"{folder.parent.name}/set/test/0#{at + 1}", "text": f"句子 {120 + at}", "label": name, "language": "zh"}
        for at, name in enumerate(["bad", "good"] * 2)
    ]
    texts = {split: {record["text"] for record in good} for split, good in records.items()}
    assert not texts["train"] & texts["validation"]
    assert len(texts["train"] | texts["validation"]) == 120
    assert 10 < len(texts["validation"]) < 40


def test_labels_are_renamed_by_number_or_by_name(folder: Path, read_split: Any) -> None:
    for labels in ({"0": "差", "1": "好"}, {"bad": "差", "good": "好"}):
        records, bad = read_split(source_of(folder, test="test", labels=labels), "test", "classification")
        assert not bad
        assert [record["label"] for record in records] == ["差", "好"] * 2
    _, bad = read_split(source_of(folder, test="test", labels={"good": "好"}), "test", "classification")
    assert [item.reason for item in bad] == [f"record {at}: the label 'bad' is none of `labels`: good" for at in (1, 3)]


def test_a_split_without_labels_is_quarantined(tmp_path: Path, read_split: Any) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a"])})
    (tmp_path / "set").mkdir()
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [-1, 0]}, features=features)
    rows.to_parquet(str(tmp_path / "set/test.parquet"))
    source = HubExamples(dataset=str(tmp_path / "set"), train="test", test="test")
    (record,), (bad,) = read_split(source, "test", "classification")
    assert record["label"] == "a"
    assert (bad.record, bad.path) == (1, str(tmp_path / "set"))
    assert bad.reason == "record 1: the class -1 of 'label' is none of 1: is the split without labels?"


def test_questions_and_conversations_are_read_as_the_hub_has_them(tmp_path: Path, read_split: Any) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "talks").mkdir()
    answers = {"text": ["Rome"], "answer_start": [5]}
    question = {"id": "q", "title": "Trips", "context": "From Rome.", "question": "Whence?", "answers": answers}
    pq.write_table(pa.Table.from_pylist([question]), tmp_path / "set/train.parquet")
    talk = {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], "tools": None}
    pq.write_table(pa.Table.from_pylist([talk, {"messages": talk["messages"][1:]}]), tmp_path / "talks/train.parquet")
    source = HubExamples(dataset=str(tmp_path / "set"), test="train", validation="train", columns={"group": "title"})
    (record,), _ = read_split(source, "train", "question_answering")
    assert record == {
        "id": "q",
        "group": "Trips",
        "context": "From Rome.",
        "question": "Whence?",
        "answers": [{"text": "Rome", "start": 5}],
        "language": "en",
    }
    source = HubExamples(dataset=str(tmp_path / "talks"), test="train", format="messages")
    (record,), (bad,) = read_split(source, "test", "dialogue")
    assert record["messages"] == talk["messages"]
    assert "tools" not in record
    assert "turn 1 is of the assistant, at the beginning" in bad.reason
    with pytest.raises(RequestError, match="format 'messages' are for dialogue and instruction"):
        read_split(source, "test", "classification")


def test_damage_is_quarantined_with_its_place(tmp_path: Path, read_split: Any) -> None:
    (tmp_path / "set").mkdir()
    rows = [json.dumps({"text": f"{at}"}) for at in range(5)]
    (tmp_path / "set/train.jsonl").write_text("\n".join([*rows, "{bad", *rows]), encoding="utf-8")
    _, (bad,) = read_split(HubExamples(dataset=str(tmp_path / "set")), "train", "translation")
    assert bad.record == 1
    assert "part 0 cannot be read from row 0 or a little later on" in bad.reason


def test_a_missing_folder_or_split_is_told(folder: Path, tmp_path: Path) -> None:
    assert check_source(source_of(folder)) is None
    fault = check_source(HubExamples(dataset=str(tmp_path / "no")))
    assert fault is not None
    assert fault[0] == ("dataset",)
    with pytest.raises(RequestError, match="cannot open the split dev of"):
        plan_examples(source_of(folder, validation="dev"), "validation")


def test_its_files_or_its_commit_are_its_listing(folder: Path) -> None:
    assert len(listing(source_of(folder))) == 3
    commit = "0123456789" * 4
    assert listing(HubExamples(dataset="org/set", revision=commit)) == [["org/set", 0, commit]]
    assert revision(source_of(folder)) == ""


def test_the_config_survives_being_written() -> None:
    source = HubExamples(dataset="org/set", config="zh", columns={"text": "a"}, labels={"0": "b"}, validation="dev")
    assert TypeAdapter(ExampleSource).validate_python(source.model_dump(mode="json")) == source
    with pytest.raises(ValueError, match="`columns` is for format: rows"):
        HubExamples(dataset="org/set", format="alpaca", columns={"a": "b"})
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        HubExamples.model_validate({"dataset": "org/set", "trust": True})
