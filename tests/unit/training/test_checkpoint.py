"""Checkpoints: only a whole one counts, the last ones and the best are kept, and no damage goes unseen."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llmyard.core.errors import LlmyardError
from llmyard.core.storage import Storage
from llmyard.training.checkpoint import Checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "progress"


def opened(folder: Path, fence: int = 1, keep: int = 2) -> Checkpoints:
    return Checkpoints(Storage(str(folder.parent)), folder.name, fence, keep=keep)


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {
        "model/w": torch.full((300,), float(step)), "optimizer/0/w/step": torch.tensor(float(step)),
        "memory/0/3/1": torch.full((2, 3), step, dtype=torch.bfloat16), "empty": torch.empty(0),
    }  # fmt: skip


def save(checkpoints: Checkpoints, step: int, is_best: bool = False) -> None:
    checkpoints.save(step, tensors(step), {"metrics": {"loss": 1.0 / step}}, is_best)
    checkpoints.wait()


def latest(checkpoints: Checkpoints, best: bool = False) -> int | None:
    found = checkpoints.latest(best)
    if found is None:
        return None
    wanted = tensors(found.step)
    assert found.shapes() == {name: (each.shape, each.dtype) for name, each in wanted.items()}
    read = {name: torch.zeros_like(each) for name, each in wanted.items()}
    found.read(read)
    assert all(torch.equal(read[name], each) for name, each in wanted.items())
    assert found.facts == {"metrics": {"loss": 1.0 / found.step}}
    return found.step


def parts(folder: Path) -> list[Path]:
    """Returns the data and mark of every checkpoint, oldest first."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_saved_is_read_back(folder: Path) -> None:
    checkpoints = opened(folder)
    assert checkpoints.latest() is None
    save(checkpoints, 5)
    assert latest(checkpoints) == 5
    assert latest(opened(folder)) == 5


def test_training_goes_on_while_a_copy_is_written(folder: Path) -> None:
    checkpoints, state = opened(folder), tensors(5)
    checkpoints.save(5, state, {"metrics": {"loss": 0.2}})
    state["model/w"].zero_()
    assert latest(checkpoints) == 5


def test_the_last_two_and_the_best_are_kept(folder: Path) -> None:
    checkpoints = opened(folder)
    for step in (5, 10, 99, 100, 1000):
        save(checkpoints, step, is_best=step in (5, 10))
    assert [path.name.partition("-")[0] for path in sorted(folder.iterdir()) if path.is_dir()] == [
        "000000010", "000000100", "000001000"
    ]  # fmt: skip
    assert latest(checkpoints) == 1000
    assert latest(checkpoints, best=True) == 10


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "unmarked", "torn mark", "foreign mark"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_with_a_warning(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = opened(folder)
    save(checkpoints, 5)
    save(checkpoints, 10)
    data, mark = (
        next(path for path in parts(folder)[::-1] if path.suffix == each) for each in (".safetensors", ".json")
    )
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
    assert ("does not match its checksums" in caplog.text) == (damage != "unmarked")
    save(checkpoints, 10)
    assert latest(checkpoints) == 10


def test_a_thousand_mutations_are_all_seen(folder: Path, tmp_path: Path) -> None:
    """Bits flipped, files cut, pages zeroed, files missing: in data and in marks."""
    save(opened(folder), 7)
    files, rng = parts(folder), random.Random(0)
    for number in range(1000):
        target = rng.choice(files)
        content = bytearray(target.read_bytes())
        at = rng.randrange(len(content))
        match number % 4:
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at:]
            case 2:
                page = slice(at, min(len(content), at + 64))
                blank = bytes(len(content[page]))
                content[page] = blank if content[page] != blank else b"\1" * len(blank)
        kept = target.read_bytes()
        if number % 4 == 3:
            target.unlink()
        else:
            target.write_bytes(content)
        assert opened(folder).latest() is None, (number, target.name, at)
        target.write_bytes(kept)
    assert latest(opened(folder)) == 7


def test_leftovers_without_a_mark_are_removed(folder: Path) -> None:
    checkpoints = opened(folder)
    save(checkpoints, 5)
    orphan = folder / "000000009-f1-abc"
    shutil.copytree(next(path for path in folder.iterdir() if path.is_dir()), orphan)
    opened(folder, fence=2).collect()
    assert not orphan.exists()
    assert latest(checkpoints) == 5


def test_a_newer_owner_overwrites_nothing_of_the_former(folder: Path) -> None:
    save(opened(folder), 5)
    newer = opened(folder, fence=2)
    save(newer, 5)
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    assert latest(newer) == 5


def test_a_full_disk_is_told_at_the_next_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = opened(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_files_from_queue", full)
    checkpoints.save(5, tensors(5), {})
    with pytest.raises(LlmyardError, match="No space left") as caught:
        checkpoints.save(10, tensors(10), {})
    assert "free some disk space" in caught.value.remedy
    monkeypatch.undo()
    assert checkpoints.latest() is None


def test_remote_storage_is_read_by_way_of_a_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    storage = Storage(str(folder.parent))
    storage.is_local = False
    monkeypatch.setattr(Storage, "_opened", (fs.LocalFileSystem(), str(folder.parent)))
    storage.makedirs("progress/x")
    checkpoints = Checkpoints(storage, "progress", 1)
    monkeypatch.setattr(Storage, "copy_in", lambda self, file, path: _put(folder.parent / path, file))
    monkeypatch.setattr(Storage, "write", lambda self, path, data: (folder.parent / path).write_bytes(data))
    save(checkpoints, 5)
    assert latest(checkpoints) == 5


def _put(target: Path, file: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)
