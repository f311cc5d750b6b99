"""Checkpoints: only a whole one counts, the last two are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmyard.core.storage import Storage
from llmyard.training.checkpoint import Checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Storage(str(tmp_path)), "progress", fence=1)


def state(step: int) -> dict[str, Any]:
    return {
        "model": {"w": torch.full((300,), float(step))},
        "tracking": torch.arange(9, dtype=torch.uint8),
        "metrics": {"loss": 1.0 / step},
    }  # fmt: skip


def files(checkpoints: Checkpoints, ending: str = "") -> list[Path]:
    folder = checkpoints.storage.local(checkpoints.folder)
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def latest(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.latest()
    if found is None:
        return None
    step, content = found
    assert torch.equal(content["model"]["w"], torch.full((300,), float(step)))
    return step


def test_what_was_saved_is_read_back(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    checkpoints.save(5, state(5))
    found = checkpoints.latest()
    assert found is not None
    step, content = found
    assert step == 5
    assert content["metrics"] == {"loss": 0.2}
    assert content["tracking"].numpy().tobytes() == bytes(range(9))


def test_the_last_two_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 10, 99, 100, 1000):
        checkpoints.save(step, state(step))
    assert [path.name.partition("-")[0] for path in files(checkpoints)] == ["000000100"] * 2 + ["000001000"] * 2
    assert latest(checkpoints) == 1000


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "unmarked", "torn mark", "foreign mark"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(checkpoints: Checkpoints, damage: str) -> None:
    checkpoints.save(5, state(5))
    checkpoints.save(10, state(10))
    data, mark = files(checkpoints, ".pt")[-1], files(checkpoints, ".json")[-1]
    content = data.read_bytes()
    if damage == "cut":
        data.write_bytes(content[:-100])
    elif damage == "flip":
        data.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif damage == "empty":
        data.write_bytes(b"")
    elif damage == "gone":
        data.unlink()
    elif damage == "unmarked":
        mark.unlink()
    elif damage == "torn mark":
        mark.write_bytes(mark.read_bytes()[:20])
    else:
        mark.write_bytes(b"[]")
    assert latest(checkpoints) == 5
    checkpoints.save(10, state(10))
    assert latest(checkpoints) == 10


def test_when_none_is_whole_there_is_none(checkpoints: Checkpoints) -> None:
    for step in (5, 10):
        checkpoints.save(step, state(step))
    for path in files(checkpoints, ".pt"):
        path.write_bytes(b"")
    assert checkpoints.latest() is None


def test_a_newer_owner_overwrites_nothing_of_the_former(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, state(5))
    newer = Checkpoints(checkpoints.storage, checkpoints.folder, fence=2)
    newer.save(5, state(5))
    assert len(files(checkpoints, ".pt")) == 2
    assert latest(newer) == 5


def test_a_checkpoint_holds_no_code(checkpoints: Checkpoints) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (exec, ("raise SystemExit('ran')",))

    checkpoints.save(5, {"model": Evil()})
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoints.latest()
