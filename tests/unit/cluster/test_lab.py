"""What is noted of the lab: written whole, read back, refused where it is broken, and whose process keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from definition import ROOT

sys.path.insert(0, str(ROOT / "cluster"))

import lab_record
from lab import DRAINED, STARTING, UP, Lab, LabError, Node
from lab_record import ENDING, Record

KEPT = {"prefix": "ly12ab", "count": 2, "cpus": 1, "phase": UP, "keeper": 1, "since": 1,
        "nodes": [["node0", 1, 77, UP]]}  # fmt: skip


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the lab is noted."""
    path = tmp_path / "lab.json"
    monkeypatch.setattr(lab_record, "STATE", path)
    return path


@pytest.fixture
def ended() -> Iterator[subprocess.Popen[str]]:
    """A process that lives until its input ends."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True)
    yield process
    process.communicate()


def test_what_is_noted_is_read_back() -> None:
    nodes = {"node0": Node("node0", 1, 77, UP), "node1": Node("node1", 2, 78, DRAINED)}
    Record.mine(Lab(3, 2, "ly12ab", nodes), STARTING).write()
    found = Record.read()
    assert found is not None
    assert (found.lab.count, found.lab.cpus, found.lab.prefix, found.phase) == (3, 2, "ly12ab", STARTING)
    assert found.lab.nodes == nodes
    assert found.is_kept()
    Record.forget()
    assert Record.read() is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "JSONDecodeError"),
        ('{"prefix": "ly12ab"', "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'nodes'"),
        (json.dumps(KEPT | {"nodes": [["node0", 1, 77]]}), "not enough values"),
        (json.dumps(KEPT | {"prefix": "../../home/x"}), "no lab has the prefix '../../home/x'"),
        (json.dumps(KEPT | {"phase": "odd"}), "no lab has the phase 'odd'"),
        (json.dumps(KEPT | {"keeper": None}), "TypeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
    ],
)
def test_a_record_that_tells_no_lab_is_an_error_with_a_remedy(state: Path, text: str | bytes, told: str) -> None:
    state.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(LabError, match="does not tell what lab there is") as caught:
        Record.read()
    assert told in caught.value.what
    assert str(state) in caught.value.what
    assert f"rm -r {state}" in caught.value.remedy
    assert caught.value.code == 1


def test_a_record_that_cannot_be_opened_is_an_error_with_a_remedy(state: Path) -> None:
    state.mkdir()
    with pytest.raises(LabError, match="IsADirectoryError"):
        Record.read()


def test_a_keeper_lives_until_it_ends_and_another_process_of_its_id_is_none(ended: subprocess.Popen[str]) -> None:
    since = lab_record.started_at(ended.pid)
    assert since is not None
    lab = Lab(1)
    assert Record(lab, UP, ended.pid, since).is_kept()
    assert not Record(lab, UP, ended.pid, since - 1).is_kept()
    assert ended.stdin is not None
    ended.stdin.close()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how: a zombie
    assert not Record(lab, UP, ended.pid, since).is_kept()
    ended.wait()
    assert not Record(lab, UP, ended.pid, since).is_kept()


def test_nothing_is_done_to_a_lab_that_is_none_or_ends() -> None:
    with pytest.raises(LabError, match="no lab runs on this machine") as caught, lab_record.changing():
        pass
    assert caught.value.code == 2
    Record.mine(Lab(1), ENDING).write()
    with pytest.raises(LabError, match="is being removed by process") as caught, lab_record.changing():
        pass
    assert caught.value.code == 2


def test_two_that_add_at_once_take_two_numbers() -> None:
    Record.mine(Lab(1), UP).write()
    start = threading.Barrier(8)

    def add() -> None:
        start.wait()
        for _ in range(5):
            with lab_record.changing() as record:
                number = len(record.lab.nodes)
                record.lab.nodes[f"node{number}"] = Node(f"node{number}", number + 1)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Record.read()
    assert found is not None
    assert [node.number for node in found.lab.nodes.values()] == list(range(1, 41))


@pytest.mark.parametrize("words", [["status"], ["down"], ["add"], ["kill", "node1"], ["exec", "client", "true"]])
def test_without_a_lab_commands_are_refused_in_one_sentence(state: Path, words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "cluster" / "lab_command.py"), *words]
    done = subprocess.run(
        command, env=os.environ | {"LLMYARD_LAB_STATE": str(state)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done
    why = "no lab runs on this machine" if os.geteuid() == 0 else "a lab needs root on Linux"
    assert done.stderr.startswith(f"error: {why}")
    assert done.stderr.splitlines()[1].startswith("  remedy: ")
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 2)
