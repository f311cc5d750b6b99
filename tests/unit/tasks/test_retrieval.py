"""BM25 against the formula written down plainly, in both languages, and its files."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.tasks import retrieval
from llmyard.tasks.retrieval import build_index, load_index

CMRC = Path(__file__).resolve().parents[4] / "shared/data/cmrc2018/cmrc2018_trial.json"
PASSAGES = [
    ("lamp", "Malo bought a red lamp. The lamp is old, and the lamp is loved."),
    ("town", "Kora Town lies by the sea; it has a market."),
    ("灯", "马洛买了一盏红灯。灯很旧，可是他喜欢这盏灯。"),
    ("镇", "科拉镇在海边，有一个Market，3月5日开放。"),
    ("empty", "……"),
]


def terms(text: str) -> list[str]:
    """Words, Chinese characters, and pairs of neighbours that are single characters."""
    units = re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", text.lower())
    pairs = pairwise(units)
    return [*units, *("+".join(pair) for pair in pairs if len(pair[0]) == len(pair[1]) == 1)]


def plain(passages: list[tuple[str, str]], query: str, k1: float = 1.2, b: float = 0.75) -> dict[str, float]:
    """The scores above 0 of all passages."""
    bags = {name: Counter(terms(text)) for name, text in passages}
    mean = sum(bag.total() for bag in bags.values()) / len(bags)
    scores = dict.fromkeys(bags, 0.0)
    for term in terms(query):
        count = sum(term in bag for bag in bags.values())
        idf = math.log(1 + (len(bags) - count + 0.5) / (count + 0.5))
        for name, bag in bags.items():
            tf = min(bag[term], 255)
            scores[name] += idf * tf / (tf + k1 * (1 - b + b * bag.total() / mean))
    return {name: score for name, score in scores.items() if score > 0}


@pytest.mark.parametrize("query", ["the red lamp", "红灯在哪里？", "market 市场", "3月5日", "LAMP lamp", "Ｋｏｒａ"])
def test_scores_are_the_formulas(query: str, tmp_path: Path) -> None:
    found = build_index(PASSAGES, tmp_path, batch=2).search(query, 5)
    expected = plain(PASSAGES, query.replace("Ｋｏｒａ", "Kora"))
    assert found
    assert dict(found) == pytest.approx(expected)
    assert [score for _, score in found] == pytest.approx(sorted(expected.values(), reverse=True))


def test_k1_and_b_are_used_and_kept(tmp_path: Path) -> None:
    build_index(PASSAGES, tmp_path, k1=2.0, b=0.3)
    assert dict(load_index(tmp_path).search("the red lamp", 5)) == pytest.approx(
        plain(PASSAGES, "the red lamp", 2, 0.3)
    )


def test_nothing_in_common_finds_nothing(tmp_path: Path) -> None:
    index = build_index(PASSAGES, tmp_path)
    assert index.search("zebra", 3) == index.search("", 3) == index.search("斑点", 3) == []
    assert len(index.search("the", 1)) == 1


def test_equal_passages_stay_in_their_order(tmp_path: Path) -> None:
    index = build_index([(str(place), "红灯 lamp") for place in range(40)], tmp_path, batch=7)
    assert [name for name, _ in index.search("红灯", 10)] == [str(place) for place in range(10)]


def test_a_term_counts_at_most_255_times(tmp_path: Path) -> None:
    passages = [("many", "lamp " * 1000), ("one", "lamp town")]
    assert dict(build_index(passages, tmp_path).search("lamp", 2)) == pytest.approx(plain(passages, "lamp"))


texts = st.text("红灯镇海ab 。1", max_size=30)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=8), texts, st.integers(1, 4))
def test_any_passages_in_any_batches(tmp_path: Path, given_texts: list[str], query: str, batch: int) -> None:
    passages = [(str(place), text) for place, text in enumerate(given_texts)]
    if not any(terms(text) for text in given_texts):
        with pytest.raises(DataError, match="hold no words"):
            build_index(passages, tmp_path, batch=batch)
        return
    index = build_index(passages, tmp_path, batch=batch)
    assert dict(index.search(query, 8)) == pytest.approx(plain(passages, query))
    turned = dict(build_index(passages[::-1], tmp_path, batch=batch).search(query, 8))
    assert turned == pytest.approx(plain(passages, query))


def test_an_index_is_the_same_from_memory_or_mapped_and_however_it_was_batched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    passages = [(f"p{place}", " ".join(draw.choice(words, 20))) for place in range(500)]
    queries = [" ".join(draw.choice(words, 4)) for _ in range(20)]
    whole = build_index(iter(passages), tmp_path / "whole")
    monkeypatch.setattr(retrieval, "_BATCH_CHARACTERS", 2_000)
    cut = build_index(iter(passages), tmp_path / "cut")
    results = whole.search_many(queries, 7)
    assert results == [whole.search(query, 7) for query in queries]
    assert cut.search_many(queries, 7) == results
    assert load_index(tmp_path / "cut", mapped=False).search_many(queries, 7) == results
    assert not (tmp_path / "cut/making").exists()
    assert {path.suffix for path in (tmp_path / "cut").iterdir()} == {".npy", ".parquet", ".json"}
    for path in (tmp_path / "cut").glob("*.npy"):
        np.load(path, allow_pickle=False)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 passages hold no words"):
        build_index([], tmp_path)
    with pytest.raises(DataError, match="holds no whole index"):
        load_index(tmp_path)
    with pytest.raises(DataError, match="1 passages have the id of another"):
        build_index([("a", "红"), ("a", "灯")], tmp_path)
    with pytest.raises(DataError, match="holds no whole index"):
        load_index(tmp_path)
    with pytest.raises(DataError, match="b 2"):
        build_index(PASSAGES, tmp_path, b=2)
    index = build_index(PASSAGES, tmp_path)
    with pytest.raises(DataError, match="best 0"):
        index.search("红", 0)
    with pytest.raises(DataError, match="no queries"):
        index.search_many([], 3)
    (tmp_path / "index.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(DataError, match="format 99"):
        load_index(tmp_path)


@pytest.mark.skipif(not CMRC.exists(), reason=f"{CMRC} is missing")
def test_questions_find_the_paragraphs_they_were_asked_about(tmp_path: Path) -> None:
    paragraphs = [
        each for entry in json.loads(CMRC.read_text(encoding="utf-8"))["data"] for each in entry["paragraphs"]
    ]
    index = build_index(((each["id"], each["context"]) for each in paragraphs), tmp_path)
    asked = [(question["question"], each["id"]) for each in paragraphs for question in each["qas"]]
    found = [[name for name, _ in one] for one in index.search_many([question for question, _ in asked], 10)]
    recalls = [np.mean([name in names[:k] for names, (_, name) in zip(found, asked, strict=True)]) for k in (1, 5, 10)]
    assert recalls == sorted(recalls)
    assert recalls[0] > 0.9
    assert recalls[2] > 0.98
