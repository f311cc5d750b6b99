"""`deploy` as far as it goes without a cluster: refusals, and values of the chart (tests/unit/helm renders them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.cli.helm_values import without_last_stage
from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.submission import FORWARDED

DEPLOY = "kind: deploy  # 端点\nmodels: [zh-en]\nscale: {least: 1}\n"
PIPELINE = """\
kind: pipeline
name: Chat 流水线
stages:
  # the corpus
  - kind: prepare
    output: c  # 语料
    sources: [{kind: smallworld}]
  - kind: command
    output: made
    command: ['true', '{corpus}']
    takes: {corpus: shards/c}
    resources: {cpus: 6}
  # all of it goes up
  - kind: deploy
    endpoint: chat
    models: [b]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.json = shell.debug = False
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS", "LLMYARD_STORAGE", *FORWARDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("deploy.yaml").write_text(DEPLOY, encoding="utf-8")
    Path("whole.yaml").write_text(PIPELINE, encoding="utf-8")


def values(capsys: pytest.CaptureFixture[str], job: str, *more: str) -> dict[str, Any]:
    assert main(["deploy", job, "--kubernetes", *more]) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert text.startswith("# helm upgrade --install llmyard helm/llmyard -f SITE.yaml -f FILE\n")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["deploy", *arguments]) == 2
    return capsys.readouterr().err


def test_where_to_is_asked_and_options_are_for_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "llmyard serve" in refusal(capsys, "deploy.yaml")
    assert "give one" in refusal(capsys, "deploy.yaml", "--kubernetes", "--address", "http://h:1")
    assert "--detach goes with --address" in refusal(capsys, "deploy.yaml", "--kubernetes", "--detach")
    assert "--output goes with --kubernetes" in refusal(capsys, "deploy.yaml", "--address", "h:1", "--output", "x")
    assert "--name 'A'" in refusal(capsys, "deploy.yaml", "--kubernetes", "--name", "A")


def test_a_job_that_ends_in_no_endpoint_is_not_deployed_to_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("kind: command\noutput: o\ncommand: ['true']\n", encoding="utf-8")
    said = refusal(capsys, "job.yaml", "--address", "127.0.0.1:9", "--storage", "s3://b")
    assert "job.yaml ends in command, which is no endpoint" in said
    assert "llmyard submit" in said
    assert "no Ray cluster answers" in refusal(capsys, "whole.yaml", "--address", "127.0.0.1:9", "--storage", "s3://b")
    assert "does not see it" in refusal(capsys, "deploy.yaml", "--address", "127.0.0.1:9", "--storage", "/data")


def test_an_endpoint_becomes_an_endpoint_of_the_chart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.there:5000")
    more = (
        "--set", "models=[zh-en, 'models:/x@champion', 'hub:org/model@main']", "--set", "scale.cpus=2",
        "--set", "scale.least=2", "--set", "scale.most=5", "--set", "limits.max_new_tokens=99",
        "--set", "limits.deadline_seconds=600", "--set", "haproxy=false", "--set", "index=passages@2",
        "--set", "canaries=[{model: 'zh-en@2', beside: zh-en, weight: 0.5}]",
        "--set", "limits.harmful_words={lists: ['s3://b/words']}",
    )  # fmt: skip
    assert values(capsys, "deploy.yaml", "--storage", "s3://b/x", *more) == {
        "storage": {"uri": "s3://b/x"},
        "mlflow": {"trackingUri": "http://mlflow.there:5000"},
        "hub": {"offline": False},
        "endpoints": {
            "llmyard": {
                "models": ["zh-en", "models:/x@champion", "hub:org/model@main"],
                "index": "passages@2",
                "canaries": [{"model": "zh-en@2", "beside": "zh-en", "weight": 0.5}],
                "maxNewTokens": 99,
                "deadlineSeconds": 600.0,
                "requestTimeoutSeconds": 660,
                "harmfulWords": {"lists": ["s3://b/words"], "harmless": [], "maxDensity": 3.0},
                "replica": {
                    "cpus": 2, "minReplicas": 2, "maxReplicas": 5, "targetOngoingRequests": 16,
                    "upscaleDelaySeconds": 5, "downscaleDelaySeconds": 120,
                },
                "workers": {"cpu": {"minReplicas": 2, "maxReplicas": 3}},
                "autoscaling": True,
                "haproxy": {"enabled": False},
            }
        },
    }  # fmt: skip


def test_replicas_that_the_usual_workers_cannot_hold_get_workers_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = values(capsys, "deploy.yaml", "--set", "scale={least: 0, most: 2, cpus: 6}", "--name", "big")
    assert found["pools"] == {"cpu-6": {"cpu": 6}}
    assert found["endpoints"]["big"]["workers"] == {"cpu-6": {"minReplicas": 0, "maxReplicas": 2}}
    assert found["endpoints"]["big"]["minAvailable"] == 0
    assert "storage" not in found


def test_a_pipeline_becomes_a_job_and_the_endpoint_that_it_ends_in(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("--set", "stages.made.timeout_seconds=9", "--set", "stages.2.limits.max_new_tokens=9")
    found = values(capsys, "whole.yaml", "--storage", "/storage/x", *sets)
    job = found["jobs"]["chat"]
    assert job["job"] == PIPELINE.partition("  # all of it")[0]
    assert job["set"] == ["stages.made.timeout_seconds=9"]
    assert (job["workers"], job["autoscaling"]) == ({"cpu-6": {"minReplicas": 1, "maxReplicas": 1}}, False)
    assert found["endpoints"]["chat"]["maxNewTokens"] == 9
    assert found["pools"] == {"cpu-6": {"cpu": 6}}
    assert found["storage"] == {"uri": "/storage/x"}
    assert main(["deploy", "whole.yaml", "--kubernetes", "--output", "out.yaml"]) == 0
    text = Path("out.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0].endswith("-f SITE.yaml -f out.yaml")
    assert "--set endpoints=null" in text
    assert "# 语料" in text


def test_gpus_of_a_training_are_gpus_of_its_workers(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.yaml").write_text(
        "kind: pretrain\noutput: T_1\nshards: c\nsteps: 9\nsequence_length: 64\n"
        "model: {family: gpt2, layers: 1, hidden_size: 32, heads: 2}\nbatch: {size: 8, micro_batch: 2}\n"
        "resources: {workers: {min: 2, max: 4}, gpus_per_worker: 1}\n",
        encoding="utf-8",
    )
    found = values(capsys, "train.yaml")
    assert list(found["jobs"]) == ["t-1"]
    assert found["jobs"]["t-1"]["workers"] == {"gpu": {"minReplicas": 2, "maxReplicas": 4}}
    assert found["jobs"]["t-1"]["autoscaling"] is True
    assert found["pools"] == {"gpu": {"gpus": 1}}


def test_what_pods_do_not_have_is_refused_by_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.py").write_text("def keep(table):\n    return [None] * len(table)\n", encoding="utf-8")
    Path("go.py").write_text("print(1)\n", encoding="utf-8")
    Path("local.yaml").write_text(
        "kind: pipeline\nname: p\nstages:\n"
        "  - kind: prepare\n    output: c\n    sources: [{kind: files, paths: [here/x, s3://b/x]}]\n"
        "    clean: [functions]\n    functions: ['mine.py:keep']\n"
        "  - {kind: command, output: o, command: [python3, go.py]}\n"
        "  - {kind: deploy, models: [b], limits: {harmful_words: {lists: [words.txt]}}}\n",
        encoding="utf-8",
    )
    said = refusal(capsys, "local.yaml", "--kubernetes")
    for line in (
        "local.yaml:6:37: stages.0.sources.0.paths.0: here/x is on this machine",
        "local.yaml:9:51: stages.1.command.1: go.py is code on this machine",
        "local.yaml:10:66: stages.2.limits.harmful_words.lists.0: words.txt is on this machine",
    ):
        assert line in said
    assert "mine.py:keep is code on this machine" in said
    assert "llmyard submit" in said
    assert "pods do not see it" in refusal(capsys, "deploy.yaml", "--kubernetes", "--storage", "store")
    assert "holds a password" in refusal(capsys, "deploy.yaml", "--kubernetes", "--storage", "s3://k:hunter2@b")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert "a server that the pods reach" in refusal(capsys, "deploy.yaml", "--kubernetes")


@pytest.mark.parametrize(
    "text",
    [
        "kind: pipeline\nname: p\nstages:\n- {kind: a}\n# of b\n- kind: b\n  x: |\n    - no item\n",
        "kind: pipeline\nstages:\n  -\n    kind: a\n  -\n    kind: b\nname: p  # behind\n",
        "kind: pipeline\nname: p\nstages: [{kind: a}, {kind: b}]\n",
        "{kind: pipeline, name: p, stages: [{kind: a}, {kind: b}]}\n",
        "kind: pipeline\nname: p\nstages:\n  - &one {kind: a}\n  - *one",
    ],
)
def test_the_last_stage_is_left_out_and_all_else_stays(text: str) -> None:
    whole, cut = yaml.safe_load(text), without_last_stage(text)
    assert yaml.safe_load(cut) == {**whole, "stages": whole["stages"][:-1]}
    assert ("behind" in cut) == ("behind" in text)
    assert "of b" not in cut
