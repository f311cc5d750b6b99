"""The artifact store: immutable, versioned results with their lineage; ``artifact.json`` is the commit mark.

Layout: ``{storage}/{kind}/{name}/{version}/`` holds the files, ``files.parquet`` (path, size, sha256) and, written
last, ``artifact.json``. No mark, no artifact. What is being made is under a lease in ``_making/{fingerprint}``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmyard import __version__
from llmyard.core.errors import CorruptArtifact, LlmyardError, MissingArtifact, RequestError
from llmyard.core.lease import Lease, acquire
from llmyard.core.storage import Storage

FORMAT_VERSION = 1
KINDS = ("tokenizer", "shards", "checkpoint", "adapter", "report", "records", "index")
MARK = "artifact.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact: path relative to the version's folder, bytes, SHA-256 (hex)."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A committed artifact.

    Attributes:
        parents: References ``kind/name@version`` of what it was made from.
        fingerprint: Of the stage that made it; "" for imports.
        metrics: Its key figures.
        details: Small facts for readers (format, counts, the MLflow run).
        code_version: Version of llmyard, with the commit where known.
        created: Time of the commit, ISO 8601 UTC.
    """

    storage: Storage = field(repr=False)
    kind: str
    name: str
    version: str
    fingerprint: str
    config: dict[str, Any]
    parents: tuple[str, ...]
    metrics: dict[str, float]
    details: dict[str, Any]
    code_version: str
    created: str
    files_sha256: str

    @property
    def reference(self) -> str:
        """``kind/name@version``."""
        return f"{self.kind}/{self.name}@{self.version}"

    @property
    def folder(self) -> str:
        """Folder relative to the storage."""
        return f"{self.kind}/{self.name}/{self.version}"

    @property
    def uri(self) -> str:
        """Path or URI of the folder."""
        return f"{self.storage.uri}/{self.folder}"

    def files(self) -> list[FileEntry]:
        """Returns the file list, whose own checksum is verified.

        Raises:
            CorruptArtifact: The list is gone or altered.
        """
        data = self.storage.read(f"{self.folder}/files.parquet")
        if data is None or hashlib.sha256(data).hexdigest() != self.files_sha256:
            raise CorruptArtifact(f"the file list of {self.reference} is missing or altered", _remake(self))
        import pyarrow.parquet as pq

        return [FileEntry(**row) for row in pq.read_table(io.BytesIO(data)).to_pylist()]

    def local(self, path: str = "") -> Path:
        """Returns a verified local copy of one file, or of the whole folder when ``path`` is "".

        A file on local storage is used in place; of a remote one a copy is kept in a cache on this machine. A checksum
        is verified when a process first asks for the file.

        Raises:
            CorruptArtifact: A file is missing or does not match its checksum.
        """
        wanted = [entry for entry in self.files() if not path or entry.path == path]
        if path and not wanted:
            raise CorruptArtifact(f"{self.reference} has no file {path}", _remake(self))
        if self.storage.is_local:
            root = self.storage.local(self.folder)
        else:
            cache = os.environ.get("LLMYARD_CACHE") or os.path.expanduser("~/.cache/llmyard")
            root = Path(cache, hashlib.sha256(self.uri.encode()).hexdigest()[:16])
        for entry in wanted:
            target = root / entry.path
            if not self.storage.is_local and not target.exists():
                _download(self.storage, f"{self.folder}/{entry.path}", target)
            self._verify(target, entry)
        return root / path if path else root

    def _verify(self, target: Path, entry: FileEntry) -> None:
        try:
            stat = target.stat()
            key = (str(target), stat.st_mtime_ns, stat.st_size)
            if key in _verified:
                return
            matches = stat.st_size == entry.size and sha256_of(target) == entry.sha256
        except FileNotFoundError:
            raise CorruptArtifact(f"{entry.path} of {self.reference} is missing", _remake(self)) from None
        if not matches:
            raise CorruptArtifact(f"{entry.path} of {self.reference} does not match its checksum", _remake(self))
        _verified.add(key)

    def is_complete(self) -> bool:
        """Returns whether every listed file is there with its size (contents are verified when read)."""
        try:
            present = {item.path: item.size for item in self.storage.list(self.folder, recursive=True)}
            return all(present.get(entry.path) == entry.size for entry in self.files())
        except CorruptArtifact:
            return False


_verified: set[tuple[str, int, int]] = set()


class Draft:
    """An artifact in the making: write files into its folder, then :meth:`commit`."""

    def __init__(self, store: ArtifactStore, kind: str, name: str, fingerprint: str, lease: Lease) -> None:
        self.storage, self.kind, self.name, self.fingerprint, self.lease = store.storage, kind, name, fingerprint, lease
        self.version = lease.value
        self.folder = f"{kind}/{name}/{self.version}"
        self.uri = f"{self.storage.uri}/{self.folder}"
        self._done = False

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
        self.storage.write(f"{self.folder}/files.parquet", buffer.getvalue())
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
        }
        self.lease.check()
        self.storage.write(f"{self.folder}/{MARK}", json.dumps(record, indent=1, ensure_ascii=False).encode())
        self._done = True
        self.storage.delete_folder(f"{self.folder}/_making")
        return _parse(self.storage, record)

    def _hash_all(self) -> list[FileEntry]:
        entries = []
        for item in self.storage.list(self.folder, recursive=True):
            if item.path.startswith("_making/") or item.path in (MARK, "files.parquet") or item.path.endswith(".part"):
                continue
            with self.storage.open_input(f"{self.folder}/{item.path}") as stream:
                digest = hashlib.sha256()
                while chunk := stream.read(_CHUNK):
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


class ArtifactStore:
    """All artifacts of a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def begin(self, kind: str, name: str, fingerprint: str) -> Draft:
        """Returns a draft for this result: a new version, or the one that a dead run left unfinished.

        Raises:
            Busy: A live run is making the same result.
        """
        check_name(name)
        version = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        lease = acquire(self.storage, f"{kind}/{name}/_making/{fingerprint[:16]}", version)
        committed = f"{kind}/{name}/{lease.value}/{MARK}"
        if lease.taken_over and self.storage.read(committed) is not None:  # died between its mark and its release
            lease.release()
            lease = acquire(self.storage, f"{kind}/{name}/_making/{fingerprint[:16]}", version)
        self.storage.makedirs(f"{kind}/{name}/{lease.value}")
        return Draft(self, kind, name, fingerprint, lease)

    def find(self, kind: str, name: str, fingerprint: str) -> Artifact | None:
        """Returns the newest complete artifact with this fingerprint, if there is one."""
        for artifact in self.versions(kind, name):
            if artifact.fingerprint == fingerprint and artifact.is_complete():
                return artifact
        return None

    def versions(self, kind: str, name: str) -> Iterator[Artifact]:
        """Yields the committed versions, newest first."""
        for version in reversed(self.storage.folders(f"{kind}/{name}")):
            if not version.startswith("_"):
                artifact = self._load(kind, name, version)
                if artifact is not None:
                    yield artifact

    def list(self, kind: str | None = None, name: str | None = None) -> Iterator[Artifact]:
        """Yields all committed artifacts by kind and name, newest version first."""
        for each in (kind,) if kind else KINDS:
            for found in self.storage.folders(each):
                if name is None or found == name:
                    yield from self.versions(each, found)

    def get(self, reference: str, kind: str | None = None) -> Artifact:
        """Returns the artifact that ``[kind/]name[@version]`` names; without a version, the newest.

        Raises:
            MissingArtifact: There is none; the message names what there is.
            RequestError: The name fits several kinds, or is not a name.
        """
        given, slash, rest = reference.rpartition("/")
        name, at, version = rest.partition("@")
        check_name(name)
        if slash and given not in KINDS:
            raise RequestError(f"{given!r} is no kind of artifact", f"one of: {', '.join(KINDS)}")
        kinds = [given] if slash else [kind] if kind else list(KINDS)
        found = []
        for each in kinds:
            artifact = self._load(each, name, version) if at else next(self.versions(each, name), None)
            if artifact is not None:
                found.append(artifact)
        if len(found) > 1:
            choices = ", ".join(f"{item.kind}/{item.name}" for item in found)
            raise RequestError(f"{reference!r} names several artifacts: {choices}", "give the kind as well")
        if not found:
            known = sorted({f"{item.kind}/{item.name}" for item in self.list(kinds[0] if len(kinds) == 1 else None)})
            there = ", ".join(known[:12]) or "nothing yet"
            what = f"{kinds[0]} {name!r}" if len(kinds) == 1 else repr(name)
            raise MissingArtifact(
                f"no artifact {what}{at + version} in {self.storage.uri}",
                f"there is: {there}; make it with `llmyard run`, or name another --storage",
            )
        return found[0]

    def lineage(self, artifact: Artifact) -> Iterator[tuple[int, Artifact]]:
        """Yields (depth, artifact) from an artifact back to its first ancestors, each once."""
        seen: set[str] = set()
        stack = [(0, artifact)]
        while stack:
            depth, item = stack.pop()
            if item.reference not in seen:
                seen.add(item.reference)
                yield depth, item
                stack += [(depth + 1, self.get(parent)) for parent in reversed(item.parents)]

    def remove(self, reference: str) -> Artifact:
        """Removes one version, its mark first.

        Raises:
            RequestError: Another artifact was made from it.
        """
        artifact = self.get(reference)
        children = [item.reference for item in self.list() if artifact.reference in item.parents]
        if children:
            raise RequestError(f"{artifact.reference} is a parent of {', '.join(children)}", "remove those first")
        self.storage.delete(f"{artifact.folder}/{MARK}")
        self.storage.delete_folder(artifact.folder)
        return artifact

    def _load(self, kind: str, name: str, version: str) -> Artifact | None:
        data = self.storage.read(f"{kind}/{name}/{version}/{MARK}")
        if data is None:
            return None
        try:
            record = json.loads(data)
            written = record["format_version"]
            if written == FORMAT_VERSION:
                return _parse(self.storage, record)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptArtifact(f"{kind}/{name}/{version}/{MARK} is not readable", "remove that folder") from None
        raise LlmyardError(
            f"{kind}/{name}@{version} has format {written}, this llmyard reads {FORMAT_VERSION}",
            "use the llmyard that wrote it",
        )


def check_name(name: str) -> str:
    """Returns the name if it may be one: letters, digits, ``. _ -``, no path."""
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} cannot be an artifact's name", "letters, digits, '.', '_' and '-', at most 100")
    return name


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a local file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_version() -> str:
    """Returns llmyard's version, with the commit it was built from where ``LLMYARD_COMMIT`` or git tells."""
    commit = os.environ.get("LLMYARD_COMMIT") or _git_commit()
    return f"{__version__}+{commit[:12]}" if commit else __version__


def _git_commit() -> str:
    root = Path(__file__).resolve().parents[3] / ".git"
    try:
        head = (root / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (root / reference).exists():
            return (root / reference).read_text().strip()
        packed = (root / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(reference)), "")
    except OSError:
        return ""


def _download(storage: Storage, path: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with storage.open_input(path) as source, open(temporary, "wb") as sink:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
    os.replace(temporary, target)


def _parse(storage: Storage, record: Mapping[str, Any]) -> Artifact:
    return Artifact(
        storage=storage,
        kind=record["kind"],
        name=record["name"],
        version=record["version"],
        fingerprint=record["fingerprint"],
        config=record["config"],
        parents=tuple(record["parents"]),
        metrics=record["metrics"],
        details=record["details"],
        code_version=record["code_version"],
        created=record["created"],
        files_sha256=record["files_sha256"],
    )


def _remake(artifact: Artifact) -> str:
    return f"remove it with `llmyard artifacts remove {artifact.reference}` and run its job again"
