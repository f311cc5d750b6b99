"""The artifact store: immutable, versioned results with their lineage; ``artifact.json`` is the commit mark.

Layout: ``{storage}/{kind}/{name}/{version}/`` holds the files, their list ``files-f{fence}.parquet`` (path, size,
sha256) and, written last, ``artifact.json``. No mark, no artifact. What is being made is under a lease in
``_making/{fingerprint}``. A folder may hold more than the list names: what a dead owner left there is not the artifact.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator

from llmyard.core.artifact import (
    FORMAT_VERSION,
    KINDS,
    MARK,
    Artifact,
    FileEntry,
    check_name,
    code_version,
    parse,
    sha256_of,
)
from llmyard.core.draft import Draft, tidy
from llmyard.core.errors import CorruptArtifact, LlmyardError, MissingArtifact, RequestError
from llmyard.core.lease import Lease, acquire, claimed
from llmyard.core.storage import Storage

__all__ = ["KINDS", "Artifact", "ArtifactStore", "Draft", "FileEntry", "check_name", "code_version", "sha256_of"]


class ArtifactStore:
    """All artifacts of a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._pins: dict[tuple[str, str], Artifact] = {}

    def pinned(self, artifact: Artifact) -> ArtifactStore:
        """Returns this store with an artifact taken for its bare name, although a newer version may be there.

        What the stages of one run make and take belongs together; another run, with another config or at the same
        time, may leave newer versions. Parents of the artifact's own name (the tokenizer of shards) are taken too.
        """
        pinned = ArtifactStore(self.storage)
        companions = [
            self.get(parent) for parent in artifact.parents if parent.split("@")[0].endswith(f"/{artifact.name}")
        ]
        pinned._pins = self._pins | {(each.kind, each.name): each for each in [*companions, artifact]}
        return pinned

    def begin(self, kind: str, name: str, fingerprint: str) -> Draft:
        """Returns a draft for this result: a new version, or the one that a dead run left unfinished.

        Raises:
            Busy: A live run is making the same result.
        """
        check_name(name)
        version = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        folder = _lease_folder(kind, name, fingerprint)
        lease = acquire(self.storage, folder, version)
        if lease.taken_over and self._settled(lease, kind, name):
            lease = acquire(self.storage, folder, version)
        self.storage.makedirs(f"{kind}/{name}/{lease.value}")
        return Draft(self.storage, kind, name, fingerprint, lease)

    def settle(self, artifact: Artifact) -> None:
        """Ends the work of an owner that died between its mark and its release: what it left is removed."""
        folder = _lease_folder(artifact.kind, artifact.name, artifact.fingerprint)
        if claimed(self.storage, folder) != artifact.version:
            return
        with contextlib.suppress(LlmyardError):  # its owner lives, or the storage is read-only: it is no reader's loss
            self._settled(acquire(self.storage, folder, artifact.version), artifact.kind, artifact.name)

    def _settled(self, lease: Lease, kind: str, name: str) -> bool:
        """Returns whether the lease's version is committed; then it is tidied and the lease given back."""
        artifact = self._load(kind, name, lease.value)
        if artifact is None:
            return False
        if artifact.is_complete():
            tidy(artifact, artifact.files())
        lease.release()
        return True

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
        if at:
            check_name(version)
        if slash and given not in KINDS:
            raise RequestError(f"{given!r} is no kind of artifact", f"one of: {', '.join(KINDS)}")
        kinds = [given] if slash else [kind] if kind else list(KINDS)
        found = []
        for each in kinds:
            artifact = self._load(each, name, version) if at else self._newest(each, name)
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

    def _newest(self, kind: str, name: str) -> Artifact | None:
        return self._pins.get((kind, name)) or next(self.versions(kind, name), None)

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
                found = parse(self.storage, record)
                if (found.kind, found.name, found.version) != (kind, name, version):  # a copy of another's folder
                    raise CorruptArtifact(
                        f"{kind}/{name}/{version}/{MARK} is that of {found.reference}",
                        f"remove that folder; `llmyard artifacts import {kind}` copies artifacts",
                    )
                return found
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptArtifact(f"{kind}/{name}/{version}/{MARK} is not readable", "remove that folder") from None
        raise LlmyardError(
            f"{kind}/{name}@{version} has format {written}, this llmyard reads {FORMAT_VERSION}",
            "use the llmyard that wrote it",
        )


def _lease_folder(kind: str, name: str, fingerprint: str) -> str:
    return f"{kind}/{name}/_making/{fingerprint[:16]}"
