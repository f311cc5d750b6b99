"""The rounds of ``prepare`` without Ray: what they leave, and that the way they are divided does not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmyard.core.errors import CorruptArtifact
from llmyard.core.storage import Storage
from llmyard.sources.corpus import Unit
from llmyard.stages.prepare import PORTION_BYTES, portions_of
from llmyard.stages.preparing import duplicates
from llmyard.stages.preparing.duplicates import RANKS, find_groups
from llmyard.stages.preparing.scratch import Scratch

Row = dict[str, Any]


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(Storage(str(tmp_path)), "making")


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_after_the_other(units: Sequence[Row], work: Callable[[Row], Row]) -> Iterator[Row]:
        yield from (work(dict(unit)) for unit in reversed(units))

    monkeypatch.setattr("llmyard.runtime.datasets.map_units", one_after_the_other)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-(2**40), 2**40)), max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_each_part_of_an_array_is_read_alone(scratch: Scratch, rows: list[tuple[int, int]]) -> None:
    parts = np.array([part for part, _ in rows], np.int64)
    values = np.array([value for _, value in rows], np.int64)
    scratch.write_parts("file", {"value": values, "small": parts.astype(np.uint8)}, parts, 5)
    for part in range(5):
        found = scratch.read_part("file", part)
        assert found["value"].tolist() == [value for at, value in rows if at == part]
        assert found["small"].tolist() == [part] * len(found["value"])


def test_a_file_that_is_cut_short_is_not_read(scratch: Scratch) -> None:
    scratch.write_parts("file", {"value": np.arange(10)}, np.zeros(10, np.int64), 1)
    path = scratch.storage.local("making", "file")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact, match="cut short"):
        scratch.read_part("file", 0)


def keys_of(scratch: Scratch, shared: list[list[int]], partitions: int) -> list[dict[str, list[str]]]:
    """Writes key files; ``shared[portion][row]`` is a number n of which n and n + 1 are the document's keys."""
    files = []
    for portion, keys in enumerate(shared):
        rows = np.arange(len(keys), dtype=np.int32)
        given_ = np.array(keys, np.uint64)
        near = np.concatenate([given_, given_ + np.uint64(1)])
        part_of = (near % np.uint64(partitions)).astype(np.int64)
        scratch.write_parts(f"near-{portion}", {"keys": near, "rows": np.tile(rows, 2)}, part_of, partitions)
        files.append({"exact": [], "near": [f"near-{portion}"]})
    return files


SHARED = [[1, 9, 20], [2, 30], [3, 21, 4], [10, 40, 5]]  # chains 1-2-3-4-5, 9-10, 20-21


@pytest.mark.parametrize("pairs_of_a_task", [1000, 0], ids=["one task", "rounds"])
@pytest.mark.parametrize("partitions", [1, 3, 4])
def test_chains_keep_their_first_document(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, pairs_of_a_task: int, partitions: int
) -> None:
    monkeypatch.setattr(duplicates, "PAIRS_OF_A_TASK", pairs_of_a_task)
    *_, result = find_groups(scratch, keys_of(scratch, SHARED, partitions), partitions)
    parts = [scratch.gather(result["files"], part, RANKS) for part in range(partitions)]
    found = {
        (int(left >> 32), int(left & 0xFFFFFFFF)): (int(right >> 32), int(right & 0xFFFFFFFF))
        for part in parts
        for left, right in zip(part["left"], part["right"], strict=True)
    }
    first, second, third = (0, 0), (0, 1), (0, 2)
    wanted = {(1, 0): first, (2, 0): first, (2, 2): first, (3, 2): first, (3, 0): second, (2, 1): third}
    assert found == wanted
    assert result["dropped"] == len(wanted)
    assert result["largest"][0] == [0, 5]


def test_finished_work_is_not_done_again(scratch: Scratch) -> None:
    keys = keys_of(scratch, SHARED, 2)
    *_, before = find_groups(scratch, keys, 2)
    for portion in range(len(SHARED)):
        scratch.storage.delete(f"making/near-{portion}")
    *_, after = find_groups(scratch, keys, 2)
    assert after == before


def test_small_files_of_a_source_are_worked_on_together() -> None:
    sizes = {"a": 10, "b": PORTION_BYTES - 10, "c": 1, "d": 5}
    units = [Unit(0, name, 0, 0) for name in "abc"] + [Unit(1, "d", 0, 0), Unit(1, "d", 0, 3), Unit(1, "", 0, 9)]
    assert [[unit.path for unit in portion] for portion in portions_of(units, sizes)] == [
        ["a", "b"], ["c"], ["d"], ["d"], [""],
    ]  # fmt: skip
