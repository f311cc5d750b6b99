"""`runs resume` on this machine: the job of a run that failed, by the run's id alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage

pytestmark = pytest.mark.integration

FAILS_WITHOUT = "import pathlib, sys; sys.exit(0 if pathlib.Path(sys.argv[1]).exists() else 5)"


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def test_the_job_of_a_failed_run_goes_on_from_anywhere(
    shared_ray: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.json = shell.debug = False
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    needed = tmp_path / "here" / "需要.txt"
    (tmp_path / "here" / "note.txt").write_text("x", encoding="utf-8")
    stages = [
        {"kind": "command", "output": "first", "command": [sys.executable, "-c", "pass"], "reads": ["note.txt"]},
        {"kind": "command", "output": "second", "takes": {"first": "files/first"},
         "command": [sys.executable, "-c", FAILS_WITHOUT, str(needed)]},
    ]  # fmt: skip
    job = Path("job.yaml")
    job.write_text(yaml.safe_dump({"kind": "pipeline", "name": "流水线", "stages": stages}), encoding="utf-8")
    where = ["--storage", str(tmp_path / "store"), "--json"]
    assert main(["run", "job.yaml", "--set", "stages.first.timeout_seconds=99", *where]) == 1
    job.unlink()
    assert main(["runs", "list", *where]) == 0
    runs = {each["name"]: each for each in last_json(capsys.readouterr().out)["runs"]}
    assert runs["command-second"]["status"] == "FAILED"

    needed.touch()
    monkeypatch.chdir(tmp_path / "elsewhere")  # its relative paths were those of where it ran
    assert main(["runs", "resume", runs["command-second"]["run"], *where]) == 0
    made = last_json(capsys.readouterr().out)["artifacts"]
    assert [each["name"] for each in made] == ["first", "second"]
    store = ArtifactStore(Storage(str(tmp_path / "store")))
    (first,) = store.versions("files", "first")
    assert first.config["timeout_seconds"] == 99.0
    assert made[0]["version"] == first.version  # it was skipped

    assert main(["runs", "resume", runs["command-second"]["run"], "--address", "127.0.0.1:9", *where]) == 2
    assert "no Ray cluster answers" in last_json(capsys.readouterr().out)["error"]
    assert main(["runs", "resume", "nothing", *where]) == 2
    assert "names 0 runs" in last_json(capsys.readouterr().out)["error"]
    assert main(["runs", "resume", runs["command-first"]["run"], "--detach", *where]) == 2
    assert "not on a cluster" in last_json(capsys.readouterr().out)["error"]
