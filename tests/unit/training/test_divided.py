"""Models divided among workers learn as whole ones do, and checkpoints fit any number of workers."""

from __future__ import annotations

import json
import multiprocessing
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)
PATIENCE = 240.0


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    """A server of processes that have torch loaded already."""
    sys.path.insert(0, HERE)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["divided", "torch.distributed.fsdp", "torch.distributed.pipelining"])
    yield context
    sys.path.remove(HERE)


@pytest.fixture
def folder(tmp_path: Path, started: Any) -> Path:
    import divided

    (tmp_path / "shards").mkdir()
    divided.make_shards(tmp_path / "shards")
    return tmp_path


@pytest.fixture
def workers(started: Any) -> Callable[..., list[dict[str, Any]]]:
    """Runs the workers of one training and returns what each saw, by rank."""
    import divided

    def run(folder: Path, world: int, until: int = 50, **fields: Any) -> list[dict[str, Any]]:
        name = uuid.uuid4().hex
        answers = [folder / f"{name}-{rank}.json" for rank in range(world)]
        processes = [
            started.Process(
                target=divided.work,
                args=(str(folder), rank, world, dict(fields), until, str(folder / name), str(answers[rank])),
            )
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0] * world
        return [json.loads(answer.read_text()) for answer in answers]

    return run


def fresh(folder: Path, name: str) -> Path:
    """Returns another place with the same data."""
    place = folder / name
    place.mkdir()
    (place / "shards").symlink_to(folder / "shards")
    return place


def close(one: dict[str, float], other: dict[str, float]) -> bool:
    assert one.keys() == other.keys()
    return max(abs(one[step] - other[step]) for step in one) < 1e-4


@pytest.mark.parametrize(
    ("family", "parallel"),
    [
        ("llama", {"tensor": 2}), ("gpt2", {"pipeline": 2}), ("llama", {"pipeline": 2}), ("llama", {"shard": 2}),
        ("gpt2", {"shard": 2}),
    ],
)  # fmt: skip
def test_two_workers_match_one_over_fifty_steps(
    folder: Path, workers: Any, family: str, parallel: dict[str, int]
) -> None:
    (one,) = workers(fresh(folder, "one"), 1, family=family)
    both = workers(fresh(folder, "two"), 2, family=family, parallel=parallel)
    assert len(one["losses"]) == 50
    assert close(both[0]["losses"], one["losses"])
    assert close(both[0]["norms"], one["norms"])
    if "pipeline" not in parallel:
        assert both[0]["held"] == pytest.approx(one["held"], abs=1e-4)
    # Saved by two, read by one: nothing is left to train, and the weights are those of the end.
    (again,) = workers(folder / "two", 1, family=family)
    assert again["losses"] == {}
    assert again["held"] == pytest.approx(one["held"], abs=1e-4)


@pytest.mark.parametrize("parallel", [{}, {"shard": 2}])
def test_a_run_resized_from_one_to_two_to_one_reads_every_sample_once(
    folder: Path, workers: Any, parallel: dict[str, int]
) -> None:
    (whole,) = workers(fresh(folder, "whole"), 1)
    place = fresh(folder, "resized")
    (first,) = workers(place, 1, until=17)
    second = workers(place, 2, until=33, parallel=parallel)
    (third,) = workers(place, 1)
    losses = {**first["losses"], **second[0]["losses"], **third["losses"]}
    assert sum(len(each["losses"]) for each in (first, second[0], third)) == 50
    assert close(losses, whole["losses"])
    # One step is read ahead of each stop.
    read = [first["given"][: 17 * 4], *[each["given"][: 16 * 2] for each in second], third["given"]]
    assert sorted(number for part in read for number in part) == list(range(50 * 4))


def test_fewer_micro_batches_than_workers_leave_some_idle_but_change_nothing(folder: Path, workers: Any) -> None:
    batch = {"size": 4, "micro_batch": 4}
    (one,) = workers(fresh(folder, "one"), 1, batch=batch)
    elastic = {"workers": {"min": 1, "max": 2}}
    two = workers(fresh(folder, "two"), 2, batch=batch, resources=elastic)
    assert two[1]["given"] == []
    assert close(two[0]["losses"], one["losses"])
