"""The rounds that learn the tokenizer: each sampled portion counts its words, and one task learns from the counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmyard.core.artifacts import Artifact
from llmyard.stages.preparing.encoding import Kept
from llmyard.stages.preparing.scratch import Scratch
from llmyard.tokens.config import ExtendedTokenizer, LearnedTokenizer

# Learning takes some 50 bytes of memory for each byte of the sample whose words do not come again, as runs of Chinese.
SAMPLE_BYTES = 32 << 20
DOCUMENTS_OF_A_PORTION = 200  # at least so many are taken from a portion that is sampled, where it has them


def sampled(portions: int, documents: int) -> list[int]:
    """Returns the portions from which ``documents`` are sampled: evenly spread, and not too few from each."""
    count = max(1, min(portions, documents // DOCUMENTS_OF_A_PORTION))
    return [at * portions // count for at in range(count)]


class Count:
    """Counts the words of the first documents of a portion.

    Args:
        kept: The documents.
        documents: How many of a portion.
        bytes_: How much of a portion, at most.
        split_han: Whether every Chinese character is a word.
    """

    def __init__(self, kept: Kept, documents: int, bytes_: int, split_han: bool) -> None:
        self._kept, self._documents, self._bytes, self._split_han = kept, documents, bytes_, split_han

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the name of the file of counts."""
        import numpy as np
        import pyarrow.compute as pc

        from llmyard.tokens.counts import WordCounter

        name = f"count/{row['index']:06d}"
        scratch = self._kept.scratch
        if (receipt := scratch.receipt(name)) is not None:
            return receipt
        counter = WordCounter()
        documents, room = self._documents, self._bytes
        for batch in self._kept.batches(row["index"]):
            texts = batch.kept["text"].slice(0, documents)
            ends = np.cumsum(pc.binary_length(texts).to_numpy())
            fitting = int(np.searchsorted(ends, room, side="right"))
            counter.add(texts.slice(0, fitting), self._split_han)
            documents -= fitting
            room -= int(ends[fitting - 1]) if fitting else 0
            if fitting < len(texts) or not documents:
                break
        counts = counter.counts().table()
        file = scratch.new(name, ".parquet")
        with scratch.table_writer(file, counts.schema) as writer:
            writer.write_table(counts)
        return scratch.give(name, {"file": file})


class Learn:
    """Learns the tokenizer from all counts.

    Args:
        scratch: Where the counts are.
        files: Their files, in the order of the portions.
        config: What to learn.
        base: The tokenizer to extend, where the config asks for that.
    """

    def __init__(self, scratch: Scratch, files: list[str], config: LearnedTokenizer, base: Artifact | None) -> None:
        self._scratch, self._files, self._config, self._base = scratch, files, config, base

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the tokenizer's JSON."""
        from llmyard.tokens.counts import WordCounter
        from llmyard.tokens.extension import extend_by
        from llmyard.tokens.tokenizer import FILE, Tokenizer
        from llmyard.tokens.training import train

        if (receipt := self._scratch.receipt("tokenizer")) is not None:
            return receipt
        counter = WordCounter()
        for table in self._tables():
            counter.add_table(table)
        if isinstance(self._config, ExtendedTokenizer):
            assert self._base is not None, "the stage resolves the tokenizer to extend"
            learned = extend_by(Tokenizer.load(self._base.local(FILE)), counter.counts(), self._config)
        else:
            learned = train(counter.counts(), self._config)
        return self._scratch.give("tokenizer", {"json": learned.to_json()})

    def _tables(self) -> Iterable[Any]:
        for file in self._files:
            yield from self._scratch.tables(file)


def splits_han(config: LearnedTokenizer, base: Artifact | None) -> bool:
    """Returns whether words are to be counted with every Chinese character apart."""
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    if base is not None:
        return Tokenizer.load(base.local(FILE)).split_han
    return bool(getattr(config, "split_han", True))
