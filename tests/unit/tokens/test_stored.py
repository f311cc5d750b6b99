"""Shards of an artifact: opened when read, verified then, fetched from remote storage through a bounded cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import CorruptArtifact, DataError, LlmyardError
from llmyard.core.storage import Storage
from llmyard.tokens import shard_index
from llmyard.tokens.order import DataOrder
from llmyard.tokens.packing import BestFitView, ConcatenatedView
from llmyard.tokens.prefetch import PrefetchingOrder, prefetching
from llmyard.tokens.shard_index import ShardFacts
from llmyard.tokens.shards import Shard, ShardSet, ShardWriter
from llmyard.tokens.stored import HELD_SHARE, StoredShard
from llmyard.tokens.views import ExampleView, PackedView

SHARDS, TOKENS = 12, 20_000
FILE_BYTES = 2 * TOKENS  # and a little


class Remote(Storage):
    """A folder that counts as remote."""

    opened: ClassVar[Counter[str]] = Counter()

    def __init__(self, folder: str) -> None:
        self.is_local, self.uri, self._folder = False, f"remote://{folder}", folder

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return fs.LocalFileSystem(), self._folder

    def write(self, path: str, data: bytes) -> None:
        Path(self._folder, path).parent.mkdir(parents=True, exist_ok=True)  # an object store has no folders
        super().write(path, data)

    def open_input(self, path: str) -> Any:
        self.opened[path.rpartition("/")[2]] += 1
        return super().open_input(path)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Remote, (self._folder,)


def make(storage: Storage, folder: Path, shards: int = SHARDS, index: bool = True) -> Artifact:
    """Commits shards of two sources; every shard's tokens are its own number."""
    with ArtifactStore(storage).begin("shards", "corpus", "f" * 64) as draft:
        facts: list[ShardFacts] = []
        entries = []
        for split in ("train", "validation"):
            for number in range(shards if split == "train" else 1):
                writer = ShardWriter(folder, f"{split}-{number:03d}-f1", np.dtype("<u2"), 64)
                for document in range(20):
                    ids = np.full(TOKENS // 20, number)
                    writer.add(ids, document=f"{split}/{number}/{document}", source="英" if number % 3 else "中")
                entries += writer.close()
                facts.append(writer.facts)
        for file in folder.iterdir():
            storage.write(f"{draft.folder}/{file.name}", file.read_bytes())
        if index:
            entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(facts)))
        return draft.commit(config={}, parents=[], metrics={}, files=entries)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """An artifact on remote storage, and a cache that holds a third of it."""
    monkeypatch.setenv("LLMYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMYARD_CACHE_BYTES", str(4 * (FILE_BYTES + 4000)))
    (tmp_path / "made").mkdir()
    artifact = make(Remote(str(tmp_path / "there")), tmp_path / "made")
    Remote.opened.clear()
    return artifact


def cached(tmp_path: Path) -> int:
    return sum(item.stat().st_size for item in (tmp_path / "cache" / "shards").iterdir())


def local(tmp_path: Path, **fields: Any) -> tuple[Artifact, Path]:
    (tmp_path / "made").mkdir()
    artifact = make(Storage(str(tmp_path / "store")), tmp_path / "made", **fields)
    return artifact, artifact.storage.local(artifact.folder)


def test_the_index_tells_what_the_shards_hold(tmp_path: Path) -> None:
    artifact, folder = local(tmp_path)
    for shard in ShardSet.of(artifact, "train").shards:
        assert isinstance(shard, StoredShard)
        opened = Shard(folder / shard.facts.files[0])
        assert (shard.tokens, shard.document_count, shard.dtype, shard.streams, shard.source) == (
            opened.tokens, opened.document_count, opened.dtype, opened.streams, opened.source,
        )  # fmt: skip
        assert shard.documents.equals(opened.documents)
        assert np.array_equal(shard.read(5, 100), opened.read(5, 100))
    assert [shard.source for shard in ShardSet.of(artifact, "train").shards][:4] == ["中", "英", "英", "中"]
    with pytest.raises(DataError, match="no shards of split 'test'"):
        ShardSet.of(artifact, "test")


def test_nothing_is_opened_before_it_is_read_and_damage_is_found_then(tmp_path: Path) -> None:
    artifact, folder = local(tmp_path)
    for file in folder.glob("train-00[3-9]*"):
        file.write_bytes(b"damaged")
    view = PackedView(ShardSet.of(artifact, "train"), 100)
    assert view.rows == [(TOKENS - 1) // 100] * SHARDS
    assert view(2, 7).tolist() == [2] * 101
    with pytest.raises(CorruptArtifact, match=r"train-003-f1\.tokens\.parquet of shards/corpus"):
        view(3, 0)


def test_an_artifact_without_an_index_is_taken_whole(tmp_path: Path) -> None:
    artifact, _ = local(tmp_path, index=False)
    shards = ShardSet.of(artifact, "train")
    assert all(isinstance(shard, Shard) for shard in shards.shards)
    assert [shard.source for shard in shards.shards][:4] == ["中", "英", "英", "中"]
    assert PackedView(shards, 100)(5, 3).tolist() == [5] * 101


def test_a_shard_that_does_not_say_its_source_is_asked_for_its_documents(tmp_path: Path) -> None:
    _, folder = local(tmp_path)
    path = folder / "train-001-f1.tokens.parquet"
    table = pq.read_table(path)
    meta = table.schema.metadata[b"llmyard.shard"].replace(b'"source": "\\u82f1"', b'"old": 1')
    assert b"source" not in meta
    pq.write_table(table.replace_schema_metadata({b"llmyard.shard": meta}), path)
    assert Shard(path).source == "英"


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["train-0"]}), tmp_path / "other")
    for data in (b"", b"PAR1", (tmp_path / "other").read_bytes()):
        with pytest.raises(CorruptArtifact, match="x is no index of shards"):
            shard_index.from_parquet(data, "x")


def test_an_index_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_index, "FORMAT_VERSION", 9)
    newer = shard_index.to_parquet([ShardFacts("train-0", "train", "s", 1, 1, 1, "<u2", False)])
    monkeypatch.undo()
    with pytest.raises(LlmyardError, match="has format 9, this llmyard reads 1"):
        shard_index.from_parquet(newer, "x")


def test_a_remote_corpus_larger_than_the_cache_is_read_through_it(remote: Artifact, tmp_path: Path) -> None:
    view = PackedView(ShardSet.of(remote, "train"), 100)
    assert set(Remote.opened) == {shard_index.FILE}  # the rows are known without a shard
    order = DataOrder(view.rows, 1, window=400, segment=100)
    limit = 4 * (FILE_BYTES + 4000)
    for sample in range(order.samples_per_epoch):
        place = order[sample]
        assert view(place.shard, place.row).tolist() == [place.shard] * 101
        assert cached(tmp_path) <= limit
    assert {f"train-{number:03d}-f1.tokens.parquet" for number in range(SHARDS)} <= set(Remote.opened)


def test_other_views_need_their_documents_too(remote: Artifact, tmp_path: Path) -> None:
    shards = ShardSet.of(remote, "train")
    assert ConcatenatedView(shards, 1500)(4, 1).starts.tolist() == [0, 500, 1500]
    assert ExampleView(shards)(3, 7).tokens.tolist() == [3] * (TOKENS // 20)
    assert BestFitView(shards, 1999).fill_rate == 1.0
    assert cached(tmp_path) <= 4 * (FILE_BYTES + 4000)


def test_a_missing_remote_shard_is_named(remote: Artifact, tmp_path: Path) -> None:
    (tmp_path / "there" / remote.folder / "train-002-f1.tokens.parquet").unlink()
    with pytest.raises(CorruptArtifact, match=r"train-002-f1\.tokens\.parquet is missing"):
        PackedView(ShardSet.of(remote, "train"), 100)(2, 0)


def test_the_next_shards_are_there_before_they_are_read(
    remote: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMYARD_CACHE_BYTES", str(3 * HELD_SHARE * (FILE_BYTES + 4000)))  # three may be held
    shards = ShardSet.of(remote, "train")
    view = PackedView(shards, 100)
    order = DataOrder(view.rows, 1, window=200, segment=200)  # a shard after the other
    wrapped = PrefetchingOrder(order, shards)
    assert wrapped.samples_per_epoch == order.samples_per_epoch
    assert wrapped[0] == order[0]
    ahead = order.shards_ahead(0, order.samples_per_epoch)
    names = [f"train-{number:03d}-f1.tokens.parquet" for number in ahead]
    for _ in range(100):
        if set(names[:3]) <= set(Remote.opened):
            break
        time.sleep(0.05)
    time.sleep(0.2)
    assert set(Remote.opened) == {shard_index.FILE, *names[:3]}
    for number in ahead[:3]:
        view(number, 0)
    assert max(Remote.opened.values()) == 1


def test_local_shards_are_not_prefetched(tmp_path: Path) -> None:
    artifact, _ = local(tmp_path)
    order = DataOrder([5], 1)
    assert prefetching(order, ShardSet.of(artifact, "train")) is order


def test_an_error_of_the_background_is_met_by_the_reader(remote: Artifact, tmp_path: Path) -> None:
    for file in (tmp_path / "there" / remote.folder).glob("train-*.tokens.parquet"):
        file.write_bytes(b"damaged")
    shards = ShardSet.of(remote, "train")
    order = prefetching(DataOrder(PackedView(shards, 100).rows, 1), shards)
    place = order[0]
    with pytest.raises(CorruptArtifact, match="does not match its checksum"):
        PackedView(shards, 100)(place.shard, place.row)


def test_threads_read_side_by_side(remote: Artifact) -> None:
    view = PackedView(ShardSet.of(remote, "train"), 100)

    def read(seed: int) -> bool:
        numbers = np.random.default_rng(seed).integers(0, SHARDS, 150).tolist()
        return all(view(number, 3).tolist() == [number] * 101 for number in numbers)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_stored as t
from pathlib import Path
artifact = t.ArtifactStore(t.Remote(sys.argv[2])).get("corpus")
shards = t.ShardSet.of(artifact, "train")
view = t.PackedView(shards, 100)
order = t.prefetching(t.DataOrder(view.rows, int(sys.argv[3]), window=400, segment=100), shards)
for sample in range(order.samples_per_epoch):
    place = order[sample]
    assert view(place.shard, place.row).tolist() == [place.shard] * 101
print("read", sample)
"""


def test_two_processes_share_a_cache_smaller_than_the_corpus(remote: Artifact, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    arguments = [str(Path(__file__).parent), str(tmp_path / "there")]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, *arguments, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert all(output.startswith("read") for output in outputs)
    assert cached(tmp_path) <= 4 * (FILE_BYTES + 4000)
