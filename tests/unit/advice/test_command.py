"""``llmyard recommend``: exit codes, languages, JSON, the written job, and what it costs to start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmyard.cli.main import app, main
from llmyard.cli.recommend import gpus_here
from llmyard.cli.shell import shell
from llmyard.core.jobfile import load_job
from llmyard.stages.config import job_adapter

HEAVY = ("torch", "ray", "mlflow", "transformers", "pyarrow", "numpy")
MACHINE = ["--cpus", "2", "--memory", "16"]


@pytest.fixture(autouse=True)
def fresh_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    shell.json = shell.debug = False
    monkeypatch.setenv("LLMYARD_LANG", "en")


def run(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["recommend", *arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_a_table_and_reasons_by_topic_are_printed() -> None:
    said = run("classification", "--languages", "zh", "--examples", "3000", *MACHINE)
    for part in ("google-bert/bert-base-chinese", "GB a worker", "Which model", "How to tell", "Devlin et al. 2019"):
        assert part in said


def test_the_same_is_said_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMYARD_LANG", "zh")
    said = run("translation", *MACHINE)
    for part in ("翻译", "中文 + 英文", "每 worker GB", "选什么模型", "如何判断好坏", "BLEU"):
        assert part in said
    assert "Which" not in said


def test_json_ends_in_one_object_with_the_job() -> None:
    answer: dict[str, Any] = json.loads(run("relation-classification", "--json", *MACHINE).strip().splitlines()[-1])
    assert answer["status"] == "done"
    first = answer["suggestions"][0]
    assert first["memory_bytes"]["total"] <= first["memory_bytes"]["available"]
    assert first["reasons"][0].keys() == {"topic", "key", "text"}
    job_adapter().validate_python(first["job"])
    assert answer["datasets"]
    assert answer["question"]["hardware"]["cpus"] == 2


@pytest.mark.parametrize(
    "task", ["translation", "summarization", "question_answering", "knowledge_graph", "pretraining"]
)
def test_check_accepts_the_written_job(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", task, "--offline", "--output", "job.yaml", *MACHINE]) == 0
    assert "check job.yaml" in capsys.readouterr().out
    text = Path("job.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# Made by `llmyard recommend {task}`")
    assert main(["check", "job.yaml", "--storage", str(tmp_path / "store")]) == 0
    assert main(["recommend", task, "--output", "job.yaml", *MACHINE]) == 2
    assert "exists" in capsys.readouterr().err


def test_check_accepts_a_job_on_own_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"text": "good", "label": "yes"}\n', encoding="utf-8")
    where = ["--storage", str(tmp_path / "store")]
    asked = ["recommend", "classification", "--data", "mine.jsonl", "--offline", "--output"]
    assert main([*asked, "job.yaml", "--choice", "2", *MACHINE]) == 0
    assert main(["check", "job.yaml", *where]) == 0
    assert load_job("job.yaml", job_adapter()).stages[1].model is not None  # the second one is from scratch
    assert main([*asked, "other.yaml", "--choice", "99", *MACHINE]) == 2
    assert "--choice 99: there are" in capsys.readouterr().err
    assert not Path("other.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no task is named"),
        (["clasification"], "did you mean 'classification'"),
        (["relation"], "did you mean 'relation_classification'"),
        (["dialogue", "--languages", "fr"], "fr is not known"),
        (["dialogue", "--languages", ","], "no language is named"),
        (["dialogue", "--tokens", "99999999"], "tokens: "),
        (["dialogue", "--examples", "0"], "--examples"),
        (["dialogue", "--output", "/proc/no/job.yaml"], "cannot write"),
    ],
)
def test_a_wrong_request_says_what_is_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", *arguments, *MACHINE]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_gpus_without_memory_are_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmyard.cli.recommend.gpus_here", list)
    assert main(["recommend", "dialogue", "--gpus", "2"]) == 2
    assert "add --gpu-memory GB" in capsys.readouterr().err
    monkeypatch.setattr("llmyard.cli.recommend.gpus_here", lambda: [24.0, 24.0])
    assert main(["recommend", "dialogue", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert answer["question"]["hardware"]["gpus"] == 2
    assert answer["question"]["hardware"]["gpu_memory_gb"] == 24.0


def test_gpus_are_found_through_nvidia_smi_and_none_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81559\necho 81559\n", encoding="utf-8")
    program.chmod(0o755)
    assert gpus_here() == [85.5, 85.5]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_catalogue_is_listed(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMYARD_LANG", language)
    said = run("--list")
    for part in ("Yi-1.5-6B", "CrossWOZ", "可微调" if language == "zh" else "tune"):
        assert part in said
    answer = json.loads(run("--list", "--json").strip().splitlines()[-1])
    assert {each["use"] for each in answer["models"]} == {"tune", "convert", "not_yet"}


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom llmyard.cli.main import main\nstatus = main(sys.argv[1:])\n"
        f"print('LOADED', status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "recommend", "instruction", *MACHINE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("LOADED 0 []")
