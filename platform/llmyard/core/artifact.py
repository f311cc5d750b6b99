"""A committed artifact: what it is, its files, and the checks on reading them."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmyard import __version__
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.core.storage import Storage

FORMAT_VERSION = 1
KINDS = ("tokenizer", "shards", "checkpoint", "adapter", "report", "records", "index", "files", "sweep")
MARK = "artifact.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHUNK = 1 << 22


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
    files_list: str = "files.parquet"

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
        data = self.storage.read(f"{self.folder}/{self.files_list}")
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

    def verified(self, entry: FileEntry) -> Path:
        """Returns the path of one file on local storage, its checksum verified when a process first asks.

        Raises:
            CorruptArtifact: It is missing or does not match its checksum.
        """
        target = self.storage.local(self.folder, entry.path)
        self._verify(target, entry)
        return target

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


def check_name(name: str) -> str:
    """Returns the name if it may be one: letters, digits, ``. _ -``, no path."""
    if not _NAME.fullmatch(name) or ".." in name:
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
        while chunk := source.read(CHUNK):
            sink.write(chunk)
    os.replace(temporary, target)


def parse(storage: Storage, record: Mapping[str, Any]) -> Artifact:
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
        files_list=record.get("files_list", "files.parquet"),
    )


def _remake(artifact: Artifact) -> str:
    return f"remove it with `llmyard artifacts remove {artifact.reference}` and run its job again"
