"""The shards of an artifact, opened when they are read: a corpus may be larger than this machine's disk."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from llmyard.core.artifact import Artifact, FileEntry
from llmyard.core.cache import Held, NodeCache, machine_cache
from llmyard.core.errors import CorruptArtifact
from llmyard.tokens import shard_index
from llmyard.tokens.shard_index import ShardFacts

if TYPE_CHECKING:
    import pyarrow as pa

    from llmyard.tokens.shards import Shard

# A process holds at most the fourth part of the cache open. The workers of one run read the same windows of the same
# order, and so hold the same files.
HELD_SHARE = 4
_OPEN_LOCALLY = 4096  # memory maps; the system allows some 65,000 a process


class Readable(Protocol):
    """A shard, opened or not yet."""

    @property
    def tokens(self) -> int:
        """Its tokens."""

    @property
    def document_count(self) -> int:
        """Its documents."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids."""

    @property
    def source(self) -> str:
        """The source of all documents; "" where there are several."""

    @property
    def streams(self) -> tuple[str, ...]:
        """``tokens``, and ``labels`` where it has them."""

    @property
    def documents(self) -> pa.Table:
        """The table of documents."""

    def document_columns(self, *names: str) -> pa.Table:
        """Returns columns of the table of documents."""

    def read(self, start: int, length: int, stream: str = "tokens") -> npt.NDArray[Any]:
        """Returns ``length`` values of a stream from ``start`` on."""


def stored_shards(artifact: Artifact, split: str) -> list[StoredShard] | None:
    """Returns the shards of a split, none of them opened; None for an artifact without an index."""
    entries = {entry.path: entry for entry in artifact.files()}
    if shard_index.FILE not in entries:
        return None
    path = artifact.local(shard_index.FILE)
    files = Files(artifact, None if artifact.storage.is_local else machine_cache())
    facts = [each for each in shard_index.from_parquet(path.read_bytes(), str(path)) if each.split == split]
    missing = [name for each in facts for name in each.files if name not in entries]
    if missing:
        raise CorruptArtifact(f"{artifact.reference} lacks {missing[0]}, which its index names", "make it again")
    return [StoredShard(each, entries[each.files[0]], entries[each.files[1]], files) for each in facts]


class Files:
    """The files of an artifact that this process has open.

    Local ones are verified and used in place, remote ones through the machine's cache.

    Args:
        artifact: Whose files they are.
        cache: Where remote ones go.
    """

    def __init__(self, artifact: Artifact, cache: NodeCache | None) -> None:
        self._artifact, self._cache = artifact, cache
        self._open: OrderedDict[str, _Open] = OrderedDict()  # the longest unused first
        self._lock = RLock()

    @property
    def are_remote(self) -> bool:
        """Whether files must be fetched."""
        return self._cache is not None

    @property
    def room(self) -> int:
        """Bytes of files that may be held at once."""
        return self._cache.limit // HELD_SHARE if self._cache is not None else 0

    def hold(self, entry: FileEntry) -> Held:
        """Returns a file, to be released when it was read."""
        if self._cache is None:
            return Held(self._artifact.verified(entry), entry.size)
        return self._cache.hold(self._artifact.storage, self._artifact.folder, entry, self._close_one)

    def shard(self, entry: FileEntry) -> Shard:
        """Returns an opened shard; that used longest ago is closed where too much is open."""
        with self._lock:
            found = self._open.get(entry.path)
            if found is not None:
                self._open.move_to_end(entry.path)
                return found.opened()
        held = self.hold(entry)  # without the lock: what is there can be read while this arrives
        with self._lock:
            if entry.path in self._open:
                held.release()
            else:
                self._open[entry.path] = _Open(held)
            found = self._open[entry.path]
            self._open.move_to_end(entry.path)
            while len(self._open) > 1 and self._too_many():
                self._close_one()
            return found.opened()

    def _too_many(self) -> bool:
        if self._cache is None:
            return len(self._open) > _OPEN_LOCALLY
        return sum(each.held.size for each in self._open.values()) > self.room

    def _close_one(self) -> bool:
        """Closes the shard used longest ago; returns whether there was one."""
        with self._lock:
            if not self._open:
                return False
            self._open.popitem(last=False)[1].held.release()
            return True


@dataclass
class _Open:
    held: Held
    _shard: Shard | None = None

    def opened(self) -> Shard:
        from llmyard.tokens.shards import Shard

        if self._shard is None:
            self._shard = Shard(self.held.path)
            self._shard.read(0, 0)  # maps the file while it is held: it may be removed once it is released
        return self._shard


@dataclass(frozen=True)
class StoredShard:
    """A shard whose counts are known and whose files are opened at the first read.

    Attributes:
        facts: What the index says of it.
        tokens_file: The file of its tokens.
        documents_file: The file of its documents.
        files: Where they are opened.
    """

    facts: ShardFacts
    tokens_file: FileEntry
    documents_file: FileEntry
    files: Files

    @property
    def tokens(self) -> int:
        """Its tokens."""
        return self.facts.tokens

    @property
    def document_count(self) -> int:
        """Its documents."""
        return self.facts.documents

    @property
    def source(self) -> str:
        """The source of all documents; "" where there are several."""
        return self.facts.source

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids."""
        return np.dtype(self.facts.dtype)

    @property
    def streams(self) -> tuple[str, ...]:
        """``tokens``, and ``labels`` where it has them."""
        return ("tokens", "labels") if self.facts.labels else ("tokens",)

    @property
    def documents(self) -> pa.Table:
        """The table of documents."""
        return self.document_columns()

    def document_columns(self, *names: str) -> pa.Table:
        """Returns columns of the table of documents; all without names. It is read anew each time."""
        import pyarrow.parquet as pq

        held = self.files.hold(self.documents_file)
        try:
            return pq.read_table(held.path, columns=list(names) or None, memory_map=False)
        finally:
            held.release()

    def read(self, start: int, length: int, stream: str = "tokens") -> npt.NDArray[Any]:
        """Returns ``length`` values of a stream from ``start`` on; a view where they lie in one row group."""
        return self.files.shard(self.tokens_file).read(start, length, stream)

    def fetch(self) -> None:
        """Brings the tokens to this machine and holds them, so that a later read does not wait."""
        self.files.shard(self.tokens_file)
