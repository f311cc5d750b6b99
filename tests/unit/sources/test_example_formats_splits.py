"""Splits that are not named are dealt out of the training examples, so that none is about what another one is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import RequestError
from llmyard.sources.config import Records
from llmyard.sources.corpus import check_source, listing, revision
from llmyard.sources.examples import plan_examples, read_examples, splits_of
from llmyard.sources.records import BadRecord
from llmyard.sources.splits import group_of, split_of

SPLITS = ("train", "validation", "test")


def records_of(source: Records, split: str, task: str) -> list[dict[str, Any]]:
    found = [item for unit in plan_examples(source, split) for item in read_examples(unit, source, task)]
    assert not any(isinstance(item, BadRecord) for item in found)
    return [item for item in found if isinstance(item, dict)]


@st.composite
def articles(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Draws (title, question) pairs; a title comes back in other case, width and white space."""
    titles = draw(st.lists(st.sampled_from([f"Title {at}" for at in range(20)] + ["标题", "题目"]), min_size=1))
    forms = st.sampled_from([str, str.upper, lambda title: f" {title.replace(' ', '  ')} ", lambda title: title])
    return [(draw(forms)(title), f"Question {at}?") for at, title in enumerate(titles)]


def write(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    data = [
        {
            "title": title,
            "paragraphs": [{"context": "Text.", "qas": [{"id": asked, "question": asked, "answers": []}]}],
        }
        for title, asked in pairs
    ]
    (folder / name).write_text(json.dumps({"data": data}), encoding="utf-8")


@settings(max_examples=40, deadline=None)
@given(articles(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_no_article_stands_in_two_splits_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], seed: int, order: random.Random
) -> None:
    found = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("articles")
        middle = len(pairs) // 2
        write(folder, "a.json", pairs[:middle])
        write(folder, "b.json", pairs[middle:])
        source = Records(format="squad", train=str(folder), seed=seed, validation_share=0.2, test_share=0.3)
        splits = {split: records_of(source, split, "question_answering") for split in SPLITS}
        groups = {
            split: {" ".join(record["group"].casefold().split()) for record in records}
            for split, records in splits.items()
        }
        assert not groups["train"] & groups["validation"]
        assert not groups["train"] & groups["test"]
        assert not groups["validation"] & groups["test"]
        assert sum(map(len, splits.values())) == len(pairs)
        found.append({record["question"]: split for split, records in splits.items() for record in records})
        order.shuffle(pairs)
    assert found[0] == found[1]


TEXTS = [{"text": f"Text {number}", "label": "a"} for number in range(600)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Gives a folder with 600 examples in two files, and one each for validation and test."""
    for name, rows in (("one", TEXTS[:300]), ("two", TEXTS[300:]), ("validation", TEXTS[:5]), ("test", TEXTS[5:9])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_missing_splits_are_shares_of_the_training_examples(files: Path) -> None:
    train = (f"{files}/one.jsonl", f"{files}/t?o.jsonl")
    dealt = Records(train=train)
    assert splits_of(dealt) == SPLITS
    counts = {split: len(records_of(dealt, split, "classification")) for split in SPLITS}
    assert sum(counts.values()) == 600
    assert 15 < counts["validation"] < 50
    assert 35 < counts["test"] < 90
    tests = {record["text"] for record in records_of(dealt, "test", "classification")}
    with_validation = Records(train=train, validation=f"{files}/validation.jsonl")
    assert {record["text"] for record in records_of(with_validation, "test", "classification")} == tests
    assert len(records_of(with_validation, "validation", "classification")) == 5
    assert len(records_of(with_validation, "train", "classification")) == 600 - len(tests)
    whole = Records(train=train, validation=f"{files}/validation.jsonl", test=(f"{files}/test.jsonl",))
    assert [len(records_of(whole, split, "classification")) for split in SPLITS] == [600, 5, 4]
    other = Records(train=train, seed=8)
    assert {record["text"] for record in records_of(other, "test", "classification")} != tests


def test_what_is_bad_counts_once(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in TEXTS[:99])
    (tmp_path / "train.jsonl").write_text("{\n" + rows + "[]\n", encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("{\n", encoding="utf-8")

    def bad(source: Records) -> list[int]:
        return [
            sum(
                isinstance(item, BadRecord)
                for unit in plan_examples(source, split)
                for item in read_examples(unit, source, "classification")
            )
            for split in SPLITS
        ]

    assert bad(Records(train=f"{tmp_path}/train.jsonl")) == [2, 0, 0]
    assert bad(Records(train=f"{tmp_path}/train.jsonl", test=f"{tmp_path}/test.jsonl")) == [2, 0, 1]


@pytest.mark.parametrize(
    ("record", "group"),
    [
        ({"group": "article", "text": "A"}, "article"),
        ({"group": 7, "text": "A"}, "7"),
        ({"group": " ", "text": "A"}, "A"),
        ({"context": "A", "question": "B"}, "A"),
        ({"text": "A", "text_pair": "B", "query": "C"}, "A"),
        ({"source": "你好", "target": "Hi", "source_language": "zh", "target_language": "en"}, "Hi"),
        ({"source": "Hi", "target": "你好", "source_language": "en", "target_language": "zh"}, "Hi"),
        (
            {
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "A"},
                    {"role": "assistant", "content": "B"},
                    {"role": "user", "content": "C"},
                    "no turn",
                ]
            },
            "A\nC",
        ),
        ({"id": "x", "other": 1}, '{"other": 1}'),
    ],
)
def test_what_a_record_is_about(record: dict[str, Any], group: str) -> None:
    assert group_of(record) == group


def test_groups_are_dealt_as_the_shares_say() -> None:
    source = Records(train="t", validation_share=0.2, test_share=0.3)
    places = [split_of(str(number), source) for number in range(4000)]
    assert [round(places.count(split) / 4000, 1) for split in SPLITS] == [0.5, 0.2, 0.3]


def test_all_files_of_a_source_are_in_its_listing(files: Path) -> None:
    source = Records(train=(f"{files}/one.jsonl", f"{files}/two.jsonl"), test=f"{files}/test.jsonl")
    names = [Path(str(path)).name for path, _, _ in listing(source)]
    assert names == ["one.jsonl", "two.jsonl", "test.jsonl"]
    assert revision(source) == ""
    before = listing(source)
    (files / "two.jsonl").write_text("", encoding="utf-8")
    assert listing(source) != before


def test_a_file_that_is_not_there_is_told_with_its_place(files: Path) -> None:
    fault = check_source(Records(train=(f"{files}/one.jsonl", f"{files}/three.jsonl")))
    assert fault is not None
    assert fault[0] == ("train", 1)
    fault = check_source(Records(train=f"{files}/one.jsonl", validation=f"{files}/three.jsonl"))
    assert fault is not None
    assert fault[0] == ("validation",)
    assert check_source(Records(train=str(files))) is None
    with pytest.raises(RequestError, match="no file at"):
        plan_examples(Records(train=f"{files}/three.jsonl"), "test")
