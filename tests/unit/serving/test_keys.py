"""Keys: only hashes on disk, readable by their owner; none is lost when several are made at once."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from pathlib import Path

import pytest

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.storage import Storage
from llmyard.serving import keys
from llmyard.serving.rates import Rate


def test_only_the_hash_is_kept_and_only_for_the_owner(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert keys.hashes(storage) == []
    key = keys.new_key()
    assert keys.hashes(storage) == []  # made is not stored: an endpoint that never starts leaves none
    keys.keep(storage, key)
    assert key.startswith("ly-")
    assert keys.hashes(storage) == [keys.hash_of(key)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert key not in files[0].read_text()
    assert files[0].stat().st_mode & 0o777 == 0o600
    assert files[0].parent.stat().st_mode & 0o777 == 0o700


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    made = [keys.new_key() for _ in range(12)]
    threads = [threading.Thread(target=keys.keep, args=(Storage(str(tmp_path)), key)) for key in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = keys.hashes(Storage(str(tmp_path)))
    assert len(set(made)) == len(set(kept)) == 12
    assert {keys.hash_of(key) for key in made} == set(kept)


def known(ring: keys.KeyRing, *given: str) -> list[str | None]:
    async def ask() -> list[str | None]:
        return [await ring.known(each) for each in given]

    return asyncio.run(ask())


def test_every_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(one: str, other: str) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    hashes = [keys.hash_of(each) for each in ("a", "b", "c")]
    ring = keys.KeyRing.of(hashes)
    assert known(ring, "a") == hashes[:1]
    assert compared == hashes  # it does not stop at the first that fits
    assert known(ring, "", keys.hash_of("a")) == [None, None]
    assert known(keys.KeyRing.of([]), "a") == [None]


def test_keys_are_made_limited_and_revoked_without_a_restart(tmp_path: Path) -> None:
    storage, now = Storage(str(tmp_path)), [time.time()]
    ring = keys.KeyRing(lambda: keys.stored(storage), lambda: now[0])
    key, other = keys.new_key(), keys.new_key()
    assert known(ring, key) == [None]
    keys.keep(storage, key, "nightly", Rate(requests=5), days=1)
    now[0] += 2  # one that nobody knows is looked for again after a second
    assert known(ring, key) == [keys.hash_of(key)]
    assert ring.rate(keys.hash_of(key)) == Rate(requests=5)
    assert ring.rate(keys.hash_of(other)) == Rate()
    keys.revoke(storage, keys.hash_of(key))
    now[0] += keys.FRESH_SECONDS + 1
    assert known(ring, key) == [None]
    keys.keep(storage, other, days=1)
    now[0] += 2
    assert known(ring, other) == [keys.hash_of(other)]
    now[0] += 86_401
    assert known(ring, other) == [None]


def test_keys_that_cannot_be_read_again_stay(tmp_path: Path) -> None:
    now, fails = [0.0], [False]

    def read() -> list[keys.StoredKey]:
        if fails[0]:
            raise OSError("gone")
        return [keys.StoredKey(keys.hash_of("a"))]

    ring = keys.KeyRing(read, lambda: now[0])
    assert known(ring, "a") == [keys.hash_of("a")]
    fails[0], now[0] = True, 100.0
    assert known(ring, "a", "b") == [keys.hash_of("a"), None]


def test_a_key_is_revoked_by_the_beginning_of_its_hash(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    one, two = keys.new_key(), keys.new_key()
    keys.keep(storage, one)
    keys.keep(storage, two)
    for beginning in ("", "nosuch"):
        with pytest.raises(RequestError, match="keys list"):
            keys.revoke(storage, beginning)
    assert keys.revoke(storage, keys.hash_of(one)[:12]).sha256 == keys.hash_of(one)
    assert keys.hashes(storage) == [keys.hash_of(two)]


def test_another_format_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    keys.keep(storage, keys.new_key())
    storage.write(f"{keys.FOLDER}/other.json", b'{"format_version": 99}')
    with pytest.raises(LlmyardError, match="unknown format"):
        keys.hashes(storage)
