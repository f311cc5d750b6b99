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

FILE = "serving/keys.json"
PREFIX = "ly-"


def hash_of(key: str) -> str:
    """Returns the SHA-256 of a key; keys hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(storage: Storage) -> str:
    """Makes a key, stores its hash, and returns the key; it cannot be shown again."""
    key = PREFIX + secrets.token_urlsafe(32)
    stored = _read(storage)
    stored.append({"sha256": hash_of(key), "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    storage.write(FILE, json.dumps({"format_version": 1, "keys": stored}, indent=1).encode())
    if storage.is_local:
        storage.local(FILE).chmod(0o600)
    return key


def hashes(storage: Storage) -> list[str]:
    """Returns the hashes of all keys."""
    return [str(item["sha256"]) for item in _read(storage)]


def is_known(key: str, known: Sequence[str]) -> bool:
    """Returns whether a key's hash is among the known ones, in a time that tells nothing."""
    given = hash_of(key)
    found = False
    for each in known:
        found |= hmac.compare_digest(given, each)
    return found


def _read(storage: Storage) -> list[dict[str, str]]:
    data = storage.read(FILE)
    if data is None:
        return []
    content = json.loads(data)
    if content.get("format_version") != 1:
        raise LlmyardError(f"{FILE} has an unknown format", "use the llmyard that wrote it, or remove the file")
    return list(content["keys"])
