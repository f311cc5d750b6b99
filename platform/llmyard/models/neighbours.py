"""Tokens whose vectors lie near a word's: what an embedding has learned, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from llmyard.core.errors import RequestError
from llmyard.tokens.tokenizer import CONTROL, Tokenizer


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A token and the cosine of its vector and the word's."""

    token: str
    cosine: float


@torch.no_grad()
def neighbours(model: Any, tokenizer: Tokenizer, word: str, count: int = 10) -> list[Neighbour]:
    """Returns the tokens nearest to a word in the model's input embedding, without the word's own.

    The vectors' common part is taken off first: it makes all tokens of a small model look alike (Mu and Viswanath
    2018). A word of several tokens stands for the mean of their vectors. It is looked up as it stands in running text,
    with a space before it where that is one token.

    Args:
        model: With ``get_input_embeddings``.
        tokenizer: Of the model.
        word: Chinese or other.
        count: How many.

    Raises:
        RequestError: The word has no token.
    """
    spaced, plain = tokenizer.encode(f" {word}"), tokenizer.encode(word)
    ids = spaced if len(spaced) == 1 else plain
    if not ids or not word.strip():
        raise RequestError(f"{word!r} has no token", "give a word")
    control = {tokenizer.control(token) for token in CONTROL}
    vectors = model.get_input_embeddings().weight[: tokenizer.vocab_size].float()
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    scores = vectors @ F.normalize(vectors[ids].mean(0), dim=0)
    scores[[*ids, *control]] = -2.0
    values, places = scores.topk(min(count, len(scores) - len(ids) - len(control)))
    return [
        Neighbour(tokenizer.decode([place]), round(value, 4))
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
