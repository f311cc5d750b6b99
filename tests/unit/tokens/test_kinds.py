"""What holds for every kind of tokenizer: no text becomes a control token; what survives; spans; files."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from llmyard.sources.smallworld import SmallWorld
from llmyard.tokens.config import (
    BpeTokenizer,
    ExtendedTokenizer,
    TokenizerChoice,
    TrainedTokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)
from llmyard.tokens.extension import extend
from llmyard.tokens.tokenizer import CONTROL, FILE, Tokenizer

WORLD = SmallWorld("dev", seed=3)
TEXTS = [WORLD.document(index).text for index in range(120)]
LOSSLESS: dict[str, TrainedTokenizer] = {
    "bpe": BpeTokenizer(vocab_size=900),
    "bpe_split": BpeTokenizer(vocab_size=900, split_han=True),
    "unigram": UnigramTokenizer(vocab_size=1200),
    "unigram_split": UnigramTokenizer(vocab_size=1200, split_han=True),
}
LOSSY: dict[str, TrainedTokenizer] = {
    "unigram_unknown": UnigramTokenizer(vocab_size=1200, byte_fallback=False),
    "wordpiece": WordPieceTokenizer(vocab_size=1200),
}
TRAINED = {name: Tokenizer.train(TEXTS, config) for name, config in (LOSSLESS | LOSSY).items()}
ALL = TRAINED | {
    f"{name}_extended": extend(TRAINED[name], TEXTS[:40], ExtendedTokenizer(extend="x", new_tokens=50))
    for name in ("bpe", "unigram", "wordpiece")
}

# Documents in both languages with control tokens, byte tokens and continuation marks in them as plain text.
PARTS = [*CONTROL, "<|", "|>", "end", "<0x0A>", "<0x7C>", "##", "##s", "\ufffd", "▁", " ", "\n", "猫", "北京大学", "。",
         " the", "Anna", "1984", "𠮷", "🐼", "é", "\x00"]  # fmt: skip
documents = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


@given(documents)
@settings(max_examples=150, deadline=None)
def test_no_text_becomes_a_control_token(text: str) -> None:
    for name, tokenizer in ALL.items():
        control = {tokenizer.control(token) for token in CONTROL}
        ids, _ = tokenizer.encode_column(pa.array([text]))
        assert not control & set(tokenizer.encode(text)), name
        assert not control & set(ids.tolist()), name


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1]])
def test_no_control_token_in_documents_that_hold_them_as_words(name: str, text: str) -> None:
    """Also a tokenizer that was trained on texts full of them."""
    texts = [f"{text} {token} {token}{token}" for token in CONTROL] * 20
    config = (LOSSLESS | LOSSY).get(name)
    tokenizer = ALL[name] if config is None else Tokenizer.train([*texts, *TEXTS], config)
    control = {tokenizer.control(token) for token in CONTROL}
    assert len(control) == len(CONTROL)
    assert not any(control & set(ids) for ids in tokenizer.encode_batch(texts))


@given(st.one_of(documents, st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)))
@settings(max_examples=200, deadline=None)
def test_any_text_survives_bpe_and_unigram_with_bytes(text: str) -> None:
    for name in (*LOSSLESS, "bpe_extended", "unigram_extended"):
        tokenizer = ALL[name]
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text, name
        assert all(0 <= each < tokenizer.vocab_size for each in ids)


@given(st.one_of(documents, st.text(alphabet="ab 中文，。🐼𠮷é1\n", max_size=30)))
@settings(max_examples=150, deadline=None)
def test_spans_cover_the_text_in_order(text: str) -> None:
    for name, tokenizer in ALL.items():
        (encoded,) = tokenizer.encode_with_spans([text])
        assert encoded.ids == tokenizer.encode(text), name
        at = 0
        for low, high in encoded.spans:
            assert low < high <= len(text), name
            skipped = text[at:low]
            assert low <= at or (name.startswith("wordpiece") and not skipped.strip()), name
            at = high
        assert at == len(text) or (name.startswith("wordpiece") and not text[at:].strip()), name


def test_bytes_of_neighbouring_unknown_characters_have_spans_of_their_own() -> None:
    (encoded,) = TRAINED["unigram"].encode_with_spans(["𠮷🐼ѭ"])
    assert encoded.spans == [(0, 1)] * 4 + [(1, 2)] * 4 + [(2, 3)] * 2


@pytest.mark.parametrize("name", list(ALL))
def test_a_file_and_a_pickle_give_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizer = ALL[name]
    tokenizer.save(tmp_path / FILE)
    for again in (Tokenizer.load(tmp_path / FILE), pickle.loads(pickle.dumps(tokenizer))):  # noqa: S301 - our own
        assert again.to_json() == tokenizer.to_json()
        assert again.encode_batch(TEXTS[:20]) == tokenizer.encode_batch(TEXTS[:20])
        assert again.split_han == tokenizer.split_han == (name.endswith("split") or name.startswith("wordpiece"))
        assert tokenizer.end_id not in again.encode("x<|end|>")


@pytest.mark.parametrize("name", list(ALL))
def test_columns_give_the_ids_of_single_texts(name: str) -> None:
    ids, offsets = ALL[name].encode_column(pa.array(TEXTS[:30]))
    assert [ids[low:high].tolist() for low, high in pairwise(offsets)] == ALL[name].encode_batch(TEXTS[:30])


def test_wordpiece_is_lossy_in_spaces_and_unknown_characters_only() -> None:
    tokenizer = TRAINED["wordpiece"]
    assert tokenizer.decode(tokenizer.encode("the  house\nis")) == "the house is"
    assert tokenizer.decode(tokenizer.encode("他在城市的。")) == "他在城市的。"
    assert tokenizer.decode(tokenizer.encode("the 龘龘")) == "the \ufffd \ufffd"
    (encoded,) = tokenizer.encode_with_spans(["在城市的the"])
    assert encoded.spans == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 7)]


def test_unigram_without_bytes_loses_unknown_characters_only() -> None:
    tokenizer = TRAINED["unigram_unknown"]
    assert tokenizer.decode(tokenizer.encode(TEXTS[0] + "龘")) == TEXTS[0] + "\ufffd"


def choice(value: object) -> object:
    return TypeAdapter[object](TokenizerChoice).validate_python(value)


def test_settings_name_the_kind_or_leave_bpe() -> None:
    assert choice({"vocab_size": 500}) == BpeTokenizer(vocab_size=500)
    assert choice({"kind": "bpe", "split_han": True}) == BpeTokenizer(split_han=True)
    assert choice({"kind": "unigram"}) == UnigramTokenizer()
    assert choice({"kind": "wordpiece"}) == WordPieceTokenizer()
    assert choice({"extend": "base", "new_tokens": 9}) == ExtendedTokenizer(extend="base", new_tokens=9)
    assert choice(UnigramTokenizer()) == UnigramTokenizer()
    assert choice("smallworld") == "smallworld"
    for wrong in ({"kind": "bqe"}, {"kind": "wordpiece", "byte_fallback": True}, {"vocab_size": 3}, 7):
        with pytest.raises(ValidationError):
            choice(wrong)
