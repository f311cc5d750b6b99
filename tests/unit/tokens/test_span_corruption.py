"""Span corruption: nothing of the text is lost, lengths are T5's, chance is a function of the sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.span_corruption import Corrupted, SpanCorruptionView, SpanLengths, noise_mask
from llmyard.tokens.tokenizer import Tokenizer

VOCABULARY, END = 500, 1


def restored(sample: Corrupted, vocab_size: int) -> list[int]:
    """Puts the spans back in the place of their sentinels."""
    assert sample.inputs[-1] == sample.targets[-1] == END
    spans: dict[int, list[int]] = {}
    for token in sample.targets[:-1].tolist():
        if token >= vocab_size:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    assert list(spans) == list(range(vocab_size, vocab_size + len(spans)))
    assert all(spans.values())
    text: list[int] = []
    for token in sample.inputs[:-1].tolist():
        text += spans.pop(token) if token >= vocab_size else [token]
    assert not spans
    return text


def shards_of(folder: Path, tokens: int = 6000, shards: int = 2) -> ShardSet:
    for number in range(shards):
        writer = ShardWriter(folder, f"train-{number}", np.dtype("<u2"), 64)
        ids = np.random.default_rng(number).integers(2, VOCABULARY, tokens)
        for start in range(0, tokens, 300):
            writer.add(ids[start : start + 300], document=f"文{start}", source="s")
        writer.close()
    return ShardSet(folder, "train")


def test_the_lengths_are_those_of_the_papers_code() -> None:
    lengths = SpanLengths.filling(512, 0.15, 3.0)
    assert (lengths.raw, lengths.inputs, lengths.targets, lengths.spans) == (568, 512, 114, 28)


@settings(deadline=None, max_examples=200)
@given(st.integers(3, 1500), st.floats(0.05, 0.4), st.floats(1, 8))
def test_the_input_is_filled_exactly(length: int, density: float, mean: float) -> None:
    lengths = SpanLengths.filling(length, density, mean)
    assert lengths.inputs == length
    assert lengths.targets == lengths.noise + lengths.spans + 1
    assert 1 <= lengths.spans <= lengths.noise < lengths.raw


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 200), st.floats(0.05, 0.5), st.floats(1, 8), st.integers(0, 2**63))
def test_spans_are_as_many_and_as_long_as_they_should_be(length: int, density: float, mean: float, seed: int) -> None:
    lengths = SpanLengths.filling(length, density, mean)
    mask = noise_mask(lengths, seed)
    assert (len(mask), int(mask.sum()), bool(mask[0])) == (lengths.raw, lengths.noise, False)
    assert int((mask[1:] & ~mask[:-1]).sum()) == lengths.spans


def test_inputs_and_targets_together_are_the_text(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)
    view = SpanCorruptionView(shards, 100, vocab_size=VOCABULARY, end_id=END, seed=3)
    assert view.rows == [6000 // view.lengths.raw] * 2
    for shard, rows in enumerate(view.rows):
        for row in range(rows):
            sample = view(shard, row)
            assert (len(sample.inputs), len(sample.targets)) == (100, view.lengths.targets)
            raw = shards.shards[shard].read(row * view.lengths.raw, view.lengths.raw)
            assert restored(sample, VOCABULARY) == raw.tolist()


def test_chance_is_a_function_of_seed_epoch_and_place(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)

    def view(seed: int) -> SpanCorruptionView:
        return SpanCorruptionView(shards, 100, vocab_size=VOCABULARY, end_id=END, seed=seed)

    first = view(1)(0, 5, 2).inputs.tolist()
    assert view(1)(0, 5, 2).inputs.tolist() == first
    others = [view(2)(0, 5, 2), view(1)(0, 5, 3), view(1)(0, 6, 2), view(1)(1, 5, 2)]
    assert all(other.inputs.tolist() != first for other in others)


def test_every_place_is_cut_out_as_often() -> None:
    lengths = SpanLengths.filling(512, 0.15, 3.0)
    counts = sum(noise_mask(lengths, seed).astype(int) for seed in range(3000))
    middle = counts[10:-10] / 3000  # a span always ends the text, as in the paper's code
    assert abs(middle.mean() - 0.15) < 0.01
    assert middle.max() - middle.min() < 0.05


def test_a_chinese_text_comes_back(tmp_path: Path) -> None:
    text = "有一天，马洛去了科拉镇。他在那里找到了一盏绿色的灯，灯上写着一句话。" * 6
    tokenizer = Tokenizer.train([text], BpeTokenizer(vocab_size=330, split_han=True))
    ids = tokenizer.encode(text)
    writer = ShardWriter(tmp_path, "train-0", np.dtype("<u2"), 64)
    writer.add([*ids, tokenizer.end_id], document="一", source="s")
    writer.close()
    view = SpanCorruptionView(
        ShardSet(tmp_path, "train"), 40, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, seed=0
    )
    sample = view(0, 0)
    assert max(sample.inputs) == tokenizer.vocab_size + view.lengths.spans - 1
    back = restored(sample, tokenizer.vocab_size) if tokenizer.end_id == END else None
    assert back is not None
    assert text.startswith(tokenizer.decode(back).rstrip("\ufffd"))


def test_too_little_text_or_room_is_refused(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)
    with pytest.raises(DataError, match="fewer in each than the"):
        SpanCorruptionView(shards, 9000, vocab_size=VOCABULARY, end_id=END, seed=3)
    with pytest.raises(RequestError, match="no room for a span"):
        SpanLengths.filling(2, 0.15, 3.0)
