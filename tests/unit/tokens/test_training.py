"""Vocabularies learned from counted words: the library's merges, the same result every time, any division."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.smallworld import SmallWorld
from llmyard.tokens.config import BpeTokenizer, TrainedTokenizer, UnigramTokenizer, WordPieceTokenizer
from llmyard.tokens.counts import Counts, WordCounter, count_all
from llmyard.tokens.tokenizer import CONTROL, Tokenizer, byte_words
from llmyard.tokens.training import train, train_bpe

WORLD = SmallWorld("dev", seed=7)
TEXTS = [WORLD.document(index).text for index in range(400)]
POEMS = Path(__file__).resolve().parents[4] / "shared/data/chinese_poetry"
NOVELS = Path(__file__).resolve().parents[4] / "shared/data/gutenberg_en"


def trained_by_the_library(texts: list[str], config: BpeTokenizer) -> str:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = byte_words(config.split_han)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.encode_special_tokens = True
    return str(backend.to_str())


def counted(counts: Counts) -> dict[str, int]:
    return dict(zip(counts.words.to_pylist(), counts.counts.tolist(), strict=True))


@pytest.mark.parametrize("split_han", [False, True])
@pytest.mark.parametrize("vocab_size", [300, 2000, 100_000])
def test_bpe_has_the_merges_of_the_library(split_han: bool, vocab_size: int) -> None:
    config = BpeTokenizer(vocab_size=vocab_size, split_han=split_han)
    assert Tokenizer.train(TEXTS, config).to_json() == trained_by_the_library(TEXTS, config)


@pytest.mark.parametrize("folder", [POEMS, NOVELS], ids=["zh", "en"])
def test_bpe_has_the_merges_of_the_library_on_real_texts(folder: Path) -> None:
    if not folder.exists():
        pytest.skip(f"{folder} is missing")
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".txt"))[:2]
    texts = [path.read_bytes().decode(errors="replace")[:300_000] for path in files]
    config = BpeTokenizer(vocab_size=6000)
    assert Tokenizer.train(texts, config).to_json() == trained_by_the_library(texts, config)


@given(st.lists(st.text(st.sampled_from("ab 中文"), max_size=30), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_merges_of_few_letters_with_many_ties_are_the_library_s(texts: list[str]) -> None:
    config = BpeTokenizer(vocab_size=330)
    if any(texts):
        assert Tokenizer.train(texts, config).to_json() == trained_by_the_library(texts, config)


@pytest.mark.parametrize("split_han", [False, True])
def test_words_are_those_of_the_pattern(split_han: bool) -> None:
    wanted: dict[str, int] = {}
    for text in TEXTS[:50]:
        for word, _ in byte_words(split_han).pre_tokenize_str(text):
            wanted[word] = wanted.get(word, 0) + 1
    alphabet = {name: byte for byte, name in enumerate(_byte_names())}
    found = {bytes(alphabet[name] for name in word).decode(): count for word, count in wanted.items()}
    assert counted(count_all(TEXTS[:50], split_han)) == found


def _byte_names() -> list[str]:
    from llmyard.tokens.bpe import byte_characters

    return byte_characters()


def test_counts_of_portions_add_up_in_any_order_and_survive_a_file(tmp_path: Path) -> None:
    whole = count_all(iter(TEXTS), False)
    parts = [count_all(TEXTS[low : low + 90], False).table() for low in range(0, 400, 90)]
    for order in (parts, parts[::-1], [parts[0].slice(0, 10), parts[0].slice(10), *parts[1:]]):
        counter = WordCounter()
        for number, part in enumerate(order):
            pq.write_table(part, tmp_path / f"{number}.parquet")
            counter.add_table(pq.read_table(tmp_path / f"{number}.parquet"))
        added = counter.counts()
        assert counted(added) == counted(whole)
        assert (
            train_bpe(added, BpeTokenizer(vocab_size=900)).to_json()
            == Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=900)).to_json()
        )
    assert len(count_all([], False)) == 0


def test_many_and_long_words_make_the_table_grow() -> None:
    words = [f" {number:x}".replace("0", "g").translate(dict(zip(map(ord, "123456789"), "hijklmnop", strict=True)))
             for number in range(30_000)]  # fmt: skip
    counts = count_all(["".join(words), "x" * 1_000_000, "".join(words[:7])], False)
    assert counted(counts) == {**dict.fromkeys(words, 1), **dict.fromkeys(words[:7], 2), "x" * 1_000_000: 1}


@pytest.mark.parametrize(
    "config",
    [UnigramTokenizer(vocab_size=1500), UnigramTokenizer(vocab_size=1500, split_han=True, byte_fallback=False),
     WordPieceTokenizer(vocab_size=1500)],
    ids=["unigram", "unigram_split", "wordpiece"],
)  # fmt: skip
def test_training_is_the_same_for_any_order_of_texts(config: TrainedTokenizer) -> None:
    first = Tokenizer.train(TEXTS, config)
    assert first.vocab_size == config.vocab_size
    assert Tokenizer.train(TEXTS, config).to_json() == first.to_json()
    assert Tokenizer.from_json(first.to_json()).to_json() == first.to_json()


def test_unigram_writes_about_as_short_as_bpe() -> None:
    held_out = [WORLD.document(index).text for index in range(400, 500)]

    def tokens(config: TrainedTokenizer) -> int:
        return sum(map(len, Tokenizer.train(TEXTS, config).encode_batch(held_out)))

    assert tokens(UnigramTokenizer(vocab_size=2000)) < 1.03 * tokens(BpeTokenizer(vocab_size=2000))


def test_unigram_pieces_are_words_and_their_parts() -> None:
    texts = ["playing played player plays", "walking walked walker walks"] * 50
    tokenizer = Tokenizer.train(texts, UnigramTokenizer(vocab_size=300))
    (encoded,) = tokenizer.encode_with_spans(["playing walked"])
    parts = ["playing walked"[low:high] for low, high in encoded.spans]
    assert len(parts) <= 5
    assert "".join(parts) == "playing walked"


@pytest.mark.parametrize("config", [UnigramTokenizer(vocab_size=300), WordPieceTokenizer(vocab_size=300)])
def test_a_vocabulary_without_room_for_the_characters_is_refused(config: TrainedTokenizer) -> None:
    with pytest.raises(RequestError, match="has no room for"):
        Tokenizer.train(["".join(map(chr, range(0x4E00, 0x5000)))], config)


def test_rare_characters_get_no_token() -> None:
    texts = ["一二三四五" * 400, "龘"]
    tokenizer = Tokenizer.train(texts, UnigramTokenizer(vocab_size=300, coverage=0.999))
    assert len(tokenizer.encode("龘")) == 3
    assert tokenizer.decode(tokenizer.encode("龘")) == "龘"
    everything = Tokenizer.train(texts, UnigramTokenizer(vocab_size=300, coverage=1.0))
    assert len(everything.encode("龘")) == 1


@pytest.mark.parametrize("config", [BpeTokenizer(), UnigramTokenizer(), WordPieceTokenizer()])
def test_no_words_are_a_data_error(config: TrainedTokenizer) -> None:
    with pytest.raises(DataError, match="no text"):
        train(Counts(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64)), config)
