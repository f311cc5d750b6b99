"""What `llmyard deploy --kubernetes` writes is what the chart takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import charted
import pytest

from llmyard.cli import helm_values
from llmyard.cli.jobs import load
from llmyard.core.submission import FORWARDED
from llmyard.serving.application import Served

SITE = {key: value for key, value in charted.SITE.items() if key not in ("endpoints", "jobs", "cluster", "gateway")}
HUB = charted.at("networkPolicy.egress.hub", {"to": [], "ports": [443]})
BIG = "kind: deploy\nmodels: ['hub:org/model@main']\nscale: {least: 0, most: 3, cpus: 6, requests_per_replica: 99}\n"
PIPELINE = """\
kind: pipeline
name: all
stages:
  - {kind: prepare, output: c, sources: [{kind: smallworld}]}  # 语料
  - kind: pretrain
    output: b
    shards: c
    steps: 9
    sequence_length: 64
    model: {family: gpt2, layers: 1, hidden_size: 32, heads: 2}
    batch: {size: 8, micro_batch: 2}
    resources: {workers: {min: 1, max: 4}, gpus_per_worker: 1}
  - kind: deploy
    models: [b]
    limits: {deadline_seconds: 400, body_seconds: 2.5}
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMYARD_STORAGE", *FORWARDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLMYARD_DATA", "/data")


def values(path: Path, *overrides: str) -> dict[str, Any]:
    found = helm_values.values_of(path, load(path, overrides), overrides, "s3://artifacts/llmyard", None)
    return dict(charted.loaded(helm_values.written(found, "FILE")))


def test_the_renderer_knows_the_charts_defaults() -> None:
    usual = charted.loaded((charted.CHART / "values.yaml").read_text(encoding="utf-8"))
    assert usual["pools"] == {helm_values.POOL: {}}
    assert usual["poolDefaults"]["cpu"] == helm_values.POOL_CPUS
    assert usual["endpointDefaults"]["requestTimeoutSeconds"] == helm_values.TIMEOUT_SECONDS
    assert usual["endpointDefaults"]["replica"]["maxOngoingRequests"] == helm_values.MAX_ONGOING


@pytest.mark.parametrize("text", [BIG, PIPELINE])
def test_an_endpoint_renders(render: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    given = charted.merged(charted.merged(SITE, HUB), values(tmp_path / "job.yaml"))
    found = render(given)
    (service,) = [each for each in found if each["kind"] == "RayService"]
    (application,) = charted.loaded(service["spec"]["serveConfigV2"])["applications"]
    served = Served.model_validate(application["args"])
    whole = load(tmp_path / "job.yaml", ())
    deploy = whole.stages[-1] if whole.kind == "pipeline" else whole
    assert served.models == deploy.models
    assert served.limits == deploy.limits
    jobs = [each for each in found if each["kind"] == "RayJob"]
    assert len(jobs) == (1 if text == PIPELINE else 0)
    first = render({**given, "endpoints": None})  # as `--set endpoints=null` does
    assert [each["kind"] for each in first if each["kind"].startswith("Ray")] == ["RayJob"] * len(jobs)


def test_ready_jobs_render(render: Any) -> None:
    for path in sorted((charted.ROOT / "jobs").rglob("*.yaml")):
        given = charted.merged(charted.merged(SITE, HUB), values(path))
        kinds = {each["kind"] for each in render(given)}
        assert ("RayService" if path.parent.name == "deploy" else "RayJob") in kinds, path
