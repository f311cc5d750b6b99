"""Words of Chinese texts, and how they agree with a treebank's."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.tokens.words import starts_in

TREEBANK = Path(__file__).resolve().parents[4] / "shared/data/ud_zh_gsdsimp"


def segment(text: str) -> list[str]:
    """Returns the words of a text."""
    data = text.encode()
    places = [*np.flatnonzero(starts_in(np.frombuffer(data, np.uint8))).tolist(), len(data)]
    return [data[low:high].decode() for low, high in pairwise(places)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("他在城市的图书馆看书。", "他 在 城市 的 图书馆 看书 。"),
        ("南京市长江大桥", "南京市 长江大桥"),
        ("我在2024年买了3.14个苹果,5,467元", "我 在 2024 年 买 了 3.14 个 苹果 , 5,467 元"),
        ("龘", "龘"),
        ("PyTorch很好，isn't it.", "PyTorch 很 好 ， isn't _ it ."),
    ],
)
def test_a_text_is_cut_into_words(text: str, words: str) -> None:
    assert segment(text) == [word.replace("_", " ") for word in words.split(" ")]


def test_starts_mark_the_first_bytes_of_words() -> None:
    data = np.frombuffer("他在北京a".encode(), np.uint8)
    assert np.flatnonzero(starts_in(data)).tolist() == [0, 3, 6, 12]
    assert segment("") == []
    # One that is cut within a character still has the words before.
    assert np.flatnonzero(starts_in(data[:-2])).tolist()[:3] == [0, 3, 6]


@given(st.text(st.sampled_from("北京大学生活的人 a1.,'’é\n🐼𠮷"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(segment(text)) == text
    assert all(segment(text))


@pytest.mark.skipif(not TREEBANK.exists(), reason=f"{TREEBANK} is missing")
def test_agreement_with_a_treebank(record_property: pytest.RecordProperty) -> None:
    both = found = wanted = 0
    for words in sentences():
        gold, ours = spans(words), spans(segment("".join(words)))
        both, found, wanted = both + len(gold & ours), found + len(ours), wanted + len(gold)
    f1 = 2 * both / (found + wanted)
    record_property("f1", f1)
    assert wanted > 20_000
    assert f1 > 0.79  # jieba itself, with its guesses at names: 0.793


def sentences() -> list[list[str]]:
    result: list[list[str]] = []
    for file in sorted(TREEBANK.glob("*.conllu")):
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            rows = [line.split("\t") for line in block.splitlines() if line and line[0] != "#"]
            result.append([row[1] for row in rows if row[0].isdigit()])
    return [words for words in result if words]


def spans(words: list[str]) -> set[tuple[int, int]]:
    return set(pairwise(accumulate(map(len, words), initial=0)))
