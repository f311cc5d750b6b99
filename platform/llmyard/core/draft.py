"""An artifact in the making."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmyard.core.artifact import CHUNK, FORMAT_VERSION, MARK, Artifact, FileEntry, code_version, parse
from llmyard.core.errors import Busy, LlmyardError
from llmyard.core.lease import Lease
from llmyard.core.storage import Storage

_LIST = re.compile(r"files(-f\d+)?\.parquet")


class Draft:
    """An artifact in the making: write files into its folder, then :meth:`commit`."""

    def __init__(self, storage: Storage, kind: str, name: str, fingerprint: str, lease: Lease) -> None:
        self.storage, self.kind, self.name, self.fingerprint, self.lease = storage, kind, name, fingerprint, lease
        self.version = lease.value
        self.folder = f"{kind}/{name}/{self.version}"
        self.uri = f"{self.storage.uri}/{self.folder}"
        self._done = False

    @property
    def reference(self) -> str:
        """``kind/name@version`` of what will be committed."""
        return f"{self.kind}/{self.name}@{self.version}"

    @property
    def continued(self) -> bool:
        """Whether a dead owner began this version."""
        return self.lease.taken_over

    def recall(self) -> dict[str, Any]:
        """Returns the notes that an earlier owner of this version kept."""
        data = self.storage.read(f"{self.folder}/_making/notes.json")
        return json.loads(data) if data else {}

    def note(self, **values: Any) -> None:
        """Keeps small facts for a later owner of this version (the MLflow run to go on with)."""
        merged = {**self.recall(), **values}
        self.storage.write(f"{self.folder}/_making/notes.json", json.dumps(merged).encode())

    def keep(self, path: str, data: bytes) -> FileEntry:
        """Writes a small file into the folder, and returns its receipt."""
        self.storage.write(f"{self.folder}/{path}", data)
        return FileEntry(path, len(data), hashlib.sha256(data).hexdigest())

    def commit(
        self,
        *,
        config: Mapping[str, Any],
        parents: Sequence[str],
        metrics: Mapping[str, float],
        details: Mapping[str, Any] | None = None,
        files: Sequence[FileEntry] | None = None,
    ) -> Artifact:
        """Makes the artifact exist, and returns it.

        Args:
            config: The stage's config, as plain data.
            parents: References of what it was made from.
            metrics: Its key figures.
            details: Small facts for readers.
            files: Receipts of the files that belong to it; None hashes all files in the folder.

        Raises:
            Busy: Another run has taken this work over; nothing is committed.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._check()
        entries = list(files) if files is not None else self._hash_all()
        table = pa.table(
            {
                "path": pa.array([entry.path for entry in entries], pa.string()),
                "size": pa.array([entry.size for entry in entries], pa.int64()),
                "sha256": pa.array([entry.sha256 for entry in entries], pa.string()),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        # The fence in its name keeps a late former owner from replacing the list that the mark vouches for.
        listed = f"files-f{self.lease.fence}.parquet"
        self.storage.write(f"{self.folder}/{listed}", buffer.getvalue())
        record = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "config": dict(config),
            "parents": list(parents),
            "metrics": dict(metrics),
            "details": dict(details or {}),
            "code_version": code_version(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "files_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "files_list": listed,
        }
        self._check()
        self.storage.write(f"{self.folder}/{MARK}", json.dumps(record, indent=1, ensure_ascii=False).encode())
        self._done = True
        artifact = parse(self.storage, record)
        tidy(artifact, entries)
        return artifact

    def discard(self) -> None:
        """Removes all that was written: nobody is to go on with it."""
        self.lease.check()
        self.storage.delete_folder(self.folder)
        self._done = True

    def _check(self) -> None:
        self.lease.check()
        if self.storage.read(f"{self.folder}/{MARK}") is not None:
            raise Busy(f"{self.folder} was finished by another run", "this run's late result is dropped")

    def _hash_all(self) -> list[FileEntry]:
        entries = []
        for item in self.storage.list(self.folder, recursive=True):
            if item.path.startswith("_making/") or item.path == MARK or item.path.endswith(".part"):
                continue
            if _LIST.fullmatch(item.path):
                continue
            with self.storage.open_input(f"{self.folder}/{item.path}") as stream:
                digest = hashlib.sha256()
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
            entries.append(FileEntry(item.path, item.size, digest.hexdigest()))
        return entries

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._done:
            self.lease.release()
        else:
            try:
                self.lease.abandon()
            except LlmyardError:  # the disk is full: the claim names a process that will be gone
                return


def tidy(artifact: Artifact, entries: Iterable[FileEntry]) -> None:
    """Removes from an artifact's folder what its making needed and what dead owners of the version left."""
    kept = {entry.path for entry in entries} | {MARK, artifact.files_list}
    artifact.storage.delete_folder(f"{artifact.folder}/_making")
    for item in list(artifact.storage.list(artifact.folder, recursive=True)):
        if item.path not in kept:
            artifact.storage.delete(f"{artifact.folder}/{item.path}")
