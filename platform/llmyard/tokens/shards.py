"""Token streams in fixed-size blocks inside uncompressed Parquet: any Parquet reader opens them, and a trainer
addresses block *i* in O(1) through a memory map.

A shard is two files. ``NAME.tokens.parquet`` has one row a block and one fixed-width binary column a stream
(``tokens``, and ``labels`` where a label stands beside every token). ``NAME.documents.parquet`` has one row a
document: id, source, start, length, and for examples ``target_start`` and ``pairs``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from llmyard.core.artifacts import Artifact, FileEntry, sha256_of
from llmyard.core.errors import CorruptArtifact, DataError, LlmyardError
from llmyard.core.storage import write_failed
from llmyard.tokens.shard_index import ShardFacts

if TYPE_CHECKING:
    from llmyard.tokens.stored import Readable

FORMAT_VERSION = 1
# Above this many rows a row group, the arithmetic below was seen to be silently wrong (pages are split).
MAX_GROUP_ROWS = 8192
# A page's size is a signed 32-bit number; one page holds a row group's column.
MAX_GROUP_BYTES = 1 << 28
_META = b"llmyard.shard"
Tokens = npt.NDArray[np.integer[Any]]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Returns the narrowest unsigned type that holds every id."""
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


@dataclass
class ShardWriter:
    """Gathers documents and writes them as one shard.

    Args:
        folder: Local folder; the caller moves the files on where the storage is remote.
        name: ``{split}-{unit}``, unique within the artifact.
        dtype: Type of the ids.
        block_tokens: Tokens in a block.
        with_labels: Whether a label stands beside every token.
    """

    folder: Path
    name: str
    dtype: np.dtype[Any]
    block_tokens: int
    with_labels: bool = False
    _tokens: list[Tokens] = field(default_factory=list)
    _labels: list[Tokens] = field(default_factory=list)
    _documents: dict[str, list[Any]] = field(
        default_factory=lambda: {"id": [], "source": [], "start": [], "length": [], "target_start": [], "pairs": []}
    )
    _position: int = 0

    def add(
        self,
        ids: Sequence[int] | Tokens,
        *,
        document: str,
        source: str,
        labels: Sequence[int] | None = None,
        target_start: int = 0,
        pairs: Sequence[int] = (),
    ) -> None:
        """Appends one document.

        Args:
            ids: Its tokens, the end token included.
            document: Its id in the corpus.
            source: The source it came from.
            labels: One a token, if this shard has labels.
            target_start: Offset in it where the tokens to learn begin.
            pairs: Flat integers that go with it (relations between its tokens).
        """
        if isinstance(ids, np.ndarray) and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) <= self._largest:
            raise OverflowError(f"ids of {document} do not fit {self.dtype}: {ids.min()} to {ids.max()}")
        array = np.asarray(ids, dtype=self.dtype)
        self._tokens.append(array)
        if self.with_labels:
            self._labels.append(np.asarray(labels, dtype=self.dtype))
        row = (document, source, self._position, len(array), target_start, list(pairs))
        for column, value in zip(self._documents.values(), row, strict=True):
            column.append(value)
        self._position += len(array)

    def add_many(
        self,
        ids: Tokens,
        offsets: npt.NDArray[np.int64],
        chosen: npt.NDArray[np.int64],
        end_id: int,
        documents: Any,
        sources: Any,
    ) -> None:
        """Appends many documents, each followed by the end token.

        Args:
            ids: Tokens of all documents in a row.
            offsets: Where each document's tokens begin (one more than documents).
            chosen: Which of them to append, in this order.
            end_id: The end token.
            documents: Arrow column of the chosen documents' ids.
            sources: Arrow column of the chosen documents' sources.
        """
        lengths = (offsets[chosen + 1] - offsets[chosen]) + 1
        ends = np.cumsum(lengths)
        out = np.full(int(ends[-1]) if len(ends) else 0, end_id, self.dtype)
        # Positions of the tokens in ``ids`` and, shifted by one end token a document, in ``out``.
        total = len(out) - len(chosen)
        starts = np.cumsum(lengths - 1) - (lengths - 1)
        within = np.arange(total) - np.repeat(starts, lengths - 1)
        out[within + np.repeat(ends - lengths, lengths - 1)] = ids[within + np.repeat(offsets[chosen], lengths - 1)]
        if len(ids) and int(ids.max()) > self._largest:
            raise OverflowError(f"ids do not fit {self.dtype}: {ids.max()}")
        self._tokens.append(out)
        count = len(chosen)
        columns = (
            documents.to_pylist(), sources.to_pylist(), (self._position + ends - lengths).tolist(), lengths.tolist(),
            [0] * count, [()] * count,
        )  # fmt: skip
        for column, values in zip(self._documents.values(), columns, strict=True):
            column.extend(values)
        self._position += len(out)

    @property
    def _largest(self) -> int:
        return int(np.iinfo(self.dtype).max)

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self._position

    @property
    def documents(self) -> int:
        """Documents so far."""
        return len(self._documents["id"])

    @property
    def _source(self) -> str:
        sources = set(self._documents["source"])
        return str(sources.pop()) if len(sources) == 1 else ""

    @property
    def facts(self) -> ShardFacts:
        """What the artifact's index says of the shard."""
        return ShardFacts(
            self.name, self.name.partition("-")[0], self._source, self._position, self.documents, self.block_tokens,
            self.dtype.str, self.with_labels,
        )  # fmt: skip

    def close(self) -> list[FileEntry]:
        """Writes the shard, reads it back through the computed offsets, and returns the receipts.

        Raises:
            LlmyardError: The disk is full or cannot be written; no file is left.
        """
        meta = {
            "format_version": FORMAT_VERSION,
            "dtype": self.dtype.str,
            "block_tokens": self.block_tokens,
            "tokens": self._position,
            "documents": self.documents,
            "source": self._source,
        }
        streams = {"tokens": self._tokens} | ({"labels": self._labels} if self.with_labels else {})
        columns = {key: self._blocks(parts) for key, parts in streams.items()}
        width = self.block_tokens * self.dtype.itemsize
        schema = pa.schema(
            [pa.field(key, pa.binary(width), nullable=False) for key in columns],
            metadata={_META: json.dumps(meta).encode()},
        )
        table = pa.table(columns, schema=schema)
        documents = pa.table(
            {
                "id": pa.array(self._documents["id"], pa.string()),
                "source": pa.array(self._documents["source"], pa.string()).dictionary_encode(),
                "start": pa.array(self._documents["start"], pa.int64()),
                "length": pa.array(self._documents["length"], pa.int32()),
                "target_start": pa.array(self._documents["target_start"], pa.int32()),
                "pairs": pa.array(self._documents["pairs"], pa.list_(pa.int32())),
            }
        )
        paths = [self.folder / f"{self.name}.tokens.parquet", self.folder / f"{self.name}.documents.parquet"]
        try:
            _write(table, paths[0], width)
            _write(documents, paths[1], 0)
            shard = Shard(paths[0])
            for key, column in columns.items():
                if not np.array_equal(shard.blocks(key).reshape(-1), np.frombuffer(column.buffers()[1], self.dtype)):
                    raise LlmyardError(
                        f"{paths[0]} reads back altered", "this is a fault of llmyard or the disk: report it"
                    )
        except BaseException:
            for path in paths:
                path.unlink(missing_ok=True)
            raise
        return [FileEntry(path.name, path.stat().st_size, sha256_of(path)) for path in paths]

    def _blocks(self, parts: list[Tokens]) -> pa.Array:
        rows = -(-self._position // self.block_tokens)
        flat = np.zeros(rows * self.block_tokens, dtype=self.dtype)
        if parts:
            np.concatenate(parts, out=flat[: self._position])
        width = self.block_tokens * self.dtype.itemsize
        return pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(flat)])


def _write(table: pa.Table, path: Path, width: int) -> None:
    """Writes and forces to the disk; one page a column chunk, so that blocks lie back to back."""
    rows = max(1, min(MAX_GROUP_ROWS, MAX_GROUP_BYTES // width)) if width else 0
    try:
        with open(path, "wb") as file:
            if width:
                pq.write_table(
                    table, file, compression="NONE", use_dictionary=False, write_statistics=False,
                    row_group_size=rows, write_batch_size=rows, data_page_size=1 << 30,
                )  # fmt: skip
            else:
                pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_failed(str(path), error) from error


class Shard:
    """One shard, memory-mapped."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            parquet = pq.ParquetFile(self.path)
            meta = json.loads((parquet.schema_arrow.metadata or {})[_META])
            written = meta["format_version"]
            if written == FORMAT_VERSION:
                self.dtype = np.dtype(meta["dtype"])
                self.block_tokens = int(meta["block_tokens"])
                self.tokens = int(meta["tokens"])
                self.document_count = int(meta["documents"])
                self._source = meta.get("source")
        except FileNotFoundError:
            raise
        except (pa.ArrowException, ValueError, TypeError, KeyError, OSError) as error:
            raise CorruptArtifact(f"{path} is not a shard: {error}", "make the shards again") from None
        if written != FORMAT_VERSION:
            raise LlmyardError(
                f"{path} has shard format {written}, this llmyard reads {FORMAT_VERSION}",
                "use the llmyard that wrote it",
            )
        self.streams = tuple(parquet.schema_arrow.names)
        self._groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path, mode="r", dtype=np.uint8)

    @cached_property
    def _views(self) -> dict[str, list[npt.NDArray[Any]]]:
        """For each stream its row groups, each as an array (blocks, block_tokens) over the mapped file."""
        width = self.block_tokens * self.dtype.itemsize
        views: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in self.streams}
        for group in self._groups:
            for index, name in enumerate(self.streams):
                chunk = group.column(index)
                start = chunk.data_page_offset + chunk.total_compressed_size - group.num_rows * width
                raw = self._bytes[max(0, start) : start + group.num_rows * width]
                if start < 0 or len(raw) != group.num_rows * width:
                    raise CorruptArtifact(f"{self.path} is cut short or altered", "make the shards again")
                views[name].append(raw.view(self.dtype).reshape(group.num_rows, self.block_tokens))
        return views

    def blocks(self, stream: str = "tokens") -> npt.NDArray[Any]:
        """Returns all blocks, shape (blocks, block_tokens); no copy if there is one row group."""
        views = self._views[stream]
        if not views:
            return np.zeros((0, self.block_tokens), self.dtype)
        return views[0] if len(views) == 1 else np.concatenate(views)

    def read(self, start: int, length: int, stream: str = "tokens") -> npt.NDArray[Any]:
        """Returns ``length`` values of a stream from ``start`` on; a view where they lie in one row group."""
        views = self._views[stream]
        # All row groups but the last are of one size.
        per_group = views[0].size if views else 1
        parts = []
        while length > 0:
            group, offset = divmod(start, per_group)
            if group >= len(views):
                raise IndexError(f"{self.path} ends before token {start + length}")
            part = views[group].reshape(-1)[offset : offset + length]
            if not len(part):
                raise IndexError(f"{self.path} ends before token {start + length}")
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    @property
    def documents(self) -> pa.Table:
        """The table of documents."""
        return self.document_columns()

    def document_columns(self, *names: str) -> pa.Table:
        """Returns columns of the table of documents; all without names. It is read anew each time."""
        path = self.path.with_name(self.path.name.replace(".tokens.", ".documents."))
        return pq.read_table(path, columns=list(names) or None)

    @cached_property
    def source(self) -> str:
        """The source of all documents; "" where there are several."""
        if self._source is not None:
            return str(self._source)
        found = self.document_columns("source")["source"].unique().to_pylist()  # older shards do not say it
        return str(found[0]) if len(found) == 1 else ""


class ShardSet:
    """The shards of one split, in the order of their names.

    Args:
        folder: Local folder with the shards' files.
        split: ``train``, ``validation`` or ``test``.
        names: Files that belong to it; None takes all that are there.
        shards: Shards to take instead of what is in the folder.

    Raises:
        DataError: The split has no shard.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        names: Collection[str] | None = None,
        shards: Sequence[Readable] | None = None,
    ) -> None:
        self.split = split
        if shards is None:
            found = sorted(Path(folder).glob(f"{split}-*.tokens.parquet"))
            shards = [Shard(path) for path in found if names is None or path.name in names]
        self.shards = list(shards)
        if not self.shards:
            raise DataError(f"there are no shards of split {split!r} in {folder}", "prepare the corpus with that split")

    @classmethod
    def of(cls, artifact: Artifact, split: str) -> ShardSet:
        """Returns a split of a shards artifact; files that it does not list are left out.

        With an index (``shards.parquet``) nothing is opened before it is read, a checksum is verified then, and files
        on remote storage come through this machine's cache. Older artifacts are taken whole.
        """
        from llmyard.tokens.stored import stored_shards

        shards = stored_shards(artifact, split)
        if shards is None:
            return cls(artifact.local(), split, {entry.path for entry in artifact.files()})
        return cls(artifact.uri, split, shards=shards)

    @property
    def tokens(self) -> int:
        """Tokens in the split."""
        return sum(shard.tokens for shard in self.shards)
