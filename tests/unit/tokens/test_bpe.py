"""The compiled encoder gives the ids of Hugging Face's ``tokenizers``, for any text."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.smallworld import SmallWorld
from llmyard.tokens.bpe import HAN, LETTER, NUMBER, SPACE, CompiledBpe, character_classes
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import CONTROL, Tokenizer

WORLD = SmallWorld("dev", seed=7)
TEXTS = [WORLD.document(index).text for index in range(300)]
# Characters that the pattern treats differently, and what is easily cut in two.
ALPHABET = " \n\t\u3000\u00a0abZé'’1９٣〇㈠!。，！…—⺀々中国大家龘𠮷ｶﾅかアไ가🐼‍❄️\ufffd\x00"


@pytest.fixture(scope="module", params=[False, True], ids=["runs", "split_han"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=1500, split_han=request.param))


def same(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, offsets = tokenizer.encode_column(pa.array(texts, pa.string()))
    assert isinstance(tokenizer._compiled, CompiledBpe)
    wanted = tokenizer.encode_batch(texts)
    assert [ids[low:high].tolist() for low, high in pairwise(offsets)] == wanted


def test_documents_of_the_corpus(tokenizer: Tokenizer) -> None:
    same(tokenizer, [WORLD.document(index).text for index in range(300, 600)])
    same(tokenizer, TEXTS)  # now from the table of known words


@given(st.lists(st.text(st.sampled_from(ALPHABET), max_size=40), max_size=4))
@settings(max_examples=150, deadline=None)
def test_texts_of_awkward_characters(tokenizer: Tokenizer, texts: list[str]) -> None:
    same(tokenizer, texts)


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text(tokenizer: Tokenizer, text: str) -> None:
    same(tokenizer, [text, "", text])


# Few merges leave parts of characters in tokens, many make tokens of whole words.
SCRIPTS = (
    "的是了在人有我他这中大来上国个到说们",
    "日本語のひらがなカタカナ漢字",
    "привет мир и всё",
    "안녕하세요 세계",
    "é à ü ñ ç",
    "🐼🐻𠮷龘",
)


@pytest.mark.parametrize("vocab_size", [300, 400, 700, 2500])
@given(st.integers(0, 2**32), st.sets(st.sampled_from(SCRIPTS), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_vocabularies_with_parts_and_pairs_of_characters(vocab_size: int, seed: int, scripts: set[str]) -> None:
    draw = random.Random(seed)
    letters = "".join(sorted(scripts)) + "ab 。"
    words = ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(60)]
    texts = ["".join(draw.choices(words, k=30)) for _ in range(40)]
    trained = Tokenizer.train(texts, BpeTokenizer(vocab_size=vocab_size))
    same(trained, texts)
    same(trained, ["".join(draw.choices(letters + "中X", k=40)) for _ in range(40)])


def test_merges_out_of_order_are_merged_byte_by_byte() -> None:
    """A token that is made once more, later than a pair it is in: characters may not be looked up at once."""
    parts = json.loads(Tokenizer.train(["中国人 中国 人中"] * 9, BpeTokenizer(vocab_size=300)).to_json())
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = [*merges[-3:], *merges[:-3]]
    same(Tokenizer.from_json(json.dumps(parts)), ["中国人中国国中人人 中", "国" * 30])


def test_long_words_and_control_tokens_as_text(tokenizer: Tokenizer) -> None:
    draw = random.Random(5)
    runs = ["".join(draw.choices("etaoinshrdlu", k=size)) for size in (48, 49, 63, 64, 65, 100, 5000)]
    same(tokenizer, [*runs, " " * 3000, "中国" * 700, "=" * 999, *CONTROL, "".join(CONTROL)])


def test_any_arrow_layout(tokenizer: Tokenizer) -> None:
    texts = ["一只猫", "", "two cats", "三 dogs"] * 3
    whole = tokenizer.encode_column(pa.array(texts, pa.string()))
    layouts = [
        pa.array(texts, pa.large_string()),
        pa.array(["x", *texts, "y"], pa.string()).slice(1, len(texts)),
        pa.chunked_array([pa.array(texts[:5]), pa.array(texts[5:])]),
    ]
    for layout in layouts:
        found = tokenizer.encode_column(layout)
        assert all(np.array_equal(*pair) for pair in zip(found, whole, strict=True))
    ids, offsets = tokenizer.encode_column(pa.chunked_array([], pa.string()))
    assert len(ids) == 0
    assert offsets.tolist() == [0]


def test_a_full_table_of_words_changes_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmyard.tokens.bpe._CACHE_SLOTS", 16)
    small = CompiledBpe(tokenizer.to_json(), tokenizer._compiled._split_han)  # type: ignore[union-attr]
    column = pa.array(TEXTS)
    for found, wanted in zip(small.encode(column), tokenizer.encode_column(column), strict=True):
        assert np.array_equal(found, wanted)


def test_a_tokenizer_of_another_make_is_encoded_by_the_library(tokenizer: Tokenizer) -> None:
    other = Tokenizer.from_json(tokenizer.to_json().replace('"ignore_merges":false', '"ignore_merges":true'))
    assert other._compiled is None
    ids, offsets = other.encode_column(pa.array(TEXTS[:20]))
    assert ids.tolist() == [one for each in other.encode_batch(TEXTS[:20]) for one in each]
    assert len(offsets) == 21


def test_classes_of_characters() -> None:
    classes = character_classes()
    for character, bits in (
        ("a", LETTER),
        ("1", NUMBER),
        (" ", SPACE),
        ("中", LETTER | HAN),
        ("〇", NUMBER | HAN),
        ("!", 0),
    ):
        assert classes[ord(character)] == bits
