"""Pairs of segments that follow each other or do not, for BERT's and ALBERT's second objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmyard.core.compiled import I64, U8
from llmyard.core.errors import DataError, RequestError
from llmyard.core.seeds import mix, unit
from llmyard.tokens.sentences import sentence_starts
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.tables import Tables

SHORT_SHARE = 0.1  # of the pairs are shorter than they could be, so that a model meets all lengths (BERT)


@dataclass(frozen=True, slots=True)
class SentencePair:
    """Two segments, without control tokens.

    Attributes:
        first: Ids of the first segment.
        second: Ids of the second.
        follows: Whether the second goes on where the first ends.
    """

    first: npt.NDArray[Any]
    second: npt.NDArray[Any]
    follows: bool


class SentencePairView:
    """Pairs of segments, half of which follow each other; every epoch gives others.

    A pair is taken from some place of a document, from a sentence's beginning on, and divided where one of its
    sentences ends (in the middle where none does). ``next``: the second segment of the other half is from another
    document of the shard, so that storage is read in runs (NSP, Devlin et al. 2019). ``order``: the two are swapped
    (SOP, Lan et al. 2020). In a shard with one document, ``next`` has pairs that follow only.

    Args:
        shards: Where the documents are.
        marks: What each id may do to a sentence (``sentence_marks``).
        max_tokens: Of both segments together; control tokens come on top.
        seed: Of all choices.
        kind: What a pair that does not follow is.

    Raises:
        DataError: There is no document.
        RequestError: ``max_tokens`` has no room for two segments.
    """

    def __init__(
        self, shards: ShardSet, marks: U8, max_tokens: int, seed: int, kind: Literal["next", "order"] = "next"
    ) -> None:
        if max_tokens < 2:
            raise RequestError(f"max_tokens of {max_tokens} has no room for two segments", "take 2 at least")
        self._shards, self._marks, self._max, self._seed, self._kind = shards, marks, max_tokens, seed, kind
        self.rows = [max(1, each.tokens // max_tokens) if each.document_count else 0 for each in shards.shards]
        if not sum(self.rows):
            raise DataError(f"split {shards.split!r} holds no documents", "prepare more text")
        self._table = Tables(shards, self._read_table)

    def __call__(self, shard: int, row: int, epoch: int = 0) -> SentencePair:
        def drawn(choice: int, below: int) -> int:
            return mix(self._seed, epoch, shard, row, choice) % below

        starts, ends = self._table[shard]
        is_short = unit(self._seed, epoch, shard, row, 0) < SHORT_SHARE
        target = 2 + drawn(1, self._max - 1) if is_short else self._max
        place = row * self._max + drawn(2, self._max)
        document = max(0, int(np.searchsorted(starts, place, side="right")) - 1)
        text, sentences = self._text(shard, document, place, target)
        cuts = sentences[(sentences > 0) & (sentences < len(text))]
        cut = int(cuts[drawn(3, len(cuts))]) if len(cuts) else len(text) // 2
        first, second = text[:cut], text[cut:]
        follows = drawn(4, 2) == 0
        if self._kind == "order":
            return SentencePair(first, second, True) if follows else SentencePair(second, first, False)
        if follows or len(starts) == 1:
            return SentencePair(first, second, True)
        other = drawn(5, len(starts) - 1)
        other += other >= document
        somewhere = int(starts[other]) + drawn(6, int(ends[other] - starts[other]))
        return SentencePair(first, self._text(shard, other, somewhere, target - cut)[0], False)

    def length(self, shard: int, row: int) -> int:
        """Returns the most tokens a pair has."""
        return self._max

    def _read_table(self, shard: int) -> tuple[I64, I64]:
        """Returns where documents of two tokens and more begin and, without their end tokens, end."""
        table = self._shards.shards[shard].document_columns("start", "length")
        starts, lengths = table["start"].to_numpy(), table["length"].to_numpy().astype(np.int64) - 1
        long_enough = lengths >= 2
        if not long_enough.any():
            raise DataError("a shard holds no document of two tokens", "prepare longer documents")
        return starts[long_enough], (starts + lengths)[long_enough]

    def _text(self, shard: int, document: int, place: int, wanted: int) -> tuple[npt.NDArray[Any], I64]:
        """Returns up to ``wanted`` tokens from the sentence at a place on, and where in them sentences begin.

        Near a document's end it begins earlier, so that there are as many tokens as the document has.
        """
        starts, ends = self._table[shard]
        low, high = int(starts[document]), int(ends[document])
        place = max(low, min(place, high - wanted))
        begin = max(low, place - wanted)  # sentences longer than this are begun in their middle
        text = self._shards.shards[shard].read(begin, min(high, place + wanted) - begin)
        sentences = sentence_starts(text, self._marks)
        at = int(sentences[np.searchsorted(sentences, place - begin, side="right") - 1])
        return text[at : at + wanted], sentences[sentences >= at] - at
