"""The readers of task examples on the real data sets, where they are on this machine: exact counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmyard.sources.config import Records
from llmyard.sources.leaks import key_of
from llmyard.sources.splits import group_of

DATA = Path(os.environ.get("LLMYARD_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SPLITS = ("train", "validation", "test")


def source_of(format_: str, *paths: str, **fields: Any) -> Records:
    """Returns a source whose splits are files of the data folder; without it the test is skipped."""
    for path in paths:
        if not (DATA / path).parent.exists():
            pytest.skip(f"{(DATA / path).parent} is not here")
    named = dict(zip(SPLITS, (str(DATA / path) for path in paths), strict=False))
    return Records(format=format_, **named, **fields)  # type: ignore[arg-type]


def every(read_split: Any, source: Records, task: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """Returns the records of all splits, which share no group, and what is bad in them."""
    groups: dict[str, set[bytes]] = {}
    records, bad = [], []
    for split in SPLITS:
        found, found_bad = read_split(source, split, task)
        groups[split] = {key_of(group_of(record)) for record in found}
        assert found
        records += found
        bad += found_bad
    assert len(set().union(*groups.values())) == sum(map(len, groups.values()))
    assert len({record["id"] for record in records}) == len(records)
    return records, bad


def stands_right(record: dict[str, Any]) -> bool:
    return all(
        record["context"].startswith(answer["text"], answer["start"])
        for answer in record["answers"]
        if "start" in answer
    )


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        # questions, articles, repaired, answers, bad
        ("cmrc2018/cmrc2018_trial.json", (1000, 256, 5, 1000, 2)),  # two questions are empty
        ("cmrc2018/cmrc2018_dev.json", (3219, 848, 3, 4003, 0)),  # 193 answers stand nowhere
        ("covidqa/200423_covidQA.json", (1380, 98, 234, 1380, 0)),
    ],
)
def test_questions_are_repaired(read_split: Any, path: str, counts: tuple[int, ...]) -> None:
    records, bad = every(read_split, source_of("squad", path), "question_answering")
    assert all(stands_right(record) for record in records)
    assert (
        len(records),
        len({record["group"] for record in records}),
        sum("repaired" in record for record in records),
        sum(len(record["answers"]) for record in records),
        len(bad),
    ) == counts


@pytest.mark.parametrize(
    ("path", "questions", "placed"),
    [
        ("babi/en/qa1_single-supporting-fact_train.txt", 1000, 1000),
        ("babi/en/qa8_lists-sets_train.txt", 1000, 580),
        ("babi/en/qa9_simple-negation_train.txt", 1000, 0),
    ],
)
def test_stories(read_split: Any, path: str, questions: int, placed: int) -> None:
    records, bad = every(read_split, source_of("babi", path), "question_answering")
    assert not bad
    assert all(stands_right(record) for record in records)
    assert (len(records), sum("start" in record["answers"][0] for record in records)) == (questions, placed)


def sizes(read_split: Any, source: Records, task: str) -> list[tuple[int, int]]:
    return [tuple(map(len, read_split(source, split, task))) for split in SPLITS]  # type: ignore[misc]


def test_semeval(read_split: Any) -> None:
    folder = "semeval2010_t8"
    path, test = f"{folder}/TRAIN_FILE.TXT", f"{folder}/TEST_FILE_FULL.TXT"
    records, bad = every(read_split, source_of("semeval", path), "relation_classification")
    tests, _ = read_split(source_of("semeval", path, path, test), "test", "relation_classification")
    assert (len(records), len(bad), len(tests)) == (8000, 0, 2717)
    assert len({record["relation"] for record in records}) == 19
    for record in records + tests:
        for end in ("subject", "object"):
            assert record["text"][record[end]["start"] : record[end]["end"]] == record[end]["text"]
    known = {key_of(record["text"]) for record in records}
    assert sum(key_of(record["text"]) in known for record in tests) == 17


def test_finre(read_split: Any) -> None:
    source = source_of("finre", *(f"finre/{name}.txt" for name in ("train", "valid", "test")), language="zh")
    # Every second line is empty: half as many examples as lines.
    assert sizes(read_split, source, "relation_classification") == [(13486, 0), (1489, 0), (3727, 0)]


def test_fewrel(read_split: Any) -> None:
    records, bad = every(read_split, source_of("fewrel", "fewrel/val_wiki.json"), "relation_classification")
    assert (len(records), len(bad), len({record["relation"] for record in records})) == (11200, 0, 16)


def test_sgd(read_split: Any) -> None:
    source = source_of("sgd", "sgd/*.json")  # the schemas beside the dialogues are passed over
    records, bad = every(read_split, source, "dialogue")
    turns = sum(len(record["messages"]) for record in records)
    assert (len(records), turns, len(bad)) == (1024, 15228, 0)
    assert all(len(record["states"]) * 2 == len(record["messages"]) for record in records)


def test_crosswoz(read_split: Any) -> None:
    records, bad = every(read_split, source_of("crosswoz", "crosswoz/val.json.zip"), "dialogue")
    turns = sum(len(record["messages"]) for record in records)
    assert (len(records), turns, len(bad)) == (500, 8458, 0)
    assert all(len(record["states"]) * 2 == len(record["messages"]) for record in records)
    assert max(len(record["states"][-1]) for record in records) > 5


@pytest.mark.parametrize(("domain", "counts"), [("Academic", (259, 54, 58)), ("Committee", (308, 73, 72))])
def test_qmsum(read_split: Any, domain: str, counts: tuple[int, ...]) -> None:
    source = source_of("qmsum", *(f"qmsum/{domain}_{name}.jsonl" for name in ("train", "val", "test")))
    assert sizes(read_split, source, "summarization") == [(count, 0) for count in counts]
