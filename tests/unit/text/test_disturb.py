"""Disturbed texts: what is protected comes through, the same again for the same seed, and as much as was asked for."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmyard.core.errors import RequestError
from llmyard.text.disturb import Disturbed, Span, disturb
from llmyard.text.disturbances import Disturbance, Kind
from llmyard.text.pieces import Draws, joined, pieces_of
from llmyard.text.tables import table

KINDS = get_args(Kind)
ENGLISH = (
    "The teacher bought a beautiful lamp yesterday, but she did not understand the difficult problem. "
    "Children often examine ancient bicycles quickly. The doctor began to build an enormous elevator in 2019."
)
CHINESE = (
    "因为天气非常寒冷，老师没有购买自行车，但是他的父亲突然觉得很高兴。"
    "2019年10月，医生在医院里认真地检查了3个孩子的身体。"
)
WORDS = [
    "big",
    "children",
    "not",
    "I",
    "Marlo",
    "2019",
    "3.5",
    "don't",
    "U.S.",
    "快乐",
    "高兴地",
    "不",
    "马洛",
    "三个",
    "十",
]
SIGNS = [
    " ",
    "  ",
    "\n",
    ",",
    ".",
    "。",
    "，",
    "·",
    "《",
    "'",
    "ｆｕｌｌ",
    "１",
    "é",
    "e\u0301",
    "😀",
    "\x00",
    "𠀀",
    "ß",
    "İ",
]


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[str, list[Span]]:
    parts = st.one_of(st.sampled_from(WORDS), st.sampled_from(SIGNS), st.text(max_size=4))
    text = "".join(draw(st.lists(parts, max_size=30)))
    if not text:
        return text, []
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    drawn = [(min(each), max(each)) for each in draw(st.lists(ends, max_size=4))]
    return text, [(low, high) for low, high in drawn if low < high]


configs = st.builds(
    lambda shares, ways, window, seed: Disturbance(**shares, ways=ways, window=window, seed=seed),
    st.dictionaries(st.sampled_from(KINDS), st.floats(0.01, 1), min_size=1),
    st.sampled_from(["one", "all"]),
    st.integers(1, 6),
    st.integers(0, 5),
)


@settings(deadline=None, max_examples=400)
@given(texts_with_spans(), configs, st.integers(0, 3))
def test_protected_parts_come_through(given_: tuple[str, list[Span]], config: Disturbance, number: int) -> None:
    text, spans = given_
    found = disturb(text, config, spans, number)
    assert [found.text[low:high] for low, high in found.spans] == [text[low:high] for low, high in spans]
    for (one, new_one), (other, new_other) in pairwise(sorted(zip(spans, found.spans, strict=True))):
        assert new_one <= new_other
        assert new_other[0] - new_one[1] == other[0] - one[1] or one[1] <= other[0]  # those that overlap stay together
    assert bool(found.text.strip()) == bool(text.strip())
    assert found == disturb(text, config, spans, number)


@settings(deadline=None, max_examples=200)
@given(texts_with_spans())
def test_pieces_are_the_text_again(given_: tuple[str, list[Span]]) -> None:
    text, spans = given_
    assert joined(pieces_of(text, spans), spans) == Disturbed(text, tuple(spans))


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (-1, 2), (2, 9)])
def test_spans_outside_of_the_text_are_refused(span: Span) -> None:
    with pytest.raises(RequestError, match="cannot be protected in a text of 5 characters"):
        disturb("Hello", Disturbance(typos=0.5), [span])


def test_a_config_without_a_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="no kind of disturbance"):
        Disturbance()


def test_seeds_numbers_and_texts_differ() -> None:
    config = Disturbance(synonyms=0.3)
    made = {disturb(text, config, (), number).text for text in (ENGLISH, CHINESE) for number in range(5)}
    made |= {disturb(ENGLISH, Disturbance(synonyms=0.3, seed=seed)).text for seed in range(1, 5)}
    assert len(made) == 14


def test_one_way_is_one_kind_and_all_ways_are_all() -> None:
    one, all_ = (Disturbance(typos=1, width=1, ways=ways) for ways in ("one", "all"))
    seen = Counter(any("ａ" <= each <= "ｚ" for each in disturb(ENGLISH, one, (), at).text) for at in range(60))
    assert set(seen) == {True, False}
    mixed = disturb(ENGLISH, all_).text
    assert "ｔ" in mixed
    assert "".join(chr(ord(each) - 0xFEE0) if "！" <= each <= "～" else each for each in mixed) != ENGLISH
    # Where the kind that is drawn finds nothing, another one is taken.
    assert all(
        disturb("他高兴地说话。", Disturbance(typos=1, homophones=1), (), at).text != "他高兴地说话。"
        for at in range(9)
    )


CASES: list[tuple[str, str, set[str]]] = [
    ("synonyms", "She began to build a house.", {
        f"She {began} to construct a house." for began in ("commenced", "started")}),
    ("synonyms", "Children wept. I had a big car.", {
        f"Kids {wept}. I had a large automobile." for wept in ("sobbed", "cried")}),
    ("synonyms", "He had started. The Big Apple.", {"He had started. The Big Apple."}),
    ("synonyms", "It is an expensive gift.", {"It is an expensive present."}),  # not: an costly
    ("synonyms", "他立刻购买了土豆。", {"他马上买了马铃薯。", "他立即买了马铃薯。"}),
    ("insertion", "Buy it.", {"Buy purchase it.", "Buy it purchase."}),
    ("insertion", "他害怕。", {"他害怕惧怕。", "他惧怕害怕。"}),
    ("deletion", "Not now", {"Not"}),
    ("deletion", "hello", {"hello"}),
    ("deletion", "他没有3个苹果。", {"没有3个。"}),
    ("swap", "red wine", {"wine red"}),
    ("swap", "red, wine not water", {"red, wine not water"}),
    ("swap", "音乐好听", {"好听音乐"}),
    ("typos", "not 1234 won't the it", {"not 1234 won't the it"}),
    ("typos", "wood", {"wwood", "woood", "wodo", "wod", "woo"} | {f"w{a}od" for a in "ipkl"} | {
        f"wo{a}d" for a in "ipkl"} | {f"woo{a}" for a in "sferxc"} | {"woodd"}),
    ("homophones", "诗", set("师施失尸湿狮")),
    ("lookalikes", "未", set("未")),  # it negates
    ("lookalikes", "士", set("土")),
    ("traditional", "发现头发。", {"發現頭髮。"}),
    ("traditional", "發現頭髮。", {"发现头发。"}),
    ("traditional", "Hello 人", {"Hello 人"}),
    ("width", "abc，12 。", {"ａｂｃ,１２ 。"}),
    ("order", "你好。", {"你好。"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "wanted"), CASES)
def test_each_kind_does_what_it_says(kind: str, text: str, wanted: set[str]) -> None:
    config: dict[str, Any] = {kind: 0.5 if kind == "insertion" else 1.0}
    found = {disturb(text, Disturbance(**config), (), number).text for number in range(40)}
    assert found <= wanted
    assert len(found) > len(wanted) / 3


def test_words_move_within_the_window_and_no_further() -> None:
    words = [f"w{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(200)]
    for window, least in ((1, 0.15), (3, 0.5)):
        found = disturb(" ".join(words), Disturbance(order=1, window=window)).text.split(" ")
        moved = [abs(at - found.index(word)) for at, word in enumerate(words)]
        assert sorted(found) == sorted(words)
        assert max(moved) == window
        assert sum(map(bool, moved)) > least * len(words)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_as_much_is_changed_as_was_asked_for(share: float) -> None:
    def rate(kind: str, text: str, counted: Any) -> float:
        config: dict[str, Any] = {kind: share}
        return sum(counted(disturb(text, Disturbance(**config), (), at).text) for at in range(150)) / 150

    english = "lovely doctors rarely persuade clever lawyers because careful visitors examine ancient bicycles"
    words = english.split()
    assert rate("deletion", english, lambda text: len(words) - len(text.split())) == pytest.approx(12 * share, rel=0.15)
    assert rate("insertion", english, lambda text: len(text.split()) - len(words)) == pytest.approx(
        12 * share, rel=0.15
    )
    different = lambda text: sum(one != two for one, two in zip(words, text.split(), strict=True))  # noqa: E731
    for kind in ("synonyms", "typos", "swap", "width"):
        some = len(words) - 1 if kind == "swap" else len(words)  # `rarely` negates, and divides what can be exchanged
        assert rate(kind, english, different) == pytest.approx(some * share, rel=0.15)

    chinese = "他在家里写诗时听到师傅说话"
    changed = lambda text: sum(one != two for one, two in zip(chinese, text, strict=True))  # noqa: E731
    assert rate("homophones", chinese, changed) == pytest.approx(len(chinese) * share, rel=0.15)
    alike = "末日" + "土人" * 8
    seen = lambda text: sum(one != two for one, two in zip(alike, text, strict=True))  # noqa: E731
    assert rate("lookalikes", alike, seen) == pytest.approx(len(alike) * share, rel=0.15)
    simple = "医生，马车，饭馆，话题，头发，妈妈，贝壳，颜色，时间，车票"
    forms = lambda text: sum(one != two for one, two in zip(simple.split("，"), text.split("，"), strict=True))  # noqa: E731
    assert rate("traditional", simple, forms) == pytest.approx(10 * share, rel=0.15)


@pytest.mark.parametrize("kind", [each for each in KINDS if each not in ("synonyms", "width", "traditional")])
def test_numbers_names_and_negations_stay(kind: str) -> None:
    english = "Yesterday Anna Karlsson did not travel to New York with 3.5 friends and never wrote forty letters"
    chinese = "昨天约翰·史密斯没有和三个朋友去北京旅行，11月6日从不写信"
    config: dict[str, Any] = {kind: 1.0}
    for number in range(20):
        found = disturb(english, Disturbance(**config), (), number).text
        for kept in ("Anna Karlsson", "not", "New York", "3.5", "never", "forty"):
            assert kept in found
        found = disturb(chinese, Disturbance(**config), (), number).text
        for kept in ("约翰·史", "没有", "三个", "11月6日", "从不"):
            assert kept in found


def test_headlines_have_no_names_but_words() -> None:
    assert disturb("Oil Prices Rise Again", Disturbance(deletion=0.5)).text != "Oil Prices Rise Again"


def test_the_table_of_synonyms_is_sound() -> None:
    data = table("synonyms")
    groups = [group for kind in ("nouns", "verbs", "adjectives", "others") for group in data["en"][kind]]
    assert len(groups) >= 500
    assert len(data["zh"]) >= 350
    for kind in ("nouns", "verbs", "adjectives", "others"):
        first = Counter(word for group in data["en"][kind] for word in group.split() if "*" not in word)
        assert first.most_common(1)[0][1] == 1  # a word that is replaced stands in one group
    for group in (*groups, *data["zh"]):
        assert len(set(group.split())) == len(group.split()) > 1
        assert any("*" not in word for word in group.split())
    for word in (word.rstrip("*") for group in data["zh"] for word in group.split()):
        assert [piece.text for piece in pieces_of(word)] == [word]


def test_the_tables_of_characters_are_sound() -> None:
    sounds = table("homophones")
    characters = [each for tones in sounds.values() for alike in tones.values() for each in alike]
    assert len(characters) == len(set(characters)) > 1500
    assert all(isinstance(syllable, str) for syllable in sounds)
    groups = table("disturb")["lookalikes"]
    assert all(len(group) == len(set(group)) > 1 for group in groups)
    assert len(set(groups)) == len(groups) > 350


def test_draws_are_even() -> None:
    draws = Draws(1, 2)
    counts = Counter(draws.below(5) for _ in range(5000))
    assert all(850 < counts[each] < 1150 for each in range(5))
    assert sum(draws.rounded(2.3) for _ in range(5000)) / 5000 == pytest.approx(2.3, abs=0.03)
    chosen = Counter(each for _ in range(2000) for each in draws.some("abcde", 2))
    assert all(700 < chosen[each] < 900 for each in "abcde")
    assert sorted(draws.some("abc", 9)) == ["a", "b", "c"]
