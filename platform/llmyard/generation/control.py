"""What a writer of answers may be held to: their length, their language, words that must not stand in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from llmyard.generation.engine import GenerateRequest, Unsupported
from llmyard.tokens.tokenizer import Tokenizer

LANGUAGES = ("en", "zh")
_TAIL = 32  # tokens that are read back for a forbidden word


class Controls:
    """Holds answers to what their requests ask for, for one tokenizer.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def begin(self, request: GenerateRequest) -> Control | None:
        """Returns what holds an answer; None where it is free.

        Raises:
            Unsupported: The language is not known, or a forbidden word is empty.
        """
        if request.language is not None and request.language not in LANGUAGES:
            raise Unsupported(f"the language is {request.language!r}", f"ask for one of {', '.join(LANGUAGES)}")
        if any(not word.strip() for word in request.forbidden):
            raise Unsupported("a forbidden word is empty", "leave it out")
        if not (request.min_new_tokens or request.language or request.forbidden or request.no_repeat):
            return None
        foreign = None if request.language is None else self._foreign[request.language]
        return Control(self._tokenizer, request, foreign)

    @cached_property
    def _foreign(self) -> dict[str, torch.Tensor]:
        """Returns for each language which ids spell letters of the other one's script (V)."""
        texts = [self._tokenizer.decode([id_]) for id_ in range(self._tokenizer.vocab_size)]
        han = torch.tensor([any("\u3400" <= each <= "\u9fff" for each in text) for text in texts])
        latin = torch.tensor([any(each.isascii() and each.isalpha() for each in text) for text in texts])
        # Bytes that are a part of a character are no text yet; most of them are parts of Chinese ones.
        part = torch.tensor(["\ufffd" in text for text in texts])
        return {"en": han | part, "zh": latin}


class Control:
    """What holds one answer.

    Args:
        tokenizer: Of the model.
        request: Of the answer.
        foreign: Ids that its language does not have.
    """

    def __init__(self, tokenizer: Tokenizer, request: GenerateRequest, foreign: torch.Tensor | None) -> None:
        self._tokenizer, self._request, self._foreign = tokenizer, request, foreign
        self._forbidden = tuple(word.casefold() for word in request.forbidden)

    def allow(self, logits_V: torch.Tensor, written: Sequence[int]) -> torch.Tensor:
        """Returns logits in which tokens that are not allowed now have no chance; where none is left, the end has.

        Args:
            logits_V: Of the next token.
            written: Ids so far.
        """
        end, logits_V = self._tokenizer.end_id, logits_V.clone()
        last = logits_V[end].clone()
        if len(written) < self._request.min_new_tokens:
            for each in (end, *map(self._tokenizer.control, self._request.end_tokens)):
                logits_V[each] = -torch.inf
        if self._foreign is not None:
            size = len(self._foreign)
            logits_V[:size][self._foreign.to(logits_V.device)] = -torch.inf
        for id_ in self._repeating(written):
            logits_V[id_] = -torch.inf
        # One after the other: a word may be spelled in many ways, but the token that completes it is likely.
        while self._forbidden and torch.isfinite(logits_V).any():
            likeliest = int(logits_V.argmax())
            if not self._completes(written, likeliest):
                break
            logits_V[likeliest] = -torch.inf
        if not torch.isfinite(logits_V).any():
            logits_V[end] = last
        return logits_V

    def refuses(self, written: Sequence[int], token: int) -> bool:
        """Returns whether a token that was drawn would complete a forbidden word."""
        return bool(self._forbidden) and self._completes(written, token)

    def _repeating(self, written: Sequence[int]) -> list[int]:
        """Returns the ids that would complete a run of ``no_repeat`` tokens that stands in the answer already."""
        size = self._request.no_repeat
        if not size or len(written) < size:
            return []
        before = tuple(written[len(written) - size + 1 :])
        runs = range(len(written) - size + 1)
        return [written[at + size - 1] for at in runs if tuple(written[at : at + size - 1]) == before]

    def _completes(self, written: Sequence[int], token: int) -> bool:
        if token == self._tokenizer.end_id:
            return False
        tail = list(written[-_TAIL:])
        before = self._tokenizer.decode(tail).casefold()
        after = self._tokenizer.decode([*tail, token]).casefold()
        return any(after.count(word) > before.count(word) for word in self._forbidden)
