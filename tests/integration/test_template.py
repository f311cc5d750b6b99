"""The project that `llmyard init` writes runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmyard.cli.init import write_project
from llmyard.cli.shell import Shell
from llmyard.core.jobfile import load_job
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]


def test_a_new_project_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(Shell(), tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    job = load_job("job.yaml", job_adapter(), ["stages.base.steps=2", "stages.translator.steps=2"])
    results = run(job, storage=str(tmp_path / "store"))
    assert [result.artifacts[0].name for result in results] == ["corpus", "base", "translator"]
    assert results[1].metrics["validation_loss"] > 0
