"""API keys: shown once when made, kept as hashes only, with what each may ask for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.storage import Storage
from llmyard.serving.rates import Rate

_log = logging.getLogger(__name__)
FRESH_SECONDS = 10.0
_AGAIN_SECONDS = 1.0  # between two readings for the sake of keys that nobody knows
_TIME = "%Y-%m-%dT%H:%M:%SZ"
FOLDER = "serving/keys"
PREFIX = "ly-"
FORMAT_VERSION = 1


def hash_of(key: str) -> str:
    """Returns the SHA-256 of a key; keys hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """Returns a new key; nobody knows it until its hash is stored or given to an endpoint."""
    return PREFIX + secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is kept of a key.

    Attributes:
        sha256: Its hash.
        created: When it was made (ISO 8601 UTC); "" where nobody knows.
        name: What it is for, as its owner calls it.
        rate: What it may ask for.
        expires: When it ends (ISO 8601 UTC); "" for never.
    """

    sha256: str
    created: str = ""
    name: str = ""
    rate: Rate = field(default_factory=Rate)
    expires: str = ""

    def has_ended(self, now: float) -> bool:
        """Returns whether it is of no use any more at a time, in seconds since 1970."""
        return bool(self.expires) and self.expires <= time.strftime(_TIME, time.gmtime(now))


def keep(storage: Storage, key: str, name: str = "", rate: Rate | None = None, days: float | None = None) -> StoredKey:
    """Stores a key's hash and returns what is kept; the key itself cannot be shown again.

    Each key has a file of its own, so keys made at the same time do not overwrite each other on any filesystem.

    Args:
        storage: Of the endpoint.
        key: As :func:`new_key` made it.
        name: What it is for.
        rate: What it may ask for; None for as much as it likes.
        days: It ends after so many; None for never.
    """
    digest, now, rate = hash_of(key), time.time(), rate or Rate()
    expires = "" if days is None else time.strftime(_TIME, time.gmtime(now + days * 86_400))
    kept = StoredKey(digest, time.strftime(_TIME, time.gmtime(now)), name, rate, expires)
    record = {
        "format_version": FORMAT_VERSION, "sha256": digest, "created": kept.created, "name": name,
        "requests_per_minute": rate.requests, "tokens_per_minute": rate.tokens, "expires": expires,
    }  # fmt: skip
    storage.makedirs(FOLDER)
    if storage.is_local:
        storage.local(FOLDER).chmod(0o700)
    path = f"{FOLDER}/{digest[:16]}.json"
    storage.write(path, json.dumps(record, ensure_ascii=False).encode())
    if storage.is_local:
        storage.local(path).chmod(0o600)
    return kept


def hashes(storage: Storage) -> list[str]:
    """Returns the hashes of all keys; see :func:`stored` for the errors."""
    return [key.sha256 for key in stored(storage)]


def revoke(storage: Storage, beginning: str) -> StoredKey:
    """Removes the key whose hash begins so; endpoints that run forget it within some seconds.

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
        found.append(_stored(record))
    return sorted(found, key=lambda key: (key.created, key.sha256))


def _stored(record: dict[str, Any]) -> StoredKey:
    rate = Rate(record.get("requests_per_minute"), record.get("tokens_per_minute"))
    return StoredKey(
        str(record["sha256"]), str(record["created"]), str(record.get("name", "")), rate, str(record.get("expires", ""))
    )


class KeyRing:
    """The keys that an endpoint knows, read again when they are older than some seconds: keys are made, limited and
    revoked without a restart.

    Args:
        read: Returns the keys; called in a thread. Where it fails the keys that are known stay.
        now: Seconds since 1970.
    """

    def __init__(self, read: Callable[[], Sequence[StoredKey]], now: Callable[[], float] = time.time) -> None:
        self._read, self._now = read, now
        self._keys: list[StoredKey] = []
        self._at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, hashes: Sequence[str]) -> KeyRing:
        """Returns a ring of keys that stay as they are."""
        keys = [StoredKey(each) for each in hashes]
        return cls(lambda: keys)

    async def known(self, key: str) -> str | None:
        """Returns the hash of a key if it is known and has not ended, in a time that tells nothing; else None."""
        if self._now() - self._at > FRESH_SECONDS:
            await self._refreshed()
        found = self._find(key)
        if found is None and self._now() - self._at > _AGAIN_SECONDS:  # it may have been made just now
            await self._refreshed()
            found = self._find(key)
        return found

    def _find(self, key: str) -> str | None:
        given, found = hash_of(key), None
        for each in self._keys:
            if hmac.compare_digest(given, each.sha256) and not each.has_ended(self._now()):
                found = each.sha256
        return found

    async def _refreshed(self) -> None:
        """Reads the keys again; who asks meanwhile waits for the same reading."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh())
        await asyncio.shield(self._reading)

    def rate(self, sha256: str) -> Rate:
        """Returns what the key of a hash may ask for."""
        return next((each.rate for each in self._keys if each.sha256 == sha256), Rate())

    async def _refresh(self) -> None:
        try:
            self._keys = list(await asyncio.to_thread(self._read))
        except (LlmyardError, OSError) as error:
            _log.error("the keys could not be read again", exc_info=error)
        self._at = self._now()
