"""The image's definition: what runs in it, as whom, what it is made of, and what the chart takes for granted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import definition
import pytest
import yaml
from definition import IMAGE, ROOT

TEXT = (IMAGE / "Dockerfile").read_text(encoding="utf-8")
WHEELS, BUILD, FINAL = definition.stages(TEXT)
VALUES = yaml.safe_load((ROOT / "helm" / "llmyard" / "values.yaml").read_text(encoding="utf-8"))
PODS = (ROOT / "helm" / "llmyard" / "templates" / "_pod.tpl").read_text(encoding="utf-8")


def commands(stage: definition.Stage) -> list[str]:
    """Returns the commands that a stage runs, without mounts."""
    lines = [re.sub(r"--mount=\S+ ", "", rest) for rest in stage.all("RUN")]
    return [command.strip() for line in lines for command in line.split("&&")]


def environment() -> dict[str, str]:
    found = re.findall(r"(\w+)=(\S+)", " ".join(FINAL.all("ENV")))
    return dict(found)


def test_bases_have_a_version_and_are_one() -> None:
    assert WHEELS.base == "scratch"
    assert BUILD.base == FINAL.base
    assert re.fullmatch(r"python:3\.11-slim-\w+", FINAL.base)


def test_it_runs_as_the_charts_user_whoever_else_asks() -> None:
    users = FINAL.all("USER")
    security = VALUES["podSecurity"]
    assert users == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert int(users[0].split(":")[0]) >= 10_000
    for name in ("HOME", "USER", "LOGNAME"):
        assert f"{{name: {name}, value: {environment()[name]}}}" in PODS  # an unknown number has no name in the image
    (made,) = [each for each in commands(FINAL) if each.startswith("install -d")]
    assert made == "install -d -m 1777 /workspace /cache"  # both are volumes in the chart; any user may write there


def test_kuberays_commands_find_their_programs() -> None:
    folder = "/opt/llmyard/bin"
    assert environment()["PATH"].startswith(f"{folder}:")
    assert any("/etc/profile.d/" in each and folder in each for each in commands(FINAL))  # of a login shell
    assert not FINAL.all("ENTRYPOINT")
    assert definition.pins(IMAGE / "requirements.lock")["ray"].public == VALUES["rayVersion"]
    assert {"llmyard"} <= definition.project()["project"]["scripts"].keys()
    assert any("wget" in each for each in commands(FINAL))
    program = VALUES["endpointDefaults"]["haproxy"]["program"]
    assert f"ln -s {folder}/{Path(program).name} {program}" in commands(FINAL)


def test_whatever_comes_from_an_index_is_checked_against_its_hash() -> None:
    calls = [each for each in commands(BUILD) if re.search(r"\bpip\b.* (install|wheel)\b", each)]
    assert len(calls) == 4
    for call in calls:
        assert "--require-hashes" in call or "--no-index" in call, call
        assert "wheel " not in call or "--no-build-isolation" in call, (
            call
        )  # an isolated build fetches its tools unchecked
    assert not re.search(r"\bpip\b", " ".join(commands(FINAL)))
    assert "://" not in re.sub(r"docker-image://", "", TEXT)
    assert not [step for stage in (BUILD, FINAL) for step in stage.steps if step[0] == "ADD"]


def test_the_last_stage_has_no_compiler_and_takes_the_environment_only() -> None:
    (installed,) = [each for each in commands(FINAL) if "apt-get install" in each]
    assert installed.split()[2:] == ["--yes", "--no-install-recommends", "wget"]
    assert FINAL.all("COPY") == ["--from=build /opt/llmyard /opt/llmyard"]
    assert FINAL.all("HEALTHCHECK") == ["NONE"]


def test_no_secret_has_a_place_in_it() -> None:
    for stage in (BUILD, FINAL):
        words = " ".join(stage.all("ARG") + stage.all("ENV")).lower()
        assert not re.search(r"token|password|secret|credential|api_?key", words)
    assert all("target=/etc/pip.conf" in each for each in BUILD.all("RUN") if "type=secret" in each)


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    for rest in BUILD.all("COPY"):
        for source in rest.split()[:-1]:
            for each in (source.replace("${TORCH}", "cpu"), source.replace("${TORCH}", "cuda")):
                assert (ROOT / each).exists(), each
                assert definition.seen_by_build(each), each
    assert definition.seen_by_build("platform/llmyard/core/errors.py")
    for path in (".git/config", ".venv/bin/python", ".env", "key.pem", "data/x", "tests/conftest.py", "helm/package.py",
                 "cluster/constraints.txt", "platform/llmyard/core/__pycache__/errors.pyc"):  # fmt: skip
        assert not definition.seen_by_build(path), path


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """With no check left out; a bad file beside it shows that it looks."""
    program = os.environ.get("LLMYARD_CHECKOV") or shutil.which("checkov")
    if program is None:
        pytest.skip("checkov is not installed: put it into a venv of its own and name it in LLMYARD_CHECKOV")
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    shutil.copy(IMAGE / "Dockerfile", tmp_path / "good")
    (tmp_path / "bad" / "Dockerfile").write_text(
        "FROM debian:latest\nADD . /\nEXPOSE 22\nUSER root\n", encoding="utf-8"
    )
    command = [program, "-d", str(tmp_path), "--framework", "dockerfile", "--skip-download", "-o", "json", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    results = json.loads(done.stdout)["results"]
    failed = [
        (each["check_id"], each["check_name"]) for each in results["failed_checks"] if "good" in each["file_path"]
    ]
    assert failed == []
    assert len(results["failed_checks"]) >= 4
    assert results["skipped_checks"] == []
    assert results["parsing_errors"] == []
    assert len(results["passed_checks"]) > 50


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    """HTML, YAML, scripts of the page, word lists and ready jobs too: the image has no checkout."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install hatchling")
    shown = subprocess.run(["git", "ls-files", "platform/llmyard", "jobs"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("this is no git checkout")
    listed = [each for each in shown.stdout.splitlines() if (ROOT / each).exists()]
    source = tmp_path / "source"
    for each in (*listed, "pyproject.toml", "README.md", "LICENSE"):  # what the Dockerfile copies
        (source / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / each, source / each)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {re.sub(r"^jobs/", "llmyard/ready_jobs/", each.removeprefix("platform/")) for each in listed}
    assert wanted - names == set()
    assert {Path(each).suffix for each in wanted} >= {".py", ".html", ".css", ".js", ".yaml", ".txt", ".jsonl"}
    assert not [each for each in names if "__pycache__" in each or each.startswith("tests")]
