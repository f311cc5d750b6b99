"""Programs of other makers as stages: what they are given, what they leave, how they end."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from llmyard.core.errors import DataError, Pruned, RequestError
from llmyard.core.storage import Storage
from llmyard.stages.command import ProgramWork, run_program, sources
from llmyard.stages.command_config import Command

WRITE = """
import json, sys
out, rate = sys.argv[1], float(sys.argv[2])
for step in (1, 2):
    print(json.dumps({"step": step, "loss": rate / step}), file=open(out + "/reports.jsonl", "a"), flush=True)
json.dump({"loss": rate}, open(out + "/metrics.json", "w"))
open(out + "/模型.txt", "w", encoding="utf-8").write("好")
print("done")
"""


class Trial:
    """Notes what it is told; ends at a step."""

    def __init__(self, last: int = 0) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.last, self.ended = last, ""

    def report(self, step: int, metrics: dict[str, float]) -> None:
        self.seen.append((step, metrics))
        if step == self.last:
            self.ended = "others did better"


def work(tmp_path: Path, code: str, trial: Any = None, **fields: Any) -> ProgramWork:
    config = Command.model_validate({
        "kind": "command", "output": "out", "command": [sys.executable, "-c", code, "{output}", "{rate}"],
        "arguments": {"rate": 0.5}, **fields,
    })  # fmt: skip
    return ProgramWork(config, Storage(str(tmp_path)), "files/out/1", {}, trial)


def test_what_a_program_leaves_is_the_artifact(tmp_path: Path) -> None:
    trial = Trial()
    assert run_program(work(tmp_path, WRITE, trial)) == {"loss": 0.5}
    assert trial.seen == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]
    left = {each.name: each.read_text(encoding="utf-8") for each in (tmp_path / "files/out/1").iterdir()}
    assert set(left) == {"metrics.json", "reports.jsonl", "模型.txt", "log.txt"}
    assert left["log.txt"] == "done\n"
    assert json.loads(left["metrics.json"]) == {"loss": 0.5}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('no data'); sys.exit(3)", "ended with code 3: no data"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal 9: it said nothing"),
        ("open(__import__('sys').argv[1] + '/metrics.json', 'w').write('[1]')", "no JSON object of numbers"),
    ],
)
def test_a_program_that_fails_says_how(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        run_program(work(tmp_path, code))


def test_a_program_that_does_not_exist_or_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be run"):
        run_program(work(tmp_path, "", command=["/nowhere/program"]))
    with pytest.raises(DataError, match=r"still ran after 0\.2 s"):
        run_program(work(tmp_path, "import time; time.sleep(60)", timeout_seconds=0.2))


def test_a_trial_that_others_leave_behind_ends_its_program_and_what_that_started(tmp_path: Path) -> None:
    code = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
for step in range(1, 100):
    line = json.dumps({"step": step, "child": child.pid, "loss": 1})
    print(line, file=open(sys.argv[1] + "/reports.jsonl", "a"), flush=True)
    time.sleep(0.05)
"""
    trial = Trial(last=2)
    with pytest.raises(Pruned, match="others did better"):
        run_program(work(tmp_path, code, trial))
    assert len(trial.seen) < 50
    child = int(trial.seen[0][1]["child"])
    give_up = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie" and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_no_shell_reads_the_command_and_variables_are_set(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[1] + '/x', 'w').write(os.environ['GREETING'] + sys.argv[2])"
    run_program(work(tmp_path, code, arguments={"rate": "$(touch bad); a b"}, environment={"GREETING": "你好 "}))
    assert (tmp_path / "files/out/1/x").read_text(encoding="utf-8") == "你好 $(touch bad); a b"
    assert not os.path.exists("bad")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"command": ["train", "{lr}"]}, "{lr} is neither one of output, rate"),
        ({"takes": {"rate": "shards/x"}}, "'rate' is named twice"),
        ({"takes": {"corpus": "x"}}, "names no kind"),
        ({"arguments": {"output": 1, "rate": 2}}, "'output' is named twice"),
        ({"command": []}, "at least 1"),
    ],
)
def test_a_command_that_cannot_be_filled_in_is_refused(fields: dict[str, Any], said: str) -> None:
    given = {"kind": "command", "output": "out", "command": ["train", "{rate}"], "arguments": {"rate": 1}, **fields}
    with pytest.raises(ValidationError, match=said):
        Command.model_validate(given)


def test_a_changed_script_runs_again(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("1")
    config = Command(output="out", command=("python", str(script)), reads=(str(script),))
    before = sources(config, {})
    script.write_text("2")
    assert sources(config, {}) != before
    with pytest.raises(RequestError, match="cannot be read"):
        sources(config.model_copy(update={"reads": (str(tmp_path / "absent"),)}), {})
