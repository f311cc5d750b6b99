"""The cache of a machine: bounded, shared by processes, never without what is in use, never with a damaged file."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifact import FileEntry
from llmyard.core.cache import DEFAULT_BYTES, NodeCache, _files, machine_cache
from llmyard.core.errors import CorruptArtifact, LlmyardError, RequestError
from llmyard.core.storage import Storage

SIZE = 1000


class Remote(Storage):
    """A folder that counts as remote, and counts how often each file is opened."""

    def __init__(self, folder: Path) -> None:
        self.is_local, self.uri, self._folder = False, f"remote://{folder}", folder
        self.opened: Counter[str] = Counter()
        self.damage: list[bytes] = []  # what the next readers get instead

    def open_input(self, path: str) -> Any:
        self.opened[path] += 1
        return io.BytesIO(self.damage.pop()) if self.damage else open(self._folder / path, "rb")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "there" / "语料").mkdir(parents=True)
    return Remote(tmp_path / "there")


@pytest.fixture
def entries(tmp_path: Path, remote: Remote) -> list[FileEntry]:
    found = []
    for number in range(10):
        data = bytes([number]) * SIZE
        (tmp_path / "there" / "语料" / f"{number}.parquet").write_bytes(data)
        found.append(FileEntry(f"{number}.parquet", SIZE, hashlib.sha256(data).hexdigest()))
    return found


def size_of(cache: NodeCache) -> int:
    with cache._sizes():  # an empty part of a file that another has fetched meanwhile may go even now
        return sum(size for _, size, _ in _files(cache.folder))


def test_a_file_is_fetched_once_and_read_at_its_path(tmp_path: Path, remote: Remote, entries: list[FileEntry]) -> None:
    cache = NodeCache(tmp_path / "cache", 10 * SIZE)
    for _ in range(3):
        held = cache.hold(remote, "语料", entries[3])
        assert held.path.read_bytes() == b"\x03" * SIZE
        held.release()
    assert remote.opened == {"语料/3.parquet": 1}


def test_the_longest_unused_goes_first_and_the_bound_holds(
    tmp_path: Path, remote: Remote, entries: list[FileEntry]
) -> None:
    cache = NodeCache(tmp_path / "cache", 3 * SIZE)
    for number in (0, 1, 2, 0, 3):  # 1 is the one unused longest when 3 comes
        cache.hold(remote, "语料", entries[number]).release()
        assert size_of(cache) <= cache.limit
        time.sleep(0.01)
    for number in (0, 2, 3, 1):
        cache.hold(remote, "语料", entries[number]).release()
    assert remote.opened == {"语料/0.parquet": 1, "语料/1.parquet": 2, "语料/2.parquet": 1, "语料/3.parquet": 1}


def test_what_is_in_use_stays_though_it_is_the_oldest(tmp_path: Path, remote: Remote, entries: list[FileEntry]) -> None:
    cache = NodeCache(tmp_path / "cache", 3 * SIZE)
    used = cache.hold(remote, "语料", entries[0])
    for entry in entries[1:]:
        cache.hold(remote, "语料", entry).release()
        assert used.path.exists()
        assert size_of(cache) <= cache.limit
    used.release()
    for entry in entries[1:4]:
        cache.hold(remote, "语料", entry).release()
    assert not used.path.exists()


def test_without_room_the_caller_is_asked_to_release_then_told_the_remedy(
    tmp_path: Path, remote: Remote, entries: list[FileEntry]
) -> None:
    cache = NodeCache(tmp_path / "cache", 2 * SIZE, patience_seconds=0.2)
    held = [cache.hold(remote, "语料", entry) for entry in entries[:2]]

    def spare() -> bool:
        if held:
            held.pop().release()
            return True
        return False

    third = cache.hold(remote, "语料", entries[2], spare)
    assert len(held) == 1
    with pytest.raises(LlmyardError, match=r"no room for 3\.parquet") as caught:
        cache.hold(remote, "语料", entries[3])
    assert "LLMYARD_CACHE_BYTES" in caught.value.remedy
    third.release()
    cache.hold(remote, "语料", entries[3]).release()


def test_another_thread_that_releases_makes_room(tmp_path: Path, remote: Remote, entries: list[FileEntry]) -> None:
    cache = NodeCache(tmp_path / "cache", SIZE)
    held = cache.hold(remote, "语料", entries[0])
    threading.Timer(0.2, held.release).start()
    assert cache.hold(remote, "语料", entries[1]).path.exists()


@pytest.mark.parametrize("bad", [b"", b"\x02" * (SIZE - 1), b"\x02" * (SIZE + 7), b"\x01" * SIZE])
def test_a_damaged_arrival_is_fetched_again_then_refused(
    tmp_path: Path, remote: Remote, entries: list[FileEntry], bad: bytes
) -> None:
    cache = NodeCache(tmp_path / "cache", 10 * SIZE)
    remote.damage = [bad, bad]
    with pytest.raises(CorruptArtifact, match=r"语料/2\.parquet does not match its checksum"):
        cache.hold(remote, "语料", entries[2])
    assert size_of(cache) == 0
    remote.damage = [bad]
    held = cache.hold(remote, "语料", entries[2])
    assert held.path.read_bytes() == b"\x02" * SIZE


def test_a_missing_file_and_a_failing_network_are_named(
    tmp_path: Path, remote: Remote, entries: list[FileEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path / "cache", 10 * SIZE)
    with pytest.raises(CorruptArtifact, match=r"nothing\.parquet is missing"):
        cache.hold(remote, "语料", FileEntry("nothing.parquet", 1, "0" * 64))

    def fail(path: str) -> Any:
        raise OSError("connection reset")

    monkeypatch.setattr(remote, "open_input", fail)
    with pytest.raises(LlmyardError, match="connection reset"):
        cache.hold(remote, "语料", entries[0])


def test_what_a_dead_process_left_half_arrived_is_removed(
    tmp_path: Path, remote: Remote, entries: list[FileEntry]
) -> None:
    cache = NodeCache(tmp_path / "cache", 3 * SIZE)
    (cache.folder / f"{'a' * 64}.parquet.part").write_bytes(b"x" * 2 * SIZE)
    (cache.folder / f"{entries[0].sha256}.parquet.part").write_bytes(b"y" * 2 * SIZE)
    held = [cache.hold(remote, "语料", entry) for entry in entries[:3]]
    assert held[0].path.read_bytes() == b"\x00" * SIZE
    assert not list(cache.folder.glob("*.part"))


WORKER = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_cache as t
remote, cache = t.Remote(Path(sys.argv[2])), t.NodeCache(Path(sys.argv[3]), 3 * t.SIZE)
entries = [t.FileEntry(*line.split()) for line in Path(sys.argv[4]).read_text().splitlines()]
entries = [t.FileEntry(each.path, int(each.size), each.sha256) for each in entries]
choice = random.Random(int(sys.argv[5]))
for _ in range(300):
    number = choice.randrange(10)
    held = cache.hold(remote, "语料", entries[number])
    assert held.path.read_bytes() == bytes([number]) * t.SIZE
    assert t.size_of(cache) <= cache.limit
    held.release()
print("fetched", sum(remote.opened.values()))
"""


def test_processes_share_the_folder_and_none_reads_a_torn_file(
    tmp_path: Path, remote: Remote, entries: list[FileEntry]
) -> None:
    listing = tmp_path / "entries"
    listing.write_text("\n".join(f"{entry.path} {entry.size} {entry.sha256}" for entry in entries))
    arguments = [str(Path(__file__).parent), str(tmp_path / "there"), str(tmp_path / "cache"), str(listing)]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, *arguments, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3
    assert all(output.startswith("fetched") for output in outputs)


def test_the_bound_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMYARD_CACHE", str(tmp_path))
    monkeypatch.setenv("LLMYARD_CACHE_BYTES", "12345")
    assert machine_cache().limit == 12345
    assert machine_cache().folder == tmp_path / "shards"
    monkeypatch.setenv("LLMYARD_CACHE_BYTES", "64GB")
    with pytest.raises(RequestError, match="64GB"):
        machine_cache()
    monkeypatch.delenv("LLMYARD_CACHE_BYTES")
    assert 0 < machine_cache().limit <= DEFAULT_BYTES
    assert os.path.isdir(tmp_path / "shards")
