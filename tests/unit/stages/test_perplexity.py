"""What a report says of a text beside perplexity."""

from __future__ import annotations

import math

import pytest

from llmyard.stages.perplexity import _spelled
from llmyard.tokens.config import BpeTokenizer, WordPieceTokenizer
from llmyard.tokens.tokenizer import Tokenizer
from llmyard.tokens.word_starts import token_sizes

TEXT = "A lamp, 一盏绿色的灯。 Ünïcode."


def test_bits_a_byte_and_intervals_over_batches() -> None:
    batches = [[80.0, 20.0, 60.0], [90.0, 20.0, 62.0], [70.0, 20.0, 58.0]]
    figures, between = _spelled(batches)
    assert figures == {"bits_per_byte": pytest.approx(240 / math.log(2) / 180)}
    assert between["bits_per_byte"][0] < figures["bits_per_byte"] < between["bits_per_byte"][1]
    low, high = between["perplexity"]
    assert low < math.exp(4) < high
    assert _spelled(batches[::-1]) == _spelled(batches)  # whichever worker came first
    alone, none = _spelled(batches[:1])
    assert alone == {"bits_per_byte": pytest.approx(80 / math.log(2) / 60)}
    assert none == {}
    assert _spelled([[1.0, 0.0, 0.0]]) == ({}, {})


def test_the_sizes_of_tokens_add_up_to_their_text() -> None:
    tokenizer = Tokenizer.train([TEXT] * 9, BpeTokenizer(vocab_size=330))
    sizes = token_sizes(tokenizer)
    assert sizes[tokenizer.encode(TEXT)].sum() == len(TEXT.encode())
    assert sizes[tokenizer.end_id] == 0
    pieces = Tokenizer.train([TEXT] * 9, WordPieceTokenizer(vocab_size=300))
    assert abs(token_sizes(pieces)[pieces.encode("A lamp")].sum() - len("A lamp")) <= 1  # the first has a space too
