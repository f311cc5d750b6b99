"""The spool keeps every line once, whatever is killed, truncated or restored in between."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core import spool as spool_module
from llmyard.core.errors import Busy, DataError
from llmyard.core.spool import Spool
from llmyard.core.tracking import Line, NullTracker, Tracker, metric_key


def steps(spool: Spool) -> list[int]:
    spool.flush()
    return [line.step for line in spool.read(limit=1 << 40)[0]]


def test_reads_back_what_was_appended_also_in_another_script_and_not_finite(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(1, {"损失": 0.5, "n": math.nan, "i": -math.inf}, timestamp_ms=7)
    spool.flush()
    (line,), behind = spool.read()
    assert (line.step, line.timestamp_ms, line.metrics["损失"], line.metrics["i"]) == (1, 7, 0.5, -math.inf)
    assert math.isnan(line.metrics["n"])
    spool.acknowledge(behind)
    assert spool.is_empty()
    assert spool.remove()
    assert not tmp_path.exists()


def test_the_caller_may_reuse_its_dict_and_a_bad_value_costs_only_itself(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    metrics: dict[str, float] = {"loss": 1.0}
    spool.append(1, metrics)
    metrics["loss"] = 2.0
    spool.append(2, {"loss": 2.0, "bad": "x"})  # type: ignore[dict-item]
    spool.flush()
    assert [line.metrics for line in spool.read()[0]] == [{"loss": 1.0}, {"loss": 2.0}]
    spool.close()


def test_a_batch_holds_at_most_limit_metrics_but_never_splits_a_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for step in range(4):
        spool.append(step, {"a": 1.0, "b": 2.0, "c": 3.0})
    spool.flush()
    first, behind = spool.read(limit=7)
    assert [line.step for line in first] == [0, 1]
    assert [line.step for line in spool.read(behind, limit=1)[0]] == [2]
    spool.close()


def test_a_torn_last_line_is_cut_and_writing_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(1, {"loss": 1.0})
    spool.close()
    (segment,) = tmp_path.glob("0*.jsonl")
    segment.write_bytes(segment.read_bytes() + b'[2,17,{"lo')
    spool = Spool(tmp_path)
    spool.append(3, {"loss": 3.0})
    assert steps(spool) == [1, 3]
    spool.close()


def test_truncation_spares_what_a_send_has_seen_and_machine_metrics(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for step in range(1, 11):
        spool.append(step, {"loss": 1.0})
    spool.append(99, {"system/cpu": 1.0})
    spool.flush()
    _, behind = spool.read(limit=7)
    spool.attempt(behind)  # steps 1..7 may be in MLflow already
    spool.truncate_after(5)
    assert steps(spool) == [1, 2, 3, 4, 5, 6, 7, 99]
    spool.close()
    spool = Spool(tmp_path)  # the marker is on disk
    spool.append(6, {"loss": 2.0})
    assert steps(spool) == [1, 2, 3, 4, 5, 6, 7, 99, 6]
    spool.close()


def test_unsent_lines_travel_to_another_machine_and_merge_without_duplicates(tmp_path: Path) -> None:
    here, there = Spool(tmp_path / "a"), Spool(tmp_path / "b")
    for step in range(5):
        here.append(step, {"loss": float(step)})
    here.flush()
    here.acknowledge(here.read(limit=2)[1])
    state = here.unsent()
    assert there.restore(state) == 3
    assert there.restore(state) == 0
    assert here.restore(state) == 0
    assert steps(there) == [2, 3, 4]
    assert there.read()[0] == here.read()[0]  # timestamps too: to MLflow they are the same rows
    with pytest.raises(DataError):
        there.restore(b"not a state")
    here.close()
    there.close()


def test_acknowledged_segments_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 500)
    spool = Spool(tmp_path)
    for step in range(200):
        spool.append(step, {"loss": 1.0})
        if step % 10 == 0:
            spool.flush()
    assert steps(spool) == list(range(200))
    assert len(list(tmp_path.glob("0*.jsonl"))) > 5
    spool.acknowledge(spool.read(limit=150)[1])
    assert len(list(tmp_path.glob("0*.jsonl"))) < 6
    spool.close()
    spool = Spool(tmp_path)
    assert steps(spool) == list(range(150, 200))
    spool.close()


def test_a_refused_batch_is_set_aside_and_keeps_the_directory(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(1, {"loss": 1.0})
    spool.flush()
    lines, behind = spool.read()
    spool.reject(lines, behind, "deleted run")
    assert spool.is_empty()
    assert not spool.remove()
    reason, line = (json.loads(text) for text in (tmp_path / "rejected.jsonl").read_text().splitlines())
    assert reason == {"reason": "deleted run"}
    assert line[0] == 1


def test_a_directory_has_one_spool_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from llmyard.core.spool import Spool; s = Spool(sys.argv[1]); s.append(1, {'a': 1.0}); s.flush(); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(Busy):
            Spool(tmp_path, wait_seconds=0.2)
        other.kill()  # a dead holder holds nothing, and what it flushed is there
        other.wait()
    spool = Spool(tmp_path)
    assert steps(spool) == [1]
    with pytest.raises(Busy):
        Spool(tmp_path, wait_seconds=0.2)
    spool.close()


def test_a_full_disk_keeps_lines_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    write, full = os.write, True

    def flaky(handle: int, text: bytes) -> int:
        if full and handle == spool._file:
            write(handle, bytes(text)[:5])  # a part of it still fitted
            raise OSError(28, "no space left on device")
        return write(handle, text)

    monkeypatch.setattr(os, "write", flaky)
    spool.append(1, {"loss": 1.0})
    assert not spool.flush(timeout=0.5)
    full = False
    spool.append(2, {"loss": 2.0})
    assert steps(spool) == [1, 2]
    spool.close()


OPERATIONS = st.lists(
    st.sampled_from(["step", "step", "step", "save", "send", "unanswered", "kill", "move", "tear"]), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS)
def test_every_step_reaches_the_store_once_over_any_interleaving(operations: list[str]) -> None:
    """A model of the whole path: a loop with checkpoints, a sender that stops anywhere, a store with marks."""
    root = Path(tempfile.mkdtemp())
    try:
        rows, mark = _play(root, operations)
    finally:
        shutil.rmtree(root)
    assert sorted(step for step, _ in rows) == list(range(1, mark + 1))


def _play(root: Path, operations: list[str]) -> tuple[set[tuple[int, int]], int]:
    store: set[tuple[int, int]] = set()  # (step, timestamp): MLflow's key, which makes an exact repeat harmless
    clock = machine = step = 0
    saved: tuple[int, bytes] = (0, b"")

    def fresh(lines: list[Line]) -> set[tuple[int, int]]:
        highest = max((done for done, _ in store), default=0)
        return {(line.step, line.timestamp_ms) for line in lines if line.step > highest}

    spool = Spool(root / "0")
    for operation in operations:
        if operation == "step":
            step, clock = step + 1, clock + 1
            spool.append(step, {"loss": 1.0}, timestamp_ms=clock)
        elif operation == "save":
            saved = (step, spool.unsent())
        elif operation in ("send", "unanswered"):  # unanswered: the store took it, and the sender never learnt
            spool.flush()
            lines, behind = spool.read(limit=3)
            spool.attempt(behind)
            store |= fresh(lines)
            if operation == "send":
                spool.acknowledge(behind)
        else:
            spool.close()
            if operation == "tear":
                with open(sorted((root / str(machine)).glob("0*.jsonl"))[-1], "ab") as file:
                    file.write(b'[9,9,{"l')
            machine += operation == "move"
            spool = Spool(root / str(machine))
            spool.truncate_after(saved[0])
            spool.restore(saved[1])
            step = saved[0]
    spool.flush()
    while lines := spool.read(limit=3)[0]:
        store |= fresh(lines)
        spool.acknowledge(spool.read(limit=3)[1])
    spool.close()
    return store, max([step, *(done for done, _ in store)])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("loss", "loss"),
        ("验证/损失", "验证/损失"),
        ("a(b)", "a_b_"),
        ("/x//y/../z", "x/y/z"),
        ("..", "_"),
        ("k" * 300, "k" * 250),
    ],
)
def test_metric_names_become_what_mlflow_accepts(name: str, key: str) -> None:
    assert metric_key(name) == key


def test_the_null_tracker_is_a_tracker() -> None:
    tracker: Tracker = NullTracker()
    tracker.resume(0)
    tracker.log(1, {"loss": 1.0})
    assert tracker.checkpoint_state() == b""
    tracker.close()
