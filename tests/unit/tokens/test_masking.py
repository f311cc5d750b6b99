"""Hidden words: whole ones, as many as wanted, and everything else as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.smallworld import SmallWorld
from llmyard.tokens.config import BpeTokenizer, UnigramTokenizer, WordPieceTokenizer
from llmyard.tokens.denoising import DenoisingView, PrefixView, shuffled
from llmyard.tokens.masking import IGNORED, MaskedView, chosen_words, replaced
from llmyard.tokens.sentence_pairs import SentencePairView
from llmyard.tokens.sentences import sentence_marks
from llmyard.tokens.shards import ShardSet, ShardWriter, token_dtype
from llmyard.tokens.tokenizer import SEPARATOR, Tokenizer
from llmyard.tokens.views import PackedView
from llmyard.tokens.word_starts import WordStarts
from llmyard.tokens.words import starts_in

WORLD = SmallWorld("dev", seed=7)
TEXTS = [WORLD.document(index).text for index in range(120)]
KINDS = {
    "bpe": BpeTokenizer(vocab_size=900), "unigram": UnigramTokenizer(vocab_size=1500),
    "wordpiece": WordPieceTokenizer(vocab_size=1500),
}  # fmt: skip
TOKENIZERS = {name: Tokenizer.train(TEXTS, config) for name, config in KINDS.items()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder, tokenizer = tmp_path_factory.mktemp("shards"), TOKENIZERS["bpe"]
    writer = ShardWriter(folder, "train-0", token_dtype(tokenizer.vocab_size), 64)
    for number, text in enumerate(TEXTS):
        writer.add([*tokenizer.encode(text), tokenizer.end_id], document=str(number), source="s")
    writer.close()
    return ShardSet(folder, "train")


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_both_languages_begin_where_they_should(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    for text in (" ".join(text.split())[:60] for text in TEXTS[:30]):
        data = text.encode()
        marks = starts_in(np.frombuffer(data, np.uint8))
        starts = {len(data[:place].decode()) for place in np.flatnonzero(marks).tolist()}
        encoded = tokenizer.encode_with_spans([text])[0]
        begins = WordStarts(tokenizer)(np.array(encoded.ids))
        assert begins[0]
        end = 0
        for (low, high), is_first in zip(encoded.spans, begins, strict=True):
            # A token begins a word if one begins with its first letter; its space goes before.
            first = low + (text[low:high][:1] == " ")
            # Not a further byte of a character, spaces alone, nor digits, which WordPiece takes one by one.
            if end <= low and first < high and not text[first].isdigit():
                assert is_first == (first in starts), (text, text[low:high])
            end = max(end, high)


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.floats(0.05, 0.9), st.integers(0, 2**60))
@settings(deadline=None)
def test_whole_words_are_chosen_and_hardly_more_than_the_share(begins: list[bool], share: float, seed: int) -> None:
    starts = np.array([True, *begins[1:]])
    hidden = chosen_words(starts, share, seed)
    word = np.cumsum(starts) - 1
    lengths = np.bincount(word)
    for number in range(len(lengths)):
        assert len(set(hidden[word == number].tolist())) == 1
    assert max(1, share * len(starts)) <= hidden.sum() + 1e-9 <= max(1, share * len(starts)) + lengths.max() + 1


def test_eight_of_ten_become_the_mask_one_another_token_one_stays() -> None:
    ids = np.full(200_000, 7)
    hidden = np.arange(len(ids)) % 2 == 0
    read = replaced(ids, hidden, 100, 5)
    assert (read[~hidden] == 7).all()
    assert (read[hidden] == 100).mean() == pytest.approx(0.8, abs=0.01)
    others = read[hidden & (read != 100) & (read != 7)]
    assert len(others) / hidden.sum() == pytest.approx(0.1 * 0.99, abs=0.01)
    assert set(np.unique(others).tolist()) == set(range(100)) - {7}


@pytest.mark.parametrize("paired", [True, False])
def test_a_masked_sample_is_its_text_again_with_the_labels_put_in(shards: ShardSet, paired: bool) -> None:
    tokenizer = TOKENIZERS["bpe"]
    texts: Any = SentencePairView(shards, sentence_marks(tokenizer), 60, 3) if paired else PackedView(shards, 60)
    separator = tokenizer.control(SEPARATOR)
    view = MaskedView(texts, WordStarts(tokenizer), vocab_size=tokenizer.vocab_size, separator_id=separator, seed=4)
    hidden = total = 0
    for row in range(0, view.rows[0], 3):
        sample, plain = view(0, row, 1), texts(0, row, 1)
        wanted = [plain.first, plain.second] if paired else [plain]
        flat = [tokenizer.vocab_size + 1, *(each for part in wanted for each in [*part.tolist(), separator])]
        restored = np.where(sample.labels == IGNORED, sample.ids, sample.labels)
        assert restored.tolist() == flat
        assert sample.follows == (plain.follows if paired else None)
        assert sample.kinds.tolist() == [0] + [at for at, part in enumerate(wanted) for _ in range(len(part) + 1)]
        assert np.array_equal(view(0, row, 1).ids, sample.ids)  # a pure function
        hidden += int((sample.labels != IGNORED).sum())
        total += len(flat)
    assert hidden / total == pytest.approx(0.16, abs=0.03)
    assert not np.array_equal(view(0, 0, 2).labels, view(0, 0, 1).labels)  # another epoch hides others


def test_denoising_writes_the_whole_text_and_reads_a_shorter_one(shards: ShardSet) -> None:
    tokenizer = TOKENIZERS["bpe"]
    texts = PackedView(shards, 50)
    view = DenoisingView(
        texts, sentence_marks(tokenizer), vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, seed=2
    )
    for row in range(8):
        sample = view(0, row)
        assert sample.targets.tolist() == [*texts(0, row)[:-1].tolist(), tokenizer.end_id]
        kept = sample.inputs[sample.inputs < tokenizer.vocab_size][:-1]
        assert len(kept) == 50 - 15
        assert not set(kept.tolist()) - set(sample.targets.tolist())
        assert (sample.inputs == tokenizer.vocab_size).sum() == 5


def test_sentences_are_shuffled_whole_and_the_last_stays() -> None:
    text, starts = np.arange(20), np.array([0, 4, 9, 15])
    orders = {tuple(shuffled(text, starts, seed).tolist()) for seed in range(60)}
    assert len(orders) == 6
    for order in orders:
        assert sorted(order) == list(range(20))
        assert order[-5:] == tuple(range(15, 20))
        assert all(order[order.index(low) : order.index(low) + high - low] == tuple(range(low, high))
                   for low, high in ((0, 4), (4, 9), (9, 15)))  # fmt: skip


def test_a_prefix_and_its_rest_are_the_text(shards: ShardSet) -> None:
    texts = PackedView(shards, 30)
    view = PrefixView(texts, end_id=1, seed=9)
    for row in range(20):
        sample = view(0, row)
        assert sample.inputs[-1] == 1
        assert [*sample.inputs[:-1].tolist(), *sample.targets.tolist()] == texts(0, row)[:-1].tolist()
        assert len(sample.inputs) > 1
        assert len(sample.targets) > 0
    assert len({len(view(0, row).inputs) for row in range(20)}) > 8
