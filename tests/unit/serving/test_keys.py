"""Keys: only hashes on disk, readable by their owner; none is lost when several are made at once."""

from __future__ import annotations

import hmac
import threading
from pathlib import Path

import pytest

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.storage import Storage
from llmyard.serving import keys


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
    known = keys.hashes(Storage(str(tmp_path)))
    assert len(set(made)) == len(set(known)) == 12
    assert all(keys.is_known(key, known) for key in made)


def test_every_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(one: str, other: str) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    known = [keys.hash_of(each) for each in ("a", "b", "c")]
    assert keys.is_known("a", known)
    assert compared == known  # it does not stop at the first that fits
    assert not keys.is_known("", known)
    assert not keys.is_known(keys.hash_of("a"), known)
    assert not keys.is_known("a", [])


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
