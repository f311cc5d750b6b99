"""What needs no model scores at most half of what a trained model of ours scored (tests/benchmarks/results.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmyard.sources.smallworld import SmallWorld
from llmyard.tasks.catalogue import AnyTask, task_of
from llmyard.tasks.config import KnowledgeGraph, QuestionAnswering, Summarization, Translation

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results.json"
ROWS = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize(
    ("model", "metric", "config"),
    [
        ("translator-full", "bleu", Translation()),
        ("triples-full", "triple_f1", KnowledgeGraph()),
        ("answers", "exact_match", QuestionAnswering()),
        ("summaries", "rouge2", Summarization()),
    ],
)
def test_a_baseline_scores_at_most_half_of_a_trained_model(model: str, metric: str, config: AnyTask) -> None:
    trained = [row["value"] for row in ROWS if (row["task"], row["split"], row["metric"]) == (model, "test", metric)]
    assert trained, f"{model} has no {metric} in {RESULTS.name}: run `bash cluster/local bench quality`"
    world, task = SmallWorld("dev", seed=7), task_of(config, "transformer")
    train = [world.example(task.name, "train", index) for index in range(3000)]
    test = [world.example(task.name, "test", index) for index in range(200)]
    _, predictions = task.baseline(train, test)
    assert task.measures(predictions, test)[metric].value <= 0.5 * trained[0]
