"""The last round: encode what is kept, write shards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from llmyard.core.artifacts import Artifact, FileEntry, sha256_of
from llmyard.core.storage import Storage, write_failed
from llmyard.stages.config import Prepare
from llmyard.stages.preparing.duplicates import RANKS, part_of_rank
from llmyard.stages.preparing.scratch import Scratch
from llmyard.text.funnel import Funnel, tally
from llmyard.tokens.config import Splits

SHARD_TOKENS = 1 << 27  # a shard ends with the batch that takes it over this


class Portion(NamedTuple):
    """What is left of some documents.

    Attributes:
        kept: Columns of ``text.clean.SCHEMA``.
        removed: Columns of ``text.clean.REMOVED``.
        lines: How many lines were dropped from the kept ones.
    """

    kept: Any
    removed: Any
    lines: int


class Kept:
    """The documents of a portion that are no duplicates.

    Args:
        scratch: Where cleaned texts and groups are.
        portions: Of the corpus.
        partitions: Of the ranks.
        groups: Files of the duplicates' groups.
        lines: Files of the keys of lines to drop.
        line_bytes: Their least size.
    """

    def __init__(
        self, scratch: Scratch, portions: int, partitions: int, groups: list[str], lines: Sequence[str] = (),
        line_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.scratch, self.portions, self._partitions, self._groups = scratch, portions, partitions, groups
        self._lines, self._line_bytes = list(lines), line_bytes

    def batches(self, portion: int) -> Iterator[Portion]:
        """Yields what is left of a portion, batch by batch."""
        import numpy as np

        common = np.sort(self.scratch.gather(self._lines, 0, {"keys": "<u8"})["keys"])
        part = int(part_of_rank(np.int64(portion) << 32, self.portions, self._partitions))
        ranks = self.scratch.gather(self._groups, part, RANKS)["left"]
        dropped = ranks[(ranks >> 32) == portion] & np.int64(0xFFFFFFFF)
        start = 0
        for table in self.scratch.tables(self._receipt(portion)["file"]):
            gone = np.zeros(len(table), bool)
            gone[dropped[(dropped >= start) & (dropped < start + len(table))] - start] = True
            start += len(table)
            kept = table.filter(~gone) if gone.any() else table
            removed = _removed(table.filter(gone), "duplicate")
            yield self._without(kept, removed, common) if len(common) else Portion(kept, removed, 0)

    def cleaned_away(self, portion: int) -> Iterator[Any]:
        """Yields the documents of a portion that cleaning dropped, and why, as tables of ``text.clean.REMOVED``."""
        yield from self.scratch.tables(self._receipt(portion)["removed"])

    def _receipt(self, portion: int) -> dict[str, Any]:
        receipt = self.scratch.receipt(f"clean/{portion:06d}")
        assert receipt is not None, f"portion {portion} is not cleaned"
        return receipt

    def _without(self, table: Any, removed: Any, common: Any) -> Portion:
        """Drops the common lines, and documents that have no others."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from llmyard.text.common_lines import without_lines
        from llmyard.text.units import units_of

        texts, dropped = without_lines(table["text"], common, self._line_bytes)
        if not dropped:
            return Portion(table, removed, 0)
        units = pa.array(np.diff(units_of(texts).offsets), pa.int32())
        for name, values in {"text": texts, "units": units}.items():
            table = table.set_column(table.schema.get_field_index(name), name, values)
        empty = pc.equal(pc.binary_length(texts), 0)
        removed = pa.concat_tables([removed, _removed(table.filter(empty), "common_lines")])
        return Portion(table.filter(pc.invert(empty)), removed, dropped)


def _removed(table: Any, reason: str) -> Any:
    from llmyard.text.clean import REMOVED

    return table.select(REMOVED.names[:-1]).append_column("reason", [[reason] * len(table)]).cast(REMOVED)


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
        counts: Counter[str] = Counter()
        with folder_for(scratch.storage, self._folder) as target:
            shards = Shards(target.path, f"{row['index']:06d}", self._fence, self._tokenizer, self._config.block_tokens)
            with RemovedWriter(target.path / f"removed-{row['index']:06d}-f{self._fence}.parquet") as removed:
                for table in self._kept.cleaned_away(row["index"]):
                    removed.write_table(table)
                for batch in self._kept.batches(row["index"]):
                    self._add(batch.kept, shards, funnel)
                    removed.write_table(batch.removed)
                    counts["common_lines_dropped"] += batch.lines
                    counts["dropped_common_lines"] += batch.removed["reason"].to_pylist().count("common_lines")
            files = [*shards.close(), removed.entry()]
        receipt = {
            "files": [asdict(entry) for entry in files],
            "shards": [asdict(each) for each in shards.facts],
            "tokens": dict(shards.tokens),
            "funnel": [[*key, count] for key, count in funnel.items()],
            "counts": {name: count for name, count in counts.items() if count},
        }
        return scratch.give(name, receipt)

    def _add(self, table: Any, shards: Shards, funnel: Funnel) -> None:
        import numpy as np
        import pyarrow.compute as pc

        ids, offsets = self._tokenizer.encode_column(table["text"])
        figures = {
            "characters": pc.utf8_length(table["text"]),
            "bytes": pc.binary_length(table["text"]),
            "words": table["units"],
            "tokens": np.diff(offsets),
        }
        funnel.update(tally("kept", table["source"], table["language"], **figures))
        splits = split_of(table["digest"], self._config.splits)
        for source in self._config.sources:
            split = getattr(source, "split", None)  # of files only
            if split is not None:
                splits[pc.equal(table["source"], source.name).to_numpy()] = split
        shards.add(table, ids, offsets, splits)


class RemovedWriter:
    """The list of a portion's dropped documents, for audits and to read them again; on the disk when the block ends.

    Args:
        path: A local file.

    Raises:
        LlmyardError: It cannot be written, the disk is full; no file is left.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        from llmyard.text.clean import REMOVED

        self._path = path
        with _writing(path):
            self._file = open(path, "wb")  # noqa: SIM115 - closed with the block
            self._writer = pq.ParquetWriter(self._file, REMOVED, compression="zstd")

    def write_table(self, table: Any) -> None:
        """Appends documents."""
        if len(table):
            with _writing(self._path):
                self._writer.write_table(table)

    def entry(self) -> FileEntry:
        """Returns the finished file's entry."""
        return FileEntry(self._path.name, self._path.stat().st_size, sha256_of(self._path))

    def __enter__(self) -> RemovedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with _writing(self._path), self._file:
            self._writer.close()
            os.fsync(self._file.fileno())
        if kind is not None:
            self._path.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path.unlink(missing_ok=True)
        raise write_failed(str(path), error) from error


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
