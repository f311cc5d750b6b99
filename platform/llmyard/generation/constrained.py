"""Answers bound to a JSON schema or a regular expression: tokens that would leave it are not chosen."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import torch

from llmyard.generation.engine import Unsupported
from llmyard.tokens.tokenizer import Tokenizer


class Grammars:
    """Follows answers through their schemas, for one tokenizer (llguidance).

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _tokens(self) -> Any:
        from llguidance import LLTokenizer

        return LLTokenizer(self._tokenizer.to_json(), eos_token=self._tokenizer.end_id)

    def begin(self, schema: str | None, regex: str | None = None) -> Grammar | None:
        """Returns the state of an answer that is to follow a JSON schema or a regular expression; None for a free one.

        Raises:
            Unsupported: Both are given; the schema is none, or asks for what cannot be followed; so the expression.
        """
        if schema is None and regex is None:
            return None
        if schema is not None and regex is not None:
            raise Unsupported("an answer is bound to a JSON schema and to a regular expression", "give one of them")
        from llguidance import LLMatcher

        what = "JSON schema" if schema is not None else "regular expression"
        matcher = LLMatcher(self._tokens, _schema_grammar(schema) if schema is not None else _regex_grammar(str(regex)))
        if matcher.is_error():
            raise Unsupported(f"the {what} cannot be followed: {matcher.get_error()}", "simplify it")
        return Grammar(matcher, self._tokenizer.end_id)


@lru_cache(maxsize=256)
def _regex_grammar(pattern: str) -> str:
    from llguidance import LLMatcher

    try:
        return str(LLMatcher.grammar_from_regex(pattern))
    except ValueError as error:
        raise Unsupported(f"that is no regular expression: {error}", "give one of the Rust syntax") from None


@lru_cache(maxsize=256)
def _schema_grammar(schema: str) -> str:
    from llguidance import LLMatcher

    try:  # compact: white space is tokens and time
        return str(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False}))
    except ValueError as error:
        raise Unsupported(f"that is no JSON schema: {error}", "give a JSON schema as text") from None


class Grammar:
    """Where an answer stands in its schema."""

    def __init__(self, matcher: Any, end_id: int) -> None:
        self._matcher, self._end = matcher, end_id

    def allow(self, logits_V: torch.Tensor) -> torch.Tensor:
        """Returns logits in which tokens that would leave the schema have no chance."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)).bitwise_and_(1).flatten().bool()
        allowed = allowed[: len(logits_V)]
        if len(allowed) < len(logits_V):  # ids behind the tokenizer's are never JSON
            allowed = torch.cat((allowed, torch.zeros(len(logits_V) - len(allowed), dtype=torch.bool)))
        return logits_V.masked_fill(~allowed.to(logits_V.device), -torch.inf)

    def take(self, token: int) -> None:
        """Takes note of the token that was chosen."""
        if token != self._end:
            self._matcher.consume_token(token)
