"""Compression on a private Ray: chains of steps with training in them, the gate, the registry, and going on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmyard.compression.quantized_linear import is_quantized
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage
from llmyard.generation.model import Model, whole
from llmyard.stages.compressing.tradeoff import GateClosed
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(600)]

TRAINING: dict[str, Any] = {
    "steps": 12, "batch": {"size": 16, "micro_batch": 16}, "optimizer": {"learning_rate": 2e-3},
    "resources": {"workers": 1},
}  # fmt: skip
PREPARE = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 200}],
    "tokenizer": {"kind": "bpe", "vocab_size": 400, "split_han": True},
}  # fmt: skip
TUNE = {
    "kind": "finetune", "output": "translator", "tokenizer": "corpus",
    "data": {"kind": "smallworld", "train": 200, "test": 12},
    "task": {"kind": "translation", "max_source_tokens": 64, "max_target_tokens": 64},
    "model": {"family": "transformer", "encoder_layers": 1, "decoder_layers": 2, "hidden_size": 32, "heads": 2,
              "feed_forward_size": 256},
    **TRAINING,
}  # fmt: skip
PRUNE = {
    "kind": "prune", "feed_forward_size": 128, "decoder_layers": 1, "importance": "removal", "examples": 16,
    "recovery": TRAINING, "teach": {"hidden": 1.0},
}  # fmt: skip
TIMING = {"rounds": 1, "prompts": 2, "new_tokens": 4, "streams": [2]}


def compress(**fields: Any) -> dict[str, Any]:
    return {"kind": "compress", "output": "small", "checkpoint": "translator", "limit": 6, "timing": TIMING, **fields}


def pipeline(*stages: dict[str, Any]) -> Any:
    return job_adapter().validate_python({"kind": "pipeline", "name": "compression", "stages": list(stages)})


def test_a_chain_makes_a_smaller_model_that_answers_and_is_registered(tmp_path: Path) -> None:
    steps = [PRUNE, {"kind": "quantize", "scheme": "int8_static", "examples": 16}]
    job = pipeline(PREPARE, TUNE, compress(steps=steps, register_as={"name": "translator"}))
    small = run(job, storage=str(tmp_path))[-1]
    store = ArtifactStore(Storage(str(tmp_path)))
    artifact, report = small.artifacts
    assert [artifact.kind, artifact.name, report.kind, report.name] == ["checkpoint", "small", "report", "small"]
    lineage = [each.name for _, each in store.lineage(artifact)]
    assert {"small-2", "small-1", "small-1-pruned", "translator", "corpus"} <= set(lineage)
    found = json.loads(report.local("tradeoff.json").read_text(encoding="utf-8"))
    original, pruned, quantized = found["results"]
    assert original["bytes"] > pruned["bytes"] > quantized["bytes"]
    assert all(each["metric"] is not None and each["speeds"] for each in found["results"])
    assert artifact.details["parity"]["prompts"] == 12
    model = Model.load(store.get("checkpoint/small"))
    assert is_quantized(model.engine.model)  # type: ignore[attr-defined]
    written = asyncio.run(whole(model.translate("你好", "en")))
    assert written.tokens >= 0
    assert isinstance(written.text, str)
    from llmyard.runtime.registry import resolve

    assert resolve("models:/translator@champion", store.storage.uri) == artifact.reference
    again = run(job, storage=str(tmp_path))
    assert all(each.skipped for each in again)


def test_a_closed_gate_makes_nothing_but_the_report_and_a_milder_step_goes_on(tmp_path: Path) -> None:
    steps = [{"kind": "distill", "model": {**TUNE["model"], "hidden_size": 16, "heads": 1}, "training": TRAINING}]  # type: ignore[dict-item]
    gate = {"most_loss": 0.0, "least_speedup": 1000.0}
    with pytest.raises(GateClosed):
        run(pipeline(PREPARE, TUNE, compress(steps=steps, gate=gate)), storage=str(tmp_path))
    store = ArtifactStore(Storage(str(tmp_path)))
    assert not list(store.versions("checkpoint", "small"))
    (report,) = store.versions("report", "small")
    assert "closed" in report.local("report.html").read_text(encoding="utf-8")
    (student,) = store.versions("checkpoint", "small-1")
    results = run(pipeline(PREPARE, TUNE, compress(steps=steps)), storage=str(tmp_path))
    assert student.reference in [each.reference for _, each in store.lineage(results[-1].artifacts[0])]
    assert list(store.versions("checkpoint", "small-1")) == [student]  # it was not trained again
