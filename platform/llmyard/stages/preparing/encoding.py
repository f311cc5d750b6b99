"""The last rounds: learn the tokenizer from a sample, encode what is kept, write shards."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact
from llmyard.core.storage import Storage
from llmyard.stages.config import Prepare
from llmyard.stages.preparing.duplicates import RANKS, part_of_rank
from llmyard.stages.preparing.scratch import Scratch
from llmyard.text.funnel import Funnel, tally
from llmyard.text.units import units_of
from llmyard.tokens.config import ExtendedTokenizer, LearnedTokenizer, Splits

if TYPE_CHECKING:
    from llmyard.tokens.tokenizer import Tokenizer

SHARD_TOKENS = 1 << 27  # a shard ends with the batch that takes it over this


class Kept:
    """The documents of a portion that are no duplicates.

    Args:
        scratch: Where cleaned texts and groups are.
        portions: Of the corpus.
        partitions: Of the ranks.
        groups: Files of the duplicates' groups.
    """

    def __init__(self, scratch: Scratch, portions: int, partitions: int, groups: list[str]) -> None:
        self.scratch, self.portions, self._partitions, self._groups = scratch, portions, partitions, groups

    def tables(self, portion: int) -> Iterator[Any]:
        """Yields the kept documents of a portion, batch by batch."""
        import numpy as np

        receipt = self.scratch.receipt(f"clean/{portion:06d}")
        assert receipt is not None, f"portion {portion} is not cleaned"
        part = int(part_of_rank(np.int64(portion) << 32, self.portions, self._partitions))
        ranks = self.scratch.gather(self._groups, part, RANKS)["left"]
        dropped = ranks[(ranks >> 32) == portion] & np.int64(0xFFFFFFFF)
        start = 0
        for table in self.scratch.tables(receipt["file"]):
            keep = np.ones(len(table), bool)
            keep[dropped[(dropped >= start) & (dropped < start + len(table))] - start] = False
            start += len(table)
            yield table if keep.all() else table.filter(keep)


class Sample:
    """Learns the tokenizer from the first documents of every portion.

    Args:
        kept: The documents.
        config: What to learn.
        base: The tokenizer to extend, where the config asks for that.
    """

    def __init__(self, kept: Kept, config: LearnedTokenizer, base: Artifact | None = None) -> None:
        self._kept, self._config, self._base = kept, config, base

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the tokenizer's JSON."""
        if (receipt := self._kept.scratch.receipt("tokenizer")) is not None:
            return receipt
        return self._kept.scratch.give("tokenizer", {"json": self._learned().to_json()})

    def _learned(self) -> Tokenizer:
        from llmyard.tokens.extension import extend
        from llmyard.tokens.tokenizer import FILE, Tokenizer

        if isinstance(self._config, ExtendedTokenizer):
            assert self._base is not None, "the stage resolves the tokenizer to extend"
            return extend(Tokenizer.load(self._base.local(FILE)), self._texts(), self._config)
        return Tokenizer.train(self._texts(), self._config)

    def _texts(self) -> Iterator[str]:
        share = -(-self._config.sample_documents // self._kept.portions)
        for portion in range(self._kept.portions):
            wanted = share
            for table in self._kept.tables(portion):
                yield from table["text"].slice(0, wanted).to_pylist()
                wanted -= min(wanted, len(table))
                if not wanted:
                    break


class Encode:
    """Encodes the kept documents of one portion and writes shards for each split.

    Args:
        kept: The documents.
        tokenizer: The tokenizer artifact.
        config: The stage's.
        folder: The artifact's folder in the storage.
        fence: Of this owner's lease; it stands in the names.
    """

    def __init__(self, kept: Kept, tokenizer: Artifact, config: Prepare, folder: str, fence: int) -> None:
        from llmyard.tokens.tokenizer import FILE, Tokenizer

        self._kept, self._config, self._folder, self._fence = kept, config, folder, fence
        self._tokenizer = Tokenizer.load(tokenizer.local(FILE))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the files' entries and the counts of tokens and documents."""
        name = f"encode/{row['index']:06d}"
        scratch = self._kept.scratch
        if (receipt := scratch.receipt(name)) is not None:
            return receipt
        funnel: Funnel = Counter()
        with folder_for(scratch.storage, self._folder) as target:
            shards = Shards(target.path, f"{row['index']:06d}", self._fence, self._tokenizer, self._config.block_tokens)
            for table in self._kept.tables(row["index"]):
                self._add(table, shards, funnel)
            files = shards.close()
        rows = [[*key, count] for key, count in funnel.items()]
        return scratch.give(
            name,
            {
                "files": [asdict(entry) for entry in files],
                "shards": [asdict(each) for each in shards.facts],
                "tokens": dict(shards.tokens),
                "funnel": rows,
            },
        )

    def _add(self, table: Any, shards: Shards, funnel: Funnel) -> None:
        import numpy as np
        import pyarrow.compute as pc

        ids, offsets = self._tokenizer.encode_column(table["text"])
        units = units_of(table["text"])
        figures = {
            "characters": pc.utf8_length(table["text"]),
            "bytes": pc.binary_length(table["text"]),
            "words": np.diff(units.offsets),
            "tokens": np.diff(offsets),
        }
        funnel.update(tally("kept", table["source"], table["language"], **figures))
        shards.add(table, ids, offsets, split_of(table["digest"], self._config.splits))


def split_of(digests: Any, splits: Splits) -> Any:
    """Returns the split of each document, decided by the digest of its text alone."""
    import numpy as np

    digests = digests.combine_chunks()
    raw = np.frombuffer(digests.buffers()[1], ">u8").reshape(-1, 2)[digests.offset : digests.offset + len(digests), 1]
    place = raw.astype("float64") / 2.0**64
    return np.select(
        [place < splits.validation, place < splits.validation + splits.test], ["validation", "test"], "train"
    )


class Shards:
    """Shards of all splits, written side by side."""

    def __init__(self, folder: Path, portion: str, fence: int, tokenizer: Any, block_tokens: int) -> None:
        self._folder, self._portion, self._fence = folder, portion, fence
        self._tokenizer, self._block_tokens = tokenizer, block_tokens
        self._open: dict[str, Any] = {}
        self._parts: Counter[str] = Counter()
        self._files: list[Any] = []
        self.facts: list[Any] = []
        self.tokens: Counter[str] = Counter()

    def add(self, table: Any, ids: Any, offsets: Any, splits: Any) -> None:
        """Adds documents to the shards of their splits, each ended by the end token."""
        import numpy as np

        from llmyard.tokens.shards import ShardWriter, token_dtype

        dtype = token_dtype(self._tokenizer.vocab_size)
        for split in np.unique(splits).tolist():
            if split not in self._open:
                name = f"{split}-{self._portion}-{self._parts[split]:03d}-f{self._fence}"
                self._open[split] = ShardWriter(self._folder, name, dtype, self._block_tokens)
            chosen = np.flatnonzero(splits == split)
            rows = table.take(chosen)
            writer = self._open[split]
            before = writer.tokens
            writer.add_many(ids, offsets, chosen, self._tokenizer.end_id, rows["id"], rows["source"])
            self.tokens[split] += writer.tokens - before
            if writer.tokens >= SHARD_TOKENS:
                self._finish(split)

    def close(self) -> list[Any]:
        """Writes what is open; returns the entries of all files. ``facts`` then tells of all shards."""
        for split in sorted(self._open):
            self._finish(split)
        return self._files

    def _finish(self, split: str) -> None:
        writer = self._open.pop(split)
        self._files += writer.close()
        self.facts.append(writer.facts)
        self._parts[split] += 1


class folder_for:
    """A local folder to write files into that end up in ``folder`` of the storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder
        self.path = Path()

    def __enter__(self) -> folder_for:
        self.path = self.storage.local(self.folder) if self.storage.is_local else Path(tempfile.mkdtemp(prefix="ly-"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.storage.is_local:
            return
        try:
            if kind is None:
                for file in self.path.iterdir():
                    self.storage.write(f"{self.folder}/{file.name}", file.read_bytes())
        finally:
            shutil.rmtree(self.path, ignore_errors=True)
