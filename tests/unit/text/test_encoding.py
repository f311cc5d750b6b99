"""Encoding repair: what was wrongly read is read again, and good text of any language stays as it is."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.smallworld import SmallWorld
from llmyard.text.config import Encoding
from llmyard.text.encoding import repair

CHINESE = "安娜搬到河镇，在那里开了一家小面包店。生意很好，的确如此，是有的。"


def one(text: str, language: str = "zh", **config: Any) -> str:
    return str(repair(pa.array([text]), pa.array([language]), Encoding(**config)).texts[0].as_py())


@pytest.mark.parametrize(
    ("good", "read_as"),
    [
        (CHINESE, "latin-1"),
        ("在河镇开了，我们很好", "gb18030"),
        ("Le café est fermé à l’aube", "cp1252"),
        ("Le café est fermé à l'aube", "latin-1"),
        ("“Yes,” she said — it’s fine…", "latin-1"),
        ("“Yes, it’s fine… — 50 €", "cp1252"),
        ("Straße für Käse", "cp1252"),
        ("so good 😀 today", "latin-1"),
    ],
)
def test_what_was_read_wrongly_is_read_again(good: str, read_as: str) -> None:
    bad = good.encode().decode(read_as)
    assert bad != good
    assert one(bad) == good


def test_a_wrong_part_of_a_good_text_is_put_right() -> None:
    assert one(f"他说：“好。” CafÃ© {CHINESE}") == f"他说：“好。” Café {CHINESE}"


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        "他说：“引号”——还有破折号……都应当保留，《书名号》也一样。",
        "涓涓细流，汇成江海；浜边有鏄字。",
        "Le café—le meilleur de la ville—était fermé depuis l’été. À la fin, “où çà?”",
        "Er sagte: „Käse“ – und ging über die Straße.",
        "Ã la carte, São Paulo, Ângela, BELÉM — «NÃO»",
        "naïve coöperation, 50 € 25 £ ½ µm ×2",
        "😀🎉👩‍👩‍👧‍👦 🇨🇳 ✈️ ok",
        "Çok güzel, Ğ ğ İ ı Ş ş; Đà Nẵng; žluťoučký kůň",
        "f(x) = α² + β³ ≤ ∞",
        "ＡＢＣ１２３，（全角）",
        "&lt;b&gt; \x1b[0m ﬁ “q”",
    ],
)
def test_good_text_is_not_touched(text: str) -> None:
    assert one(text) == text
    assert one(text, "en", narrow=False, simplify=True) == text


def test_lost_bytes_are_not_made_up() -> None:
    bad = CHINESE.encode().decode("gb18030", "replace") + "\ufffd" * 5
    assert "\ufffd" in one(bad)


def test_full_width_letters_and_digits_become_ascii_on_request_and_punctuation_stays() -> None:
    assert one("ＡＢｚ１２３，（全角）！％", narrow=True) == "ABz123，（全角）！％"


def test_traditional_characters_of_chinese_rows_become_simplified_on_request() -> None:
    assert one("乾隆皇帝的頭髮", simplify=True) == "乾隆皇帝的头发"
    assert one("東京の頭髪", "ja", simplify=True) == "東京の頭髪"
    assert one(CHINESE, simplify=True) == CHINESE


def test_changes_are_counted_and_null_rows_stay() -> None:
    texts = pa.chunked_array([["cafÃ©", "good"], [None, "１", "東"]])
    languages = pa.chunked_array([["fr", "en", "zh"], ["zh", "zh"]])
    result = repair(texts, languages, Encoding(narrow=True, simplify=True))
    assert result.texts.to_pylist() == ["café", "good", None, "1", "东"]
    assert result.counts == {"repaired": 1, "narrowed": 1, "simplified": 1}
    assert repair(texts, languages, Encoding(repair=False)).texts is texts


def test_smallworld_text_is_not_touched_and_is_restored_from_latin_1() -> None:
    world = SmallWorld("dev", seed=7)
    good = [each.text for each in map(world.document, range(300)) if not each.damage]
    languages = pa.array(["zh"] * len(good))
    assert repair(pa.array(good), languages, Encoding()).texts.to_pylist() == good
    bad = pa.array([text.encode().decode("latin-1") for text in good])
    assert repair(bad, languages, Encoding()).texts.to_pylist() == good


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF) | st.sampled_from("，。“”abc 1é😀"),
        max_size=30,
    )
)
def test_chinese_characters_of_any_kind_survive(text: str) -> None:
    assert one(text) == text
