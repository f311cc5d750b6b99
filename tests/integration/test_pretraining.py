"""Families pretrain on Ray on a small corpus of both languages, and are evaluated; `tests/unit/stages` has all."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from llmyard.core.artifacts import Artifact
from llmyard.models.families import load
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run
from llmyard.stages.stage import StageResult

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(1500)]

TINY = {"hidden_size": 16, "heads": 2}
# What differs most from the others on its way through Ray: figures of its own, and a memory that two workers share.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"model": {"family": "gpt2", "layers": 4, **TINY}, "samples": {"every_steps": 2, "tokens": 4},
             "layer_statistics_every_steps": 2, "profile": {"after_steps": 0, "steps": 1}, "resources": {"workers": 2}},
    "bert": {"model": {"family": "bert", "layers": 1, **TINY}, "objective": {"kind": "masked_lm"}},
    "transformer_xl": {"model": {"family": "transformer_xl", "layers": 2, "memory_length": 24, **TINY},
                       "objective": {"kind": "recurrent_lm"}, "resources": {"workers": 2}},
    "word_vectors": {"model": {"family": "word_vectors", "hidden_size": 16}, "objective": {"kind": "skip_gram"},
                     "resources": {"workers": 2}},
}  # fmt: skip


# A causal model writes, an encoder tags: both go on from what they were pretrained on.
TUNED: dict[str, dict[str, Any]] = {
    "gpt2": {"kind": "translation", "max_source_tokens": 32, "max_target_tokens": 32},
    "bert": {"kind": "knowledge_graph", "max_tokens": 64},
}


# English and Chinese that go on with Chinese of more tokens, and some of what was there before.
CONTINUED: list[dict[str, Any]] = [
    {"kind": "prepare", "output": "chinese", "documents_per_task": 100, "splits": {"validation": 0.2},
     "sources": [{"kind": "smallworld", "documents": 120, "seed": 3}],
     "tokenizer": {"extend": "corpus", "new_tokens": 60, "script": "han"}},
    {"kind": "pretrain", "output": "continued", "shards": "chinese", "init": "gpt2", "sequence_length": 64,
     "replay": {"shards": "corpus", "share": 0.25}, "steps": 4, "batch": {"size": 8, "micro_batch": 4},
     "resources": {"workers": 1}},
    {"kind": "pretrain", "output": "from-vectors", "shards": "corpus", "sequence_length": 64, "steps": 2,
     "model": {"family": "gpt2", "layers": 1, **TINY}, "embedding_init": "word_vectors",
     "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 1}},
]  # fmt: skip
# Whole on no worker; more workers than there is room for come and go.
DIVIDED: dict[str, dict[str, Any]] = {
    "sharded": {"model": {"family": "llama", "layers": 1, **TINY, "feed_forward_size": 24}, "parallel": {"shard": 2},
                "ema_decay": 0.5, "evaluate_every_steps": 2},
    "piped": {"model": {"family": "gpt2", "layers": 2, **TINY}, "parallel": {"pipeline": 2}},
    "elastic": {"model": {"family": "gpt2", "layers": 1, **TINY}, "resources": {"workers": {"min": 1, "max": 4}},
                "keep_best": True, "evaluate_every_steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def results(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[StageResult]]:
    stages: list[dict[str, Any]] = [
        {"kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 200}],
         "documents_per_task": 100, "tokenizer": {"vocab_size": 600}, "splits": {"validation": 0.1}},
    ]  # fmt: skip
    for name, fields in FAMILIES.items():
        training = {"steps": 4, "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 1}}
        stages.append({"kind": "pretrain", "output": name, "shards": "corpus", "sequence_length": 64,
                       "evaluate_every_steps": 2, "ema_decay": 0.5, **training, **fields})  # fmt: skip
        stages.append({"kind": "evaluate", "output": f"{name}-report", "checkpoint": name, "splits": ["validation"],
                       "limit": 40})  # fmt: skip
    for name, task in TUNED.items():
        data = {"kind": "smallworld", "train": 60, "validation": 20, "test": 20}
        stages.append({"kind": "finetune", "output": f"{name}-tuned", "init": name, "task": task, "data": data,
                       "tokenizer": "corpus", **training,
                       **({"samples": {"every_steps": 2}} if name == "gpt2" else {})})  # fmt: skip
        stages.append({"kind": "evaluate", "output": f"{name}-tuned-report", "checkpoint": f"{name}-tuned",
                       "limit": 10})  # fmt: skip
    stages += CONTINUED
    for name, fields in DIVIDED.items():
        stages.append({"kind": "pretrain", "output": name, "shards": "corpus", "sequence_length": 64, "steps": 4,
                       "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 2}, **fields})  # fmt: skip
    job = job_adapter().validate_python({"kind": "pipeline", "name": "families", "stages": stages})
    done = run(job, storage=str(tmp_path_factory.mktemp("families")))
    names = [*FAMILIES, *(f"{name}-tuned" for name in TUNED)]
    found = {name: done[1 + 2 * number : 3 + 2 * number] for number, name in enumerate(names)}
    rest = {result.artifacts[0].name: [result] for result in done}
    return found | {name: rest[name] for name in ("continued", "from-vectors", *DIVIDED)}


def test_what_was_seen_lies_beside_the_model(results: dict[str, list[StageResult]]) -> None:
    trained = results["gpt2"][0].artifacts[0]
    files = {entry.path for entry in trained.files()}
    assert {"report.html", "report.zh.html", "logs/rank-0000.log", "logs/rank-0001.log"} <= files
    assert {"profile/trace.json.gz", "profile/operators.txt"} <= files
    english, chinese = (trained.local(name).read_text(encoding="utf-8") for name in ("report.html", "report.zh.html"))
    assert "4 of 4 steps" in english
    assert "gradient norm, transformer.h" in english
    assert "梯度范数，transformer.h" in chinese
    assert "What the model wrote" in english
    assert "rank 1 of 2" in trained.local("logs/rank-0001.log").read_text(encoding="utf-8")
    tuned = results["gpt2-tuned"][0].artifacts[0]
    assert "What the model wrote" in tuned.local("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_pretrains_and_is_judged(results: dict[str, list[StageResult]], name: str) -> None:
    trained, report = (result.artifacts[0] for result in results[name])
    assert trained.details["family"] == name
    assert math.isfinite(trained.metrics["validation_loss"])
    if name == "word_vectors":
        assert report.metrics.keys() == {"validation/loss", "validation/baseline_loss"}
        assert 0 < report.metrics["validation/baseline_loss"] < trained.metrics["validation_frequency_loss"] + 0.1
    else:
        assert report.metrics["validation/perplexity"] > 1
        assert report.metrics["validation/baseline_perplexity"] > 1
    if name == "bert":
        assert 0 <= report.metrics["validation/pair_accuracy"] <= 1
        assert trained.metrics["validation_masked_loss"] > 0
    written = json.loads(trained.local("config.json").read_text(encoding="utf-8"))
    extra = {"bert": 2}.get(name, 0)
    assert written["vocab_size"] == vocabulary(trained) + extra


@torch.no_grad()
def test_what_was_trained_generates(results: dict[str, list[StageResult]]) -> None:
    model = load(results["transformer_xl"][0].artifacts[0].local())
    ids = torch.randint(20, 200, (1, 6))
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert ids.shape[1] < written.shape[1] <= ids.shape[1] + 4


def test_a_base_model_is_fine_tuned(results: dict[str, list[StageResult]]) -> None:
    for name, metric in (("gpt2", "test/chrf"), ("bert", "test/triple_f1")):
        tuned, report = (result.artifacts[0] for result in results[f"{name}-tuned"])
        assert results[name][0].artifacts[0].reference in tuned.parents
        assert tuned.details["family"] == name
        assert 0 <= report.metrics[metric] <= 100


def test_a_vocabulary_grows_and_both_texts_are_judged_apart(results: dict[str, list[StageResult]]) -> None:
    base, continued = results["gpt2"][0].artifacts[0], results["continued"][0].artifacts[0]
    assert vocabulary(base) < vocabulary(continued) == load(continued.local()).config.vocab_size
    assert {"validation_loss", "validation_loss/domain", "validation_loss/general"} <= continued.metrics.keys()
    assert base.reference in continued.parents
    assert [parent.split("@")[0] for parent in continued.parents if parent.startswith("shards/")] == [
        "shards/chinese", "shards/corpus",
    ]  # fmt: skip


def test_a_model_begins_with_word_vectors(results: dict[str, list[StageResult]]) -> None:
    vectors, model = results["word_vectors"][0].artifacts[0], results["from-vectors"][0].artifacts[0]
    assert vectors.reference in model.parents


@pytest.mark.parametrize("name", DIVIDED)
def test_a_divided_model_is_written_whole(results: dict[str, list[StageResult]], name: str) -> None:
    trained = results[name][0].artifacts[0]
    model = load(trained.local())
    ids = torch.randint(20, 200, (2, 64))
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert 1 < loss < 10
    assert 1 < trained.metrics["validation_loss"] < math.log(model.config.vocab_size) + 1


def vocabulary(checkpoint: Artifact) -> int:
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    return Tokenizer.load(checkpoint.local(FILE)).vocab_size
