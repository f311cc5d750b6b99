"""Neighbours of words in an embedding."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llmyard.core.errors import RequestError
from llmyard.models.neighbours import neighbours
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import CONTROL, Tokenizer

TOKENIZER = Tokenizer.train(["猫 狗 树 cat dog tree", "猫狗 cat dog"] * 40, BpeTokenizer(vocab_size=330))


def model_of(near: dict[str, str]) -> SimpleNamespace:
    """An embedding with a part common to all, in which each word of a pair is near the other."""
    torch.manual_seed(0)
    weight = torch.randn(TOKENIZER.vocab_size + 3, 24) + 20.0
    for one, other in near.items():
        (first,), (second,) = (TOKENIZER.encode(word) for word in (one, other))
        weight[second] = weight[first] + 0.3 * torch.randn(24)
    embedding = torch.nn.Embedding.from_pretrained(weight)
    return SimpleNamespace(get_input_embeddings=lambda: embedding)


def test_the_nearest_comes_first_in_both_languages() -> None:
    model = model_of({"猫": "狗", " cat": " dog"})
    assert neighbours(model, TOKENIZER, "猫")[0].token == "狗"
    found = neighbours(model, TOKENIZER, "cat", 5)
    assert found[0].token == " dog"
    assert len(found) == 5
    assert [each.cosine for each in found] == sorted((each.cosine for each in found), reverse=True)
    assert found[0].cosine > 0.8 > found[1].cosine
    assert not {each.token for each in found} & {*CONTROL, " cat"}


def test_a_word_without_a_token_is_refused() -> None:
    with pytest.raises(RequestError, match="has no token"):
        neighbours(model_of({}), TOKENIZER, " ")
