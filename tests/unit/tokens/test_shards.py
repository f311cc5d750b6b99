"""Shards: what was written is read back, by us and by any Parquet reader, and damage is noticed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import CorruptArtifact, DataError, LlmyardError
from llmyard.core.storage import Storage
from llmyard.tokens import shards as module
from llmyard.tokens.shards import MAX_GROUP_ROWS, Shard, ShardSet, ShardWriter, token_dtype

U2, U4 = np.dtype("<u2"), np.dtype("<u4")


def write(
    folder: Path,
    lengths: list[int],
    block: int = 16,
    dtype: np.dtype[Any] = U2,
    labels: bool = False,
    name: str = "train-0",
) -> tuple[Path, np.ndarray[Any, Any]]:
    """Writes documents of these lengths; returns the shard's path and all ids."""
    writer = ShardWriter(folder, name, dtype, block, with_labels=labels)
    ids = np.random.default_rng(sum(lengths)).integers(0, np.iinfo(dtype).max, sum(lengths)).astype(dtype)
    at = 0
    for number, length in enumerate(lengths):
        part = ids[at : at + length]
        writer.add(part, document=f"文件{number}", source="s", labels=[number % 9] * length if labels else None)
        at += length
    receipts = writer.close()
    assert [receipt.size for receipt in receipts] == [(folder / receipt.path).stat().st_size for receipt in receipts]
    return folder / f"{name}.tokens.parquet", ids


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), max_size=20),
    block=st.sampled_from([1, 2, 16, 17, 64]),
    dtype=st.sampled_from([U2, U4]),
    labels=st.booleans(),
)
def test_any_shard_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], block: int, dtype: np.dtype[Any], labels: bool
) -> None:
    path, ids = write(tmp_path_factory.mktemp("s"), lengths, block, dtype, labels)
    shard = Shard(path)
    assert (shard.tokens, shard.document_count, shard.dtype) == (len(ids), len(lengths), dtype)
    assert np.array_equal(shard.read(0, shard.tokens), ids)
    assert np.array_equal(shard.blocks().reshape(-1)[: len(ids)], ids)
    starts = np.cumsum([0, *lengths])
    assert shard.documents["start"].to_pylist() == starts[:-1].tolist()
    for number, length in enumerate(lengths):
        assert np.array_equal(shard.read(int(starts[number]), length), ids[starts[number] : starts[number + 1]])
        if labels:
            assert shard.read(int(starts[number]), length, "labels").tolist() == [number % 9] * length


@pytest.mark.parametrize("rows", [MAX_GROUP_ROWS - 1, MAX_GROUP_ROWS, MAX_GROUP_ROWS + 1, 2 * MAX_GROUP_ROWS + 3])
@pytest.mark.parametrize("labels", [False, True])
def test_several_row_groups_are_read_as_one_stream(tmp_path: Path, rows: int, labels: bool) -> None:
    block = 8
    path, ids = write(tmp_path, [rows * block - 3], block, U2, labels)
    shard = Shard(path)
    assert pq.ParquetFile(path).metadata.num_row_groups == -(-rows // MAX_GROUP_ROWS)
    assert np.array_equal(shard.blocks().reshape(-1)[: len(ids)], ids)
    edge = MAX_GROUP_ROWS * block
    for start in {0, min(edge - 5, len(ids) - 12), len(ids) - 12}:
        assert np.array_equal(shard.read(start, 12), ids[start : start + 12])
    with pytest.raises(IndexError):
        shard.read(rows * block - 1, 2)


def test_a_row_group_stays_below_a_pages_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 4096)
    path, ids = write(tmp_path, [5000, 77], block=64)
    assert pq.ParquetFile(path).metadata.row_group(0).num_rows == 4096 // 128
    shard = Shard(path)
    assert np.array_equal(shard.read(0, len(ids)), ids)
    assert np.array_equal(shard.read(2040, 30), ids[2040:2070])


def test_any_parquet_reader_opens_a_shard(tmp_path: Path) -> None:
    path, ids = write(tmp_path, [100, 60], block=32, labels=True)
    table = pq.read_table(path)
    assert table.column_names == ["tokens", "labels"]
    joined = b"".join(table["tokens"].to_pylist())
    assert np.array_equal(np.frombuffer(joined, U2)[: len(ids)], ids)
    documents = pq.read_table(tmp_path / "train-0.documents.parquet").to_pylist()
    assert [row["id"] for row in documents] == ["文件0", "文件1"]
    assert [row["length"] for row in documents] == [100, 60]


def test_pairs_and_targets_stand_beside_their_document(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train-0", U2, 16)
    writer.add([1, 2, 3], document="a", source="s", target_start=1, pairs=[0, 1, 2])
    writer.add([4], document="b", source="t")
    writer.close()
    rows = Shard(tmp_path / "train-0.tokens.parquet").documents.to_pylist()
    assert [(row["target_start"], row["pairs"], row["source"]) for row in rows] == [(1, [0, 1, 2], "s"), (0, [], "t")]


def test_an_id_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        ShardWriter(tmp_path, "train-0", U2, 16).add([70_000], document="a", source="s")
    with pytest.raises(OverflowError):
        ShardWriter(tmp_path, "train-0", U2, 16).add(np.array([70_000]), document="a", source="s")


def test_the_narrowest_type_that_fits_is_chosen() -> None:
    assert [token_dtype(size) for size in (300, 65_536, 65_537)] == [U2, U2, U4]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_shard_is_refused(tmp_path: Path, kept: float) -> None:
    path, _ = write(tmp_path, [5000], 64)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CorruptArtifact, match="make the shards again"):
        Shard(path)


def test_a_flipped_byte_anywhere_is_found_through_the_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    with store.begin("shards", "corpus", "f" * 64) as draft:
        path, _ = write(draft.storage.local(draft.folder), [300, 200], 64)
        artifact = draft.commit(config={}, parents=[], metrics={})
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtifact):
            ShardSet.of(artifact, "train")
        # Without the checksum, an altered footer is an error of ours or goes unnoticed; nothing else may come out.
        with contextlib.suppress(LlmyardError, IndexError):
            shard = Shard(path)
            shard.read(0, shard.tokens)
    path.write_bytes(whole)


def test_an_unknown_shard_format_is_refused(tmp_path: Path) -> None:
    path, _ = write(tmp_path, [20])
    table = pq.read_table(path)
    meta = {**json.loads(table.schema.metadata[b"llmyard.shard"]), "format_version": 9}
    pq.write_table(table.replace_schema_metadata({b"llmyard.shard": json.dumps(meta)}), path)
    with pytest.raises(LlmyardError, match="shard format 9, this llmyard reads 1"):
        Shard(path)


@pytest.mark.parametrize("meta", [None, b"{", b"[]", b'{"format_version": 1}'])
def test_a_parquet_file_that_is_no_shard_is_refused(tmp_path: Path, meta: bytes | None) -> None:
    table = pa.table({"tokens": [1]}).replace_schema_metadata({b"llmyard.shard": meta} if meta else None)
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(CorruptArtifact, match="is not a shard"):
        Shard(tmp_path / "x.parquet")


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail_second)
    writer = ShardWriter(tmp_path, "train-0", U2, 16)
    writer.add([1, 2, 3], document="a", source="s")
    with pytest.raises(LlmyardError, match="No space left") as caught:
        writer.close()
    assert "disk space" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_split_takes_only_the_files_of_its_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    with store.begin("shards", "corpus", "f" * 64) as draft:
        folder = draft.storage.local(draft.folder)
        write(folder, [100], name="train-0-f2")
        artifact = draft.commit(config={}, parents=[], metrics={})
    write(folder, [100], name="train-0-f1")  # a run that was thought dead writes late
    (folder / "train-1-f1.tokens.parquet").write_bytes(b"torn")
    assert ShardSet.of(artifact, "train").tokens == 100
    with pytest.raises(DataError, match="no shards of split 'test'"):
        ShardSet.of(artifact, "test")
