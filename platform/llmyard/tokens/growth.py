"""What a tokenizer has more than an earlier one, and how the earlier one spells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Backend

from llmyard.core.compiled import I64
from llmyard.core.errors import RequestError
from llmyard.tokens.tokenizer import CONTROL, END

_INSIDE = "##"  # how WordPiece begins a piece that goes on within a word


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer of any make, seen as names and ids only.

    Attributes:
        text: Content of its ``tokenizer.json``.
    """

    text: str

    @classmethod
    def load(cls, file: str | Path) -> Vocabulary:
        """Returns that of a ``tokenizer.json``."""
        return cls(Path(file).read_text(encoding="utf-8"))

    @cached_property
    def backend(self) -> Backend:
        """The tokenizer, of whose model alone use is made."""
        return Backend.from_str(self.text)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return dict(self.backend.get_vocab(with_added_tokens=True))

    @cached_property
    def size(self) -> int:
        """Ids, from 0 to the largest."""
        return max(self.ids.values(), default=-1) + 1

    def spelled(self, token: str) -> list[int]:
        """Returns the ids that stand for another vocabulary's token, as that writes it; none where there are none."""
        inside = token.startswith(_INSIDE) and self._pieces
        found = [each.id for each in self.backend.model.tokenize(token.removeprefix(_INSIDE) if inside else token)]
        if inside and found:  # its first character goes on within a word, if that is a piece of its own
            first = self.backend.id_to_token(found[0])
            found[0] = self.ids.get(f"{_INSIDE}{first}", found[0])
        return found

    @cached_property
    def _pieces(self) -> bool:
        return bool(json.loads(self.text)["model"].get("type") == "WordPiece")


@dataclass(frozen=True)
class Growth:
    """How ids move from one vocabulary to a larger one that begins with it.

    Attributes:
        before: Ids of the earlier tokenizer; they keep their places.
        after: Ids of the later one.
        spelling: Old ids that spell the new tokens, those of one token after the other.
        starts: Where those of each new token begin in ``spelling``, (after - before).
        new_end: Id of the token that ends documents, where the earlier tokenizer does not have it; else None.
    """

    before: int
    after: int
    spelling: I64
    starts: I64
    new_end: int | None


def compatible(old: Vocabulary, new: Vocabulary, of_old: str, of_new: str) -> None:
    """Checks that every token of an earlier tokenizer has the same id in a later one.

    Args:
        old: The earlier one.
        new: The later one.
        of_old: What the earlier one belongs to, for the error.
        of_new: What the later one belongs to.

    Raises:
        RequestError: Some do not.
    """
    moved = [token for token, number in old.ids.items() if new.ids.get(token) != number]
    if moved:
        raise RequestError(
            f"{len(moved):,} of {len(old.ids):,} tokens of {of_old} have another id in {of_new}, or none "
            f"(such as {moved[0]!r})",
            "prepare the data with the same tokenizer (`tokenizer: NAME`) or one that extends it "
            "(`tokenizer: {extend: NAME}`)",
        )
    between = sum(number < old.size for token, number in new.ids.items() if token not in old.ids)
    if between:
        raise RequestError(
            f"{between:,} new tokens of {of_new} stand among the {old.size:,} ids of {of_old}, not behind them",
            "extend the tokenizer with `tokenizer: {extend: NAME}`",
        )


def growth(old: Vocabulary, new: Vocabulary) -> Growth:
    """Returns how the ids of a compatible earlier tokenizer move; nothing is spelled where nothing is new."""
    fresh = [""] * max(0, new.size - old.size)
    for token, number in new.ids.items():
        if number >= old.size:
            fresh[number - old.size] = token
    spellings = [old.spelled(token) if token else [] for token in fresh]
    lengths = np.array([len(each) for each in spellings], np.int64)
    flat = np.array([one for each in spellings for one in each], np.int64)
    end = None if END in old.ids else new.ids.get(END)
    return Growth(old.size, max(old.size, new.size), flat, np.cumsum(lengths) - lengths, end)


def with_control(text: str) -> str:
    """Returns another maker's tokenizer with llmyard's control tokens behind its vocabulary.

    Args:
        text: Content of a ``tokenizer.json``.

    Raises:
        RequestError: It holds no tokens.
    """
    from tokenizers import AddedToken

    backend = Backend.from_str(text)
    if not backend.get_vocab_size():
        raise RequestError("the tokenizer holds no tokens", "give the one that the model was trained with")
    missing = [
        AddedToken(token, special=True, normalized=False) for token in CONTROL if backend.token_to_id(token) is None
    ]
    backend.add_special_tokens(missing)
    return str(backend.to_str())
