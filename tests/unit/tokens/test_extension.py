"""An extended tokenizer: what it had keeps its ids and meaning, and Chinese gets shorter."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pytest

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.smallworld import SmallWorld
from llmyard.tokens.config import (
    BpeTokenizer,
    ExtendedTokenizer,
    TrainedTokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)
from llmyard.tokens.extension import extend
from llmyard.tokens.tokenizer import CONTROL, Tokenizer

WORLD = SmallWorld("dev", seed=7)
DOCUMENTS = [WORLD.document(index) for index in range(700)]
PLAIN = [document for document in DOCUMENTS if not document.damage]
ENGLISH = [document.text for document in PLAIN if document.language == "en"]
CHINESE = [document.text for document in PLAIN if document.language == "zh"]
SEEN, HELD_OUT = CHINESE[:150], CHINESE[150:]
HAN = ExtendedTokenizer(extend="base", new_tokens=1000, script="han")


@pytest.fixture(
    scope="module",
    params=[BpeTokenizer(vocab_size=1200), BpeTokenizer(vocab_size=1200, split_han=True),
            UnigramTokenizer(vocab_size=1200), WordPieceTokenizer(vocab_size=1200)],
    ids=["bpe", "bpe_split", "unigram", "wordpiece"],
)  # fmt: skip
def base(request: pytest.FixtureRequest) -> Tokenizer:
    config: TrainedTokenizer = request.param
    return Tokenizer.train(ENGLISH, config)


def names(tokenizer: Tokenizer) -> list[str]:
    vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
    if isinstance(vocabulary, list):
        return [name for name, _ in vocabulary]
    return sorted(vocabulary, key=vocabulary.__getitem__)


def characters_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    return sum(map(len, texts)) / sum(map(len, tokenizer.encode_batch(texts)))


def test_old_ids_keep_their_meaning_and_new_ones_are_appended(base: Tokenizer) -> None:
    extended = extend(base, [*SEEN, *ENGLISH], ExtendedTokenizer(extend="base", new_tokens=1000))
    old, new = names(base), names(extended)
    assert new[: len(old)] == old
    assert len(set(new)) == len(new) == extended.vocab_size
    assert len(old) < len(new) <= len(old) + 1000
    assert [extended.control(token) for token in CONTROL] == [base.control(token) for token in CONTROL]
    for ids in base.encode_batch([*ENGLISH[:50], *HELD_OUT[:50]]):
        assert extended.decode(ids) == base.decode(ids)


def test_texts_without_a_chinese_character_keep_their_ids(base: Tokenizer) -> None:
    extended = extend(base, [*SEEN, *ENGLISH], HAN)
    texts = [text for text in ENGLISH if text.isascii()]
    assert len(texts) > 20
    assert extended.encode_batch(texts) == base.encode_batch(texts)


def test_chinese_gets_shorter_and_survives(base: Tokenizer) -> None:
    extended = extend(base, SEEN, HAN)
    before, after = (characters_per_token(each, HELD_OUT) for each in (base, extended))
    if json.loads(base.to_json())["model"]["type"] == "WordPiece":  # one character, one token, known or not
        unknown = base.encode("\ufffd")[0]
        lost = [sum(ids.count(unknown) for ids in each.encode_batch(HELD_OUT)) for each in (base, extended)]
        assert lost[1] < 0.1 * lost[0]
        return
    assert after > (1.2 if extended.split_han else 1.7) * before
    assert all(
        extended.decode(ids) == text for ids, text in zip(extended.encode_batch(HELD_OUT), HELD_OUT, strict=True)
    )


@pytest.mark.parametrize("split_han", [False, True])
def test_an_extended_bpe_is_encoded_by_the_compiled_encoder(split_han: bool) -> None:
    base = Tokenizer.train(ENGLISH, BpeTokenizer(vocab_size=1000, split_han=split_han))
    extended = extend(base, [*SEEN, *ENGLISH], ExtendedTokenizer(extend="base", new_tokens=800))
    assert extended._compiled is not None
    texts = [*HELD_OUT, *ENGLISH[:50]]
    ids, _ = extended.encode_column(pa.array(texts))
    assert ids.tolist() == [one for each in extended.encode_batch(texts) for one in each]
    merges = [json.loads(each.to_json())["model"]["merges"] for each in (base, extended)]
    assert merges[1][: len(merges[0])] == merges[0]
    again = extend(extended, HELD_OUT, ExtendedTokenizer(extend="base", new_tokens=100))
    assert names(again)[: extended.vocab_size] == names(extended)


def test_extending_on_nothing_or_a_foreign_tokenizer_is_an_error() -> None:
    base = Tokenizer.train(ENGLISH[:50], BpeTokenizer(vocab_size=400))
    with pytest.raises(DataError, match="no text to extend"):
        extend(base, ["no Chinese here"], HAN)
    foreign = Tokenizer.from_json(base.to_json().replace("Han", "Greek"))
    with pytest.raises(RequestError, match="a way of its own"):
        extend(foreign, CHINESE, HAN)
