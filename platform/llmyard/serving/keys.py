"""API keys: shown once when made, kept as hashes only."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence

from llmyard.core.errors import LlmyardError
from llmyard.core.storage import Storage

FOLDER = "serving/keys"
PREFIX = "ly-"
FORMAT_VERSION = 1


def hash_of(key: str) -> str:
    """Returns the SHA-256 of a key; keys hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """Returns a new key."""
    return PREFIX + secrets.token_urlsafe(32)


def keep(storage: Storage, key: str) -> None:
    """Stores a key's hash; the key itself cannot be found again.

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


def hashes(storage: Storage) -> list[str]:
    """Returns the hashes of all keys.

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
        found.append(str(record["sha256"]))
    return found


def is_known(key: str, known: Sequence[str]) -> bool:
    """Returns whether a key's hash is among the known ones, in a time that tells nothing."""
    given = hash_of(key)
    found = False
    for each in known:
        found |= hmac.compare_digest(given, each)
    return found
