"""Sentences and pairs: Chinese and English ends are found from ids, labels are right, half of the pairs follow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.config import BpeTokenizer, TrainedTokenizer, UnigramTokenizer, WordPieceTokenizer
from llmyard.tokens.sentence_pairs import SHORT_SHARE, SentencePair, SentencePairView
from llmyard.tokens.sentences import sentence_marks, sentence_starts
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.tokenizer import Tokenizer

CHINESE = "有一天，马洛去了科拉镇。他说：“你好！”然后走了。真的吗？！没人知道……他笑了。"
ENGLISH = 'One morning, Malo went to Kora Town. "Hello!" he said. Pi is 3.14, isn\'t it? Yes...\nA new line'
SENTENCES = {
    CHINESE: ["有一天，马洛去了科拉镇。", "他说：“你好！”", "然后走了。", "真的吗？！", "没人知道……", "他笑了。"],
    ENGLISH: [
        "One morning, Malo went to Kora Town.", ' "Hello!"', " he said.", " Pi is 3.14, isn't it?", " Yes...\n",
        "A new line",
    ],
}  # fmt: skip
TEXTS = [CHINESE, ENGLISH] * 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=420))


@pytest.mark.parametrize("config", [BpeTokenizer(vocab_size=420), UnigramTokenizer(vocab_size=420)])
@pytest.mark.parametrize("text", [CHINESE, ENGLISH], ids=["zh", "en"])
def test_sentences_end_where_a_reader_ends_them(config: TrainedTokenizer, text: str) -> None:
    tokenizer = Tokenizer.train(TEXTS, config)
    ids = np.array(tokenizer.encode(text))
    parts = np.split(ids, sentence_starts(ids, sentence_marks(tokenizer))[1:])
    assert [tokenizer.decode(part.tolist()) for part in parts] == SENTENCES[text]


def test_wordpiece_without_spaces_finds_them_too() -> None:
    tokenizer = Tokenizer.train(TEXTS, WordPieceTokenizer(vocab_size=420))
    for text, wanted in ((CHINESE, 6), ("Malo left. Nobody knew 3.14 of it! Why?", 3)):
        ids = np.array(tokenizer.encode(text))
        assert len(sentence_starts(ids, sentence_marks(tokenizer))) == wanted


def test_short_stretches_have_one_sentence(tokenizer: Tokenizer) -> None:
    marks = sentence_marks(tokenizer)
    assert sentence_starts(np.zeros(0, np.int64), marks).tolist() == []
    assert sentence_starts(np.array(tokenizer.encode("。")), marks).tolist() == [0]


MARKS = np.zeros(60_000, np.uint8)
MARKS[::5] = 1  # every fifth id ends a sentence


def shards_of(folder: Path, lengths: list[list[int]]) -> ShardSet:
    """Writes shards in which no token comes twice and each document ends with one more than its length."""
    at = 0
    for number, each in enumerate(lengths):
        writer = ShardWriter(folder, f"train-{number}", np.dtype("<u2"), 64)
        for document, length in enumerate(each):
            writer.add(range(at, at + length + 1), document=f"文{document}", source="s")
            at += length + 1
        writer.close()
    return ShardSet(folder, "train")


def document_of(tokens: list[int], lengths: list[list[int]]) -> int:
    ends = np.cumsum([length + 1 for each in lengths for length in each])
    (found,) = set(np.searchsorted(ends, tokens, side="right").tolist())
    last = ends[found] - 1
    assert last not in tokens  # the end token is no part of a segment
    return int(found)


def check(pair: SentencePair, lengths: list[list[int]], kind: str) -> None:
    first, second = pair.first.tolist(), pair.second.tolist()
    assert first
    assert second
    for segment in (first, second):
        assert segment == list(range(segment[0], segment[0] + len(segment)))
    one, two = document_of(first, lengths), document_of(second, lengths)
    if pair.follows:
        assert (one, second[0]) == (two, first[-1] + 1)
    elif kind == "next":
        assert one != two
    else:
        assert (one, first[0]) == (two, second[-1] + 1)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.lists(st.integers(2, 90), min_size=1, max_size=9), min_size=1, max_size=3),
    most=st.integers(2, 40),
    seed=st.integers(0, 2**63),
    kind=st.sampled_from(["next", "order"]),
)
def test_labels_are_right_and_no_pair_is_too_long(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[list[int]],
    most: int,
    seed: int,
    kind: Literal["next", "order"],
) -> None:
    view = SentencePairView(shards_of(tmp_path_factory.mktemp("s"), lengths), MARKS, most, seed, kind)
    for shard, rows in enumerate(view.rows):
        for row in range(rows):
            pair = view(shard, row)
            check(pair, lengths, kind)
            assert len(pair.first) + len(pair.second) <= most
            if len(lengths[shard]) == 1 and kind == "next":
                assert pair.follows


@pytest.mark.parametrize("kind", ["next", "order"])
def test_half_follow_a_tenth_is_short_and_cuts_lie_between_sentences(
    tmp_path: Path, kind: Literal["next", "order"]
) -> None:
    lengths = [[200] * 40]
    view = SentencePairView(shards_of(tmp_path, lengths), MARKS, 50, 3, kind)
    pairs = [view(0, row, epoch) for epoch in range(12) for row in range(view.rows[0])]
    following = sum(pair.follows for pair in pairs) / len(pairs)
    assert abs(following - 0.5) < 0.04
    full = sum(len(pair.first) + len(pair.second) == 50 for pair in pairs) / len(pairs)
    assert abs(full - (1 - SHORT_SHARE)) < 0.03
    for pair in pairs:
        if pair.follows and len(pair.first) + len(pair.second) > 6:
            assert pair.first[-1] % 5 == 0  # a sentence's end
    first = view(0, 3, 1)
    again = SentencePairView(ShardSet(tmp_path, "train"), MARKS, 50, 3, kind)(0, 3, 1)
    assert (first.first.tolist(), first.second.tolist()) == (again.first.tolist(), again.second.tolist())
    assert first.first.tolist() != view(0, 3, 2).first.tolist()


def test_a_chinese_pair_reads_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    writer = ShardWriter(tmp_path, "train-0", np.dtype("<u2"), 64)
    for document, text in enumerate((CHINESE * 5, ENGLISH * 5)):
        writer.add([*tokenizer.encode(text), tokenizer.end_id], document=str(document), source="s")
    writer.close()
    view = SentencePairView(ShardSet(tmp_path, "train"), sentence_marks(tokenizer), 40, 1)
    seen = set()
    for epoch in range(30):
        for row in range(view.rows[0]):
            pair = view(0, row, epoch)
            first, second = (tokenizer.decode(part.tolist()) for part in (pair.first, pair.second))
            language = ["zh" if "\u4e00" <= max(text) <= "\uffff" else "en" for text in (first, second)]
            seen.add((pair.follows, *language))
            if pair.follows:
                assert first + second in CHINESE * 6 + ENGLISH * 6
    assert seen == {(True, "zh", "zh"), (True, "en", "en"), (False, "zh", "en"), (False, "en", "zh")}


def test_what_cannot_make_pairs_is_refused(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [[1, 1]])
    with pytest.raises(RequestError, match="no room for two segments"):
        SentencePairView(shards, MARKS, 1, 0)
    with pytest.raises(DataError, match="no document of two tokens"):
        SentencePairView(shards, MARKS, 10, 0)(0, 0)
