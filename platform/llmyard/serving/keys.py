"""API keys: shown once when made, kept as hashes only."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.storage import Storage

FOLDER = "serving/keys"
PREFIX = "ly-"
FORMAT_VERSION = 1


def hash_of(key: str) -> str:
    """Returns the SHA-256 of a key; keys hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """Returns a new key; nobody knows it until its hash is stored or given to an endpoint."""
    return PREFIX + secrets.token_urlsafe(32)


def keep(storage: Storage, key: str) -> None:
    """Stores a key's hash; the key itself cannot be shown again.

    Each key has a file of its own, so keys made at the same time do not overwrite each other on any filesystem.
    """
    digest = hash_of(key)
    record = {
        "format_version": FORMAT_VERSION,
        "sha256": digest,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    storage.makedirs(FOLDER)
    if storage.is_local:
        storage.local(FOLDER).chmod(0o700)
    path = f"{FOLDER}/{digest[:16]}.json"
    storage.write(path, json.dumps(record).encode())
    if storage.is_local:
        storage.local(path).chmod(0o600)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is kept of a key: its hash, and when it was made (ISO 8601 UTC)."""

    sha256: str
    created: str


def hashes(storage: Storage) -> list[str]:
    """Returns the hashes of all keys; see :func:`stored` for the errors."""
    return [key.sha256 for key in stored(storage)]


def revoke(storage: Storage, beginning: str) -> StoredKey:
    """Removes the key whose hash begins so; an endpoint that runs knows it until it is started again.

    Raises:
        RequestError: None or several do.
    """
    found = [key for key in stored(storage) if beginning and key.sha256.startswith(beginning)]
    if len(found) != 1:
        raise RequestError(f"{beginning!r} begins the hashes of {len(found)} keys", "see `llmyard keys list`")
    storage.delete(f"{FOLDER}/{found[0].sha256[:16]}.json")
    return found[0]


def stored(storage: Storage) -> list[StoredKey]:
    """Returns what is kept of all keys, oldest first.

    Raises:
        LlmyardError: A key's file is of another version's format.
    """
    found = []
    for item in storage.list(FOLDER):
        data = storage.read(f"{FOLDER}/{item.path}") if item.path.endswith(".json") else None
        if data is None:
            continue
        record = json.loads(data)
        if record.get("format_version") != FORMAT_VERSION:
            raise LlmyardError(
                f"{FOLDER}/{item.path} has an unknown format", "use the llmyard that wrote it, or remove the file"
            )
        found.append(StoredKey(str(record["sha256"]), str(record["created"])))
    return sorted(found, key=lambda key: (key.created, key.sha256))


def is_known(key: str, known: Sequence[str]) -> bool:
    """Returns whether a key's hash is among the known ones, in a time that tells nothing."""
    given = hash_of(key)
    found = False
    for each in known:
        found |= hmac.compare_digest(given, each)
    return found
