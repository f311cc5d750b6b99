"""The tokenizer: any text survives, and no text becomes a control token."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import CONTROL, END, FILE, PAD, Tokenizer

TEXTS = [
    "Anna moved to Riverton in 1984 and opened a small bakery there.",
    "安娜于1984年搬到河镇，在那里开了一家小面包店。",
    "The café’s owner said: “It’s fine — isn’t it?”",
    "他说：“明天见！”然后离开了北京大学图书馆。",
] * 5


def trained(split_han: bool) -> Tokenizer:
    return Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=400, split_han=split_han))


@pytest.fixture(scope="module", params=[False, True], ids=["runs", "split_han"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return trained(request.param)


def test_control_tokens_in_a_text_stay_text(tokenizer: Tokenizer) -> None:
    control = {tokenizer.control(token) for token in CONTROL}
    assert len(control) == len(CONTROL)
    for token in CONTROL:
        text = f"before {token} after {token}"
        assert not control & set(tokenizer.encode(text))
        assert not control & set(tokenizer.encode_batch([text])[0])
        assert not control & set(tokenizer.encode_with_spans([text])[0].ids)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_stay_text_after_saving_and_pickling(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / FILE)
    for again in (Tokenizer.load(tmp_path / FILE), pickle.loads(pickle.dumps(tokenizer))):  # noqa: S301 - our own
        assert tokenizer.end_id not in again.encode(f"x{END}")
        assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
        assert again.to_json() == tokenizer.to_json()


def test_control_tokens_are_left_out_of_decoded_text(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.pad_id, *tokenizer.encode("文字 and words"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "文字 and words"
    assert tokenizer.control(PAD) == tokenizer.pad_id


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "𠮷野家 🐼‍❄️ ｶﾀｶﾅ العربية", "a\x00b", "\u3000缩进", "�", "１２３", "é e\u0301"]
)
def test_unseen_characters_fall_back_to_bytes(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_survives_the_round_trip(text: str) -> None:
    for tokenizer in BOTH:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= each < tokenizer.vocab_size for each in ids)
        assert tokenizer.encode_batch([text, text]) == [ids, ids]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab 中文，。🐼é1\n", max_size=30))
def test_spans_cover_the_text_in_order(text: str) -> None:
    for tokenizer in BOTH:
        (encoded,) = tokenizer.encode_with_spans([text])
        assert encoded.ids == tokenizer.encode(text)
        at = 0
        for low, high in encoded.spans:
            assert low <= at <= high  # bytes of one character share its span
            assert low < high <= len(text)
            at = high
        assert at == len(text)


BOTH = (trained(False), trained(True))


def test_with_split_han_no_token_spans_two_chinese_characters() -> None:
    def longest(tokenizer: Tokenizer) -> int:
        (encoded,) = tokenizer.encode_with_spans([TEXTS[3]])
        return max(sum("\u4e00" <= each <= "\u9fff" for each in TEXTS[3][low:high]) for low, high in encoded.spans)

    runs, split = BOTH
    assert longest(split) == 1
    assert longest(runs) > 1


def test_digits_are_single_tokens_and_scripts_do_not_mix(tokenizer: Tokenizer) -> None:
    (encoded,) = tokenizer.encode_with_spans(["in1984年abc中文"])
    parts = ["in1984年abc中文"[low:high] for low, high in encoded.spans]
    assert [part for part in parts if part.isdigit()] == ["1", "9", "8", "4"]
    assert not any("c" in part and "中" in part for part in parts)


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert trained(True).to_json() == BOTH[1].to_json()


def test_training_on_nothing_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no text"):
        Tokenizer.train([], BpeTokenizer(vocab_size=300))


def test_a_tokenizer_without_our_control_tokens_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    Backend(models.BPE()).save(str(tmp_path / FILE))
    with pytest.raises(RequestError, match="lacks the control tokens"):
        Tokenizer.load(tmp_path / FILE)
