"""Sweeps: what is refused before anything runs, what a trial runs, and a journal that outlives its process."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmyard.core.errors import ConfigError, RequestError
from llmyard.core.jobfile import parse_job
from llmyard.core.storage import Storage
from llmyard.stages.config import Sweep, job_adapter
from llmyard.stages.run import inputs_of, outer_inputs
from llmyard.stages.sweep import _law
from llmyard.stages.sweeping.journal import Journal
from llmyard.stages.sweeping.trial_stages import own_places, shared_stages, trial_stages
from llmyard.sweeps.trial import Trial, best_of, front_of

PRETRAIN: dict[str, Any] = {
    "kind": "pretrain", "output": "base", "shards": "world", "sequence_length": 64, "steps": 100,
    "model": {"family": "gpt2", "layers": 2, "hidden_size": 64, "heads": 4}, "evaluate_every_steps": 20,
    "resources": {"workers": 1},
}  # fmt: skip
PIPELINE: dict[str, Any] = {
    "kind": "pipeline", "name": "all",
    "stages": [
        {"kind": "prepare", "output": "world", "sources": [{"kind": "smallworld"}]},
        PRETRAIN,
        {"kind": "finetune", "output": "triples", "task": {"kind": "knowledge_graph"}, "tokenizer": "world",
         "init": "base", "steps": 10},
        {"kind": "evaluate", "output": "report", "checkpoint": "triples"},
    ],
}  # fmt: skip


def sweep(job: dict[str, Any] = PRETRAIN, **fields: Any) -> Sweep:
    given = {
        "kind": "sweep", "output": "rates", "job": job, "space": {"optimizer.learning_rate": "loguniform(1e-5, 1e-2)"},
        "objective": {"metric": "validation_loss"}, "budget": {"trials": 5},
    }  # fmt: skip
    found: Sweep = job_adapter().validate_python({**given, **fields})
    return found


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("optimiser.learning_rate: uniform(0, 1)", r"space.optimiser.learning_rate.*there is no field"),
        ("optimizer.learning_rte: uniform(0, 1)", r"no field pretrain.optimizer.adamw.learning_rte"),
        ("optimizer.learning_rate: uniform(-1, 1)", r"space.optimizer.learning_rate: -1.0"),
        ("model.heads: choice(2, 3)", "not a multiple of heads 3"),
        ("steps: int(10.5, 20)", "whole numbers"),
        ("steps: uniform(20", "is no search space; give choice"),
        ("steps: gauss(1, 2)", "is no search space"),
        ("steps: choice()", "one or more"),
        ("steps: uniform(9, 3)", "low 9 is above high 3"),
        ("seed: {search: 'int(1, 9)', when: {steps: 3}}", "depends on steps, which is not searched"),
    ],
)
def test_a_space_that_the_job_does_not_have_is_refused_in_the_file(space: str, said: str) -> None:
    text = f"""
kind: sweep
output: rates
job: {{kind: pretrain, output: base, shards: w, steps: 50, model: {{family: gpt2, hidden_size: 64, heads: 4}}}}
space:
  {space}
objective: {{metric: validation_loss}}
budget: {{trials: 3}}
"""
    with pytest.raises(ConfigError, match=said):
        parse_job(text, "job.yaml", job_adapter())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"budget": None}, "only a grid ends by itself"),
        ({"budget": {}}, "would never end"),
        ({"space": {}}, "at least 1"),
        ({"stopping": {"kind": "asha", "grace_steps": 5}, "seeds": 3}, "goes without `seeds`"),
        ({"job": {**PRETRAIN, "evaluate_every_steps": None}, "stopping": {"kind": "asha", "grace_steps": 5}},
         "evaluate_every_steps"),
        ({"also": [{"metric": "validation_loss"}]}, "named twice"),
        ({"scaling": {}, "job": PIPELINE, "space": {"stages.base.steps": "int(1, 9)"}}, "`scaling` is of pretraining"),
        ({"scaling": {"budgets": [-1.0]}}, "greater than 0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweep(**fields)


def test_a_trial_has_outputs_of_its_own_and_takes_its_own() -> None:
    config = sweep(PIPELINE, space={"stages.base.optimizer.learning_rate": "loguniform(1e-5, 1e-2)"})
    assert own_places(config) == [1, 2, 3]
    assert [stage.output for stage in shared_stages(config)] == ["world"]
    pretrain, finetune, evaluate = trial_stages(config, 7, {"stages.base.optimizer.learning_rate": 0.003})
    assert pretrain.kind == "pretrain"
    assert pretrain.optimizer.learning_rate == 0.003
    assert (pretrain.output, pretrain.shards) == ("base-rates-0007", "world")
    assert finetune.kind == "finetune"
    assert (finetune.output, finetune.init, finetune.tokenizer) == ("triples-rates-0007", "base-rates-0007", "world")
    assert evaluate.kind == "evaluate"
    assert (evaluate.output, evaluate.checkpoint) == ("report-rates-0007", "triples-rates-0007")
    late = sweep(PIPELINE, space={"stages.3.batch_size": "choice(8, 16)"})
    assert [stage.output for stage in shared_stages(late)] == ["world", "base", "triples"]


def test_seeds_are_trained_apart() -> None:
    config = sweep(seeds=2)
    one, two = (trial_stages(config, 3, {"optimizer.learning_rate": 0.01}, seed)[0] for seed in (0, 1))
    assert one.kind == two.kind == "pretrain"
    assert (one.seed, two.seed) == (0, 1)
    assert (one.output, two.output) == ("base-rates-0003-0", "base-rates-0003-1")


def test_kinds_with_fields_of_their_own_can_be_searched() -> None:
    config = sweep(
        job={**PRETRAIN, "optimizer": {"kind": "adamw", "betas": [0.9, 0.95]}},
        space={
            "optimizer.learning_rate": "loguniform(1e-5, 1e-2)",
            "model.layers": {"kind": "choice", "choices": [1, 2]},
            "model.dropout": {"search": "uniform(0, 0.3, 0.1)", "when": {"model.layers": 2}},
        },
    )
    (stage,) = trial_stages(config, 0, {"model.layers": 2, "model.dropout": 0.1})
    assert stage.kind == "pretrain"
    assert stage.model is not None
    assert stage.model.dropout == 0.1


def test_a_sweep_needs_what_its_job_does_not_make() -> None:
    assert inputs_of(sweep()) == [("shards", "world")]
    assert inputs_of(sweep(PIPELINE, space={"stages.base.steps": "int(10, 20)"})) == []
    assert outer_inputs(sweep().job) == [("shards", "world")]


def journal(tmp_path: Path, **fields: Any) -> Journal:
    return Journal(Storage(str(tmp_path)), "sweep/rates/1/_making/trials", sweep(**fields))


def test_finished_trials_count_and_begun_ones_are_given_out_again(tmp_path: Path) -> None:
    first = journal(tmp_path)
    given = [first.next() for _ in range(3)]
    assert [each[0] for each in given if each] == [0, 1, 2]
    first.report(2, 20, {"validation_loss": 3.0})
    first.finish(0, {"validation_loss": 2.0}, "checkpoint/base-rates-0000@1", "run", 100)
    again = journal(tmp_path)  # the process was killed
    assert [again.next(), again.next()] == given[1:]
    fresh = [again.next(), again.next()]
    assert [each[0] for each in fresh if each] == [3, 4]
    assert again.next() is None  # five trials are all
    for number in range(1, 5):
        again.finish(number, {"validation_loss": float(number)}, "", "", 100)
    again.finish(1, {"validation_loss": 0.0}, "", "", 100)  # told twice: the first counts
    states = journal(tmp_path).all()
    assert [(each.number, each.state) for each in states] == [(number, "finished") for number in range(5)]
    assert states[1].metrics == {"validation_loss": 1.0}
    best = best_of(states, sweep().objective)
    assert best is not None
    assert best.number == 1


def test_proposals_do_not_depend_on_where_a_sweep_was_killed(tmp_path: Path) -> None:
    whole, parts = tmp_path / "a", tmp_path / "b"
    values = []
    for folder in (whole, parts):
        seen = []
        book = journal(folder, search={"kind": "optuna", "startup_trials": 2})
        for number in range(5):
            if folder == parts:
                book = journal(folder, search={"kind": "optuna", "startup_trials": 2})
            found = book.next()
            assert found is not None
            seen.append(found)
            book.finish(number, {"validation_loss": found[1]["optimizer.learning_rate"]}, "", "", 1)
        values.append(seen)
    assert values[0] == values[1]


def test_numbers_that_are_none_end_a_trial_and_are_counted(tmp_path: Path) -> None:
    book = journal(tmp_path)
    book.next()
    assert "nan" in book.report(0, 20, {"validation_loss": math.nan})
    assert book.verdict(0)
    book.prune(0, book.verdict(0))
    book.next()
    book.finish(1, {"validation_loss": math.inf}, "", "", 100)
    assert [each.state for each in journal(tmp_path).all()] == ["pruned", "pruned"]
    assert best_of(book.all(), sweep().objective) is None


def test_a_metric_that_is_not_there_ends_the_sweep_with_those_that_are(tmp_path: Path) -> None:
    book = journal(tmp_path, objective={"metric": "accuracy", "mode": "max"})
    book.next()
    book.finish(0, {"validation_loss": 2.0}, "", "", 100)
    with pytest.raises(RequestError, match="without the metric 'accuracy'") as refused:
        book.next()
    assert "validation_loss" in refused.value.remedy


def test_failures_alone_end_a_sweep_with_the_first_cause(tmp_path: Path) -> None:
    book = journal(tmp_path, max_failures=2)
    for number in range(2):
        assert book.next() is not None
        book.fail(number, f"broke {number}")
    with pytest.raises(RequestError, match="broke 0"):
        book.next()
    again = journal(tmp_path, max_failures=2)  # the command is given again: what was wrong may be mended
    assert [each[0] for each in (again.next(), again.next()) if each] == [0, 1]
    other = journal(tmp_path / "other", max_failures=2)
    other.next()
    other.finish(0, {"validation_loss": 1.0}, "", "", 1)
    for number in (1, 2):
        other.next()
        other.fail(number, "broke")
    assert other.next() is not None  # part of a space may fail


def test_poor_trials_end_at_a_rung(tmp_path: Path) -> None:
    book = journal(tmp_path, stopping={"kind": "asha", "grace_steps": 20, "factor": 2}, budget={"trials": 8})
    ended = []
    for number in range(8):
        book.next()
        why = book.report(number, 20, {"validation_loss": float(number)})
        ended.append(bool(why))
        if why:
            book.prune(number, why)
        else:
            book.finish(number, {"validation_loss": float(number)}, "", "", 100)
    assert not ended[0]
    assert sum(ended) >= 4
    assert all(each.metrics for each in book.all())


def test_steps_and_time_are_budgets_too(tmp_path: Path) -> None:
    book = journal(tmp_path, budget={"steps": 150})
    for number in range(2):
        assert book.next() is not None
        book.finish(number, {"validation_loss": 1.0}, "", "", 100)
    assert book.next() is None
    timed = journal(tmp_path / "timed", budget={"hours": 1e-9})
    assert timed.next() is None


def test_the_front_holds_what_nothing_beats() -> None:
    objectives = sweep(also=[{"metric": "speed", "mode": "max"}]).objectives
    points = [(1.0, 1.0), (2.0, 5.0), (3.0, 4.0), (1.0, 1.0), (0.5, math.nan)]
    trials = [
        Trial(number, {}, "finished", metrics={"validation_loss": loss, "speed": speed})
        for number, (loss, speed) in enumerate(points)
    ]
    assert [each.number for each in front_of(trials, objectives)] == [0, 1, 3]


def test_a_law_is_drawn_of_the_best_trial_at_each_point_or_told_why_not(tmp_path: Path) -> None:
    config = sweep(scaling={"budgets": [1e12]})
    kept: dict[str, bytes] = {}
    draft = SimpleNamespace(keep=lambda name, data: kept.update({name: data}))
    making: Any = SimpleNamespace(draft=draft)
    points = [(size, tokens) for size in (1e4, 3e4, 1e5) for tokens in (1e5, 4e5, 1.6e6)]
    trials = [
        Trial(
            2 * number + worse, {}, "finished",
            metrics={"parameters": n, "tokens": d, "validation_loss": 1.7 + 40 / n**0.35 + 90 / d**0.3 + worse},
        )
        for number, (n, d) in enumerate(points) for worse in (0, 1)
    ]  # fmt: skip
    found = _law(config, making, trials)
    assert found["alpha"] == pytest.approx(0.35, rel=0.05)
    assert set(kept) == {"scaling.html", "scaling.zh.html"}
    kept.clear()
    assert "refused" in _law(config, making, trials[:6])
    assert not kept
