"""Sweeps on a private Ray: trials in the processes of Ray Tune, on several workers, and of programs."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run
from llmyard.sweeps.trial import Trial

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(400)]

PREPARE: dict[str, Any] = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 200}],
    "documents_per_task": 100, "tokenizer": {"vocab_size": 400, "split_han": True}, "splits": {"validation": 0.2},
}  # fmt: skip
PRETRAIN: dict[str, Any] = {
    "kind": "pretrain", "output": "base", "shards": "corpus", "sequence_length": 32, "steps": 8,
    "model": {"family": "gpt2", "layers": 1, "hidden_size": 16, "heads": 2}, "batch": {"size": 8, "micro_batch": 4},
    "optimizer": {"learning_rate": 1.0e-3}, "evaluate_every_steps": 2, "resources": {"workers": 1},
}  # fmt: skip


def sweep(**fields: Any) -> dict[str, Any]:
    return {
        "kind": "sweep", "output": "rates", "job": PRETRAIN, "objective": {"metric": "validation_loss"},
        "space": {"optimizer.learning_rate": "loguniform(1e-5, 1e-1)"}, "budget": {"trials": 5}, **fields,
    }  # fmt: skip


def trials_of(storage: Path) -> list[Trial]:
    (file,) = storage.glob("sweep/*/2*/trials.jsonl")
    return [Trial.from_json(line) for line in file.read_text(encoding="utf-8").splitlines()]


def runs_of(storage: Path) -> list[tuple[str, str, str | None]]:
    parent = "(select t.value from tags t where t.run_uuid = r.run_uuid and t.key = 'mlflow.parentRunId')"
    with sqlite3.connect(storage / "mlflow.db") as store:
        return list(store.execute(f"select r.name, r.status, {parent} from runs r"))


def test_a_population_goes_on_from_its_better_members(tmp_path: Path) -> None:
    search = {"kind": "pbt", "population": 3, "generations": 2, "quantile": 0.34}
    prepared = run(job_adapter().validate_python(PREPARE), storage=str(tmp_path))
    swept = sweep(search=search, budget=None, job={**PRETRAIN, "steps": 4, "evaluate_every_steps": None}, concurrent=2)
    results = run(job_adapter().validate_python(swept), storage=str(tmp_path))
    assert prepared
    trials = trials_of(tmp_path)
    assert [each.state for each in trials] == ["finished"] * 6
    first, second = trials[:3], trials[3:]
    ranked = sorted(first, key=lambda each: each.metrics["validation_loss"])
    inits = [str(each.values["init"]) for each in second]
    best = f"-rates-{ranked[0].number:04d}@"
    assert [best in each for each in inits].count(True) == 2
    assert f"-rates-{ranked[1].number:04d}@" in inits[ranked[1].number]
    found = results[-1].artifacts[1]
    store = ArtifactStore(Storage(str(tmp_path)))
    assert len([each for _, each in store.lineage(found) if each.kind == "checkpoint"]) == 2  # and whom it went on from


def test_trials_are_pruned_kept_tracked_and_never_run_again(tmp_path: Path) -> None:
    job = job_adapter().validate_python({
        "kind": "pipeline", "name": "search",
        "stages": [PREPARE, sweep(stopping={"kind": "asha", "grace_steps": 2, "factor": 2}, concurrent=2)],
    })  # fmt: skip
    results = run(job, storage=str(tmp_path))
    trials = trials_of(tmp_path)
    assert [each.number for each in trials] == list(range(5))
    assert {each.state for each in trials} == {"finished", "pruned"}
    best = min((each for each in trials if each.state == "finished"), key=lambda each: each.metrics["validation_loss"])
    artifact = results[1].artifacts[0]
    assert artifact.details["best"]["trial"] == best.number
    assert results[1].artifacts[1].reference == best.artifact
    store = ArtifactStore(Storage(str(tmp_path)))
    assert [each.name for each in store.list("checkpoint")] == [f"base-rates-{best.number:04d}"]
    assert [each.name for each in (tmp_path / "checkpoint").iterdir()] == [f"base-rates-{best.number:04d}"]
    taken = store.get(best.artifact).config["optimizer"]["learning_rate"]
    assert taken == best.values["optimizer.learning_rate"]
    assert best.artifact in artifact.parents
    assert {"report.html", "report.zh.html", "best.json"} <= {each.path for each in artifact.files()}
    tracked = runs_of(tmp_path)
    nested = {name: status for name, status, parent in tracked if parent is not None}
    assert len(nested) == 5
    assert set(nested.values()) <= {"FINISHED", "KILLED"}
    assert [result.skipped for result in run(job, storage=str(tmp_path))] == [True, True]
    assert len(runs_of(tmp_path)) == len(tracked)


def test_a_trial_may_take_several_workers(tmp_path: Path) -> None:
    two = {**PRETRAIN, "resources": {"workers": 2}}
    job = {"kind": "pipeline", "name": "search", "stages": [PREPARE, sweep(job=two, budget={"trials": 2})]}
    run(job_adapter().validate_python(job), storage=str(tmp_path))
    assert [each.state for each in trials_of(tmp_path)] == ["finished", "finished"]
    assert all([each.step for each in trial.reports] == [2, 4, 6] for trial in trials_of(tmp_path))


def test_trials_of_a_pipeline_share_what_is_the_same(tmp_path: Path) -> None:
    """Two trials at once on two CPUs, whose examples other processes encode and answer: none waits for ever."""
    finetune = {
        "kind": "finetune", "output": "triples", "task": {"kind": "knowledge_graph", "max_tokens": 200},
        "tokenizer": "corpus", "data": {"kind": "smallworld", "train": 40, "validation": 10, "test": 10}, "steps": 2,
        "model": {"family": "bert", "layers": 1, "feed_forward_size": 32, "hidden_size": 16, "heads": 2},
        "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 1},
    }  # fmt: skip
    evaluate = {"kind": "evaluate", "output": "report", "checkpoint": "triples"}
    job = {"kind": "pipeline", "name": "whole", "stages": [PREPARE, finetune, evaluate]}
    found = sweep(
        job=job, objective={"metric": "test/entity_f1", "mode": "max"}, budget={"trials": 2}, concurrent=2,
        space={"stages.triples.optimizer.learning_rate": "loguniform(1e-5, 1e-1)"},
        register_as={"name": "best-triples"},
    )  # fmt: skip
    (result,) = run(job_adapter().validate_python(found), storage=str(tmp_path))
    assert [each.state for each in trials_of(tmp_path)] == ["finished", "finished"]
    store = ArtifactStore(Storage(str(tmp_path)))
    assert [each.name for each in store.list("shards") if not each.name.endswith("-data")] == ["corpus"]
    best = result.artifacts[0].details
    assert best["registered"].startswith("models:/best-triples@champion")
    assert best["checkpoint"].startswith(f"checkpoint/triples-rates-{best['best']['trial']:04d}@")
    kept = {each.name for each in store.list("checkpoint")}
    assert kept == {f"triples-rates-{best['best']['trial']:04d}"}


def program(code: str) -> dict[str, Any]:
    whole = f"import json, sys\nout, x = sys.argv[1], float(sys.argv[2])\n{code}"
    command = [sys.executable, "-c", whole, "{output}", "{x}"]
    return {
        "kind": "sweep", "output": "points", "space": {"arguments.x": "uniform(-2, 2, 0.5)"},
        "objective": {"metric": "height", "mode": "max"}, "search": {"kind": "grid"},
        "job": {"kind": "command", "output": "point", "command": command, "arguments": {"x": 0.0}},
    }  # fmt: skip


def test_a_grid_of_programs_finds_the_top(tmp_path: Path) -> None:
    written = "json.dump({'height': -(x - 0.5) ** 2}, open(out + '/metrics.json', 'w'))"
    (result,) = run(job_adapter().validate_python(program(written)), storage=str(tmp_path))
    assert len(trials_of(tmp_path)) == 9
    assert json.loads(result.artifacts[0].local("best.json").read_text())["values"] == {"arguments.x": 0.5}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('no data there')", "no data there"),
        ("json.dump({'loss': 1.0}, open(out + '/metrics.json', 'w'))", "without the metric 'height'"),
        ("json.dump({'height': float('nan')}, open(out + '/metrics.json', 'w'))", "with a number as its height"),
    ],
)
def test_a_sweep_in_which_nothing_finishes_says_why(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        run(job_adapter().validate_python(program(code)), storage=str(tmp_path))


def test_a_trial_that_fits_nowhere_is_refused(tmp_path: Path) -> None:
    large = sweep(job={**PRETRAIN, "resources": {"workers": 2, "cpus_per_worker": 4}}, output="large")
    job = {"kind": "pipeline", "name": "search", "stages": [PREPARE, large]}
    with pytest.raises(RequestError, match="a trial needs 8 CPUs"):
        run(job_adapter().validate_python(job), storage=str(tmp_path))
