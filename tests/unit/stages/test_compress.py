"""What a compression is told, what is refused before it starts, how results compare, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.generation.timing import Timed
from llmyard.stages import compress
from llmyard.stages.compress_config import Compress, Gate
from llmyard.stages.compress_report import pages
from llmyard.stages.compressing.tradeoff import (
    GateClosed,
    Result,
    Speed,
    check_gate,
    described,
    lost,
    speeds_of,
    unbeaten,
)
from llmyard.stages.config import Finetune, Pretrain, job_adapter
from llmyard.stages.origins import handed_on, training_of

TASK = {"kind": "translation", "max_source_tokens": 32, "max_target_tokens": 32}
TRAINED = {
    "kind": "finetune", "output": "translator", "task": TASK, "data": {"kind": "smallworld", "train": 50, "test": 10},
    "tokenizer": "corpus", "steps": 9, "label_smoothing": 0.1,
    "model": {"family": "transformer", "encoder_layers": 2, "decoder_layers": 2, "hidden_size": 64, "heads": 2,
              "feed_forward_size": 128},
}  # fmt: skip
STUDENT = {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1, "hidden_size": 16, "heads": 2}
TRAINING = {"steps": 5, "optimizer": {"learning_rate": 1e-3}}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path)))


def commit(store: ArtifactStore, kind: str, name: str, **fields: Any) -> Artifact:
    with store.begin(kind, name, name) as draft:
        draft.keep("x", b"x")
        return draft.commit(**{"config": {}, "parents": [], "metrics": {}, **fields})


def checkpoint(store: ArtifactStore, config: dict[str, Any] | None = None, **details: Any) -> Artifact:
    tokenizer = commit(store, "tokenizer", "corpus", details={"vocab_size": 500})
    shards = commit(store, "shards", "translator-data")
    trained = Finetune.model_validate(TRAINED).model_dump(mode="json") if config is None else config
    family = {"family": "transformer", "sequence_length": 64, "task": "translation", "task_config": TASK}
    return commit(
        store, "checkpoint", "translator", config=trained, parents=[tokenizer.reference, shards.reference],
        metrics={"parameters": 300_000.0}, details={**family, **details},
    )  # fmt: skip


def job(*steps: dict[str, Any], **fields: Any) -> Compress:
    return Compress.model_validate({"output": "small", "checkpoint": "translator", "steps": list(steps), **fields})


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"kind": "quantize"}, {"kind": "prune", "layers": 1}], "nothing comes behind quantize"),
        ([{"kind": "export", "format": "gguf", "weights": "int8"}], "gguf has no weights int8"),
        ([{"kind": "prune"}], "takes nothing out"),
        ([{"kind": "prune", "feed_forward_size": 8, "importance": "removal"}], "removal is of layers"),
        ([{"kind": "prune", "layers": 1, "teach": {}}], "goes with `recovery`"),
        ([{"kind": "quantize", "group_size": 32}], "int4's"),
        ([{"kind": "quantize", "scheme": "int4", "group_size": 48}], "groups have 128, 64, 32"),
        ([{"kind": "quantize", "examples": 3}], "int8_static's"),
        ([], "at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_the_file(steps: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        job(*steps)


GGUF = {"kind": "export", "format": "gguf", "weights": "q8_0"}
CTRANSLATE2 = {"kind": "export", "format": "ctranslate2"}
NAMED, GATE = {"name": "small"}, {"most_loss": 0.01}


@pytest.mark.parametrize(
    ("step", "fields", "said"),
    [
        (GGUF, {"register_as": NAMED}, "no endpoint answers with GGUF files"),
        (GGUF, {"register_as": NAMED, "gate": GATE}, "no endpoint answers with GGUF files"),
        (GGUF, {"gate": {**GATE, "least_speedup": 1.5}}, "gate.least_speedup: no engine here answers with GGUF files"),
        ({**CTRANSLATE2, "weights": "int8"}, {"register_as": NAMED}, "weights in int8 answers differ"),
    ],
)
def test_a_result_that_nothing_can_vouch_for_is_refused_in_the_file(
    step: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        job(step, **fields)
    whole = {"kind": "compress", "output": "small", "checkpoint": "translator", "steps": [step], **fields}
    with pytest.raises(ValidationError, match=said):
        job_adapter().validate_python({"kind": "pipeline", "name": "all", "stages": [whole]})


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (GGUF, {"gate": GATE}),
        (CTRANSLATE2, {"register_as": NAMED, "gate": {**GATE, "least_speedup": 1.5}}),
        ({**CTRANSLATE2, "weights": "int8"}, {"register_as": NAMED, "gate": GATE}),
        (CTRANSLATE2, {"register_as": NAMED}),
        ({"kind": "quantize"}, {"register_as": NAMED}),
    ],
)
def test_a_result_that_can_be_judged_is_taken_and_so_is_its_stored_config(
    step: dict[str, Any], fields: dict[str, Any]
) -> None:
    config = job(step, **fields)
    assert Compress.model_validate(config.model_dump(mode="json")) == config


def test_a_job_file_takes_a_compression_and_no_reduction() -> None:
    plain = job({"kind": "quantize"}).model_dump(mode="json")
    assert job_adapter().validate_python(plain) == job({"kind": "quantize"})
    with pytest.raises(ValidationError, match="reduction"):
        job_adapter().validate_python(
            {"kind": "reduction", "output": "a", "checkpoint": "b", "step": {"kind": "quantize"}}
        )


@pytest.mark.parametrize(
    ("steps", "fields", "details", "said"),
    [
        ([{"kind": "quantize"}], {}, {"adapter_of": "checkpoint/base@1"}, "is an adapter"),
        ([{"kind": "quantize"}], {}, {"for_inference": "int8_dynamic"}, "not changed any more"),
        (
            [{"kind": "distill", "model": {**STUDENT, "hidden_size": 256}, "training": TRAINING}],
            {},
            {},
            "the student has",
        ),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused_before_ray_starts(
    store: ArtifactStore, steps: list[dict[str, Any]], fields: dict[str, Any], details: dict[str, Any], said: str
) -> None:
    checkpoint(store, **details)
    with pytest.raises(RequestError, match=said):
        compress.parents(job(*steps, **fields), store)


def test_a_checkpoint_that_was_not_trained_here_gives_no_data(store: ArtifactStore) -> None:
    commit(store, "checkpoint", "translator", config={"kind": "import"}, details={"family": "gpt2"})
    for step in (
        {"kind": "prune", "layers": 1},
        {"kind": "quantize", "scheme": "int8_static"},
        {"kind": "distill", "model": STUDENT, "training": TRAINING},
    ):
        with pytest.raises(RequestError, match="was not trained here"):
            compress.parents(job(step), store)
    assert compress.parents(job({"kind": "quantize"}), store)
    with pytest.raises(RequestError, match="no examples"):
        compress.parents(job({"kind": "quantize"}, gate={"most_loss": 0.1}), store)


def test_what_is_trained_again_shares_the_original_training(store: ArtifactStore) -> None:
    original = checkpoint(store)
    step = {"kind": "prune", "decoder_layers": 1, "recovery": TRAINING, "teach": {"share": 0.3, "hidden": 2.0}}
    reduction, recovery = compress._stages(job(step), 1, original, original)
    assert (reduction.output, recovery.output) == ("small-1-pruned", "small-1")
    assert isinstance(recovery, Finetune)
    assert recovery.init == "small-1-pruned"
    assert recovery.task == Finetune.model_validate(TRAINED).task
    assert recovery.label_smoothing == 0.1
    assert recovery.steps == 5
    assert recovery.distillation is not None
    assert recovery.distillation.teacher == original.reference
    assert recovery.distillation.hidden == 2.0
    (distilled,) = compress._stages(
        job({"kind": "distill", "model": STUDENT, "training": TRAINING}), 1, original, original
    )
    assert isinstance(distilled, Finetune)
    assert distilled.model is not None
    assert distilled.model.hidden_size == 16


def test_a_student_of_another_form_is_not_told_the_fields_of_the_teachers(store: ArtifactStore) -> None:
    asked = {"kind": "question_answering", "max_answer_tokens": 32}
    trained = {**TRAINED, "task": asked}
    original = checkpoint(store, Finetune.model_validate(trained).model_dump(mode="json"), task_config=asked)
    student = {"family": "bert", "layers": 1, "hidden_size": 16, "heads": 2, "feed_forward_size": 16}
    (distilled,) = compress._stages(
        job({"kind": "distill", "model": student, "training": TRAINING}), 1, original, original
    )
    assert isinstance(distilled, Finetune)
    assert distilled.task.model_fields_set <= {"kind", "max_answer_tokens"}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"kind": "distill", "model": STUDENT, "training": {**TRAINING, "fused_loss": True}}, "fused_loss"),
        ({"kind": "distill", "model": {**STUDENT, "family": "bert", "layers": 1}, "training": TRAINING}, "family"),
    ],
)
def test_trainings_that_cannot_be_are_refused_before_any_begins(
    store: ArtifactStore, step: dict[str, Any], said: str
) -> None:
    checkpoint(store)
    step = (
        {**step, "model": {key: each for key, each in step["model"].items() if "coder" not in key}}
        if (step["model"]["family"] == "bert")
        else step
    )
    with pytest.raises(RequestError, match=said):
        compress.parents(job(step), store)


def test_a_base_model_is_judged_by_its_validation_split(store: ArtifactStore) -> None:
    model = {"family": "gpt2", "layers": 1, "hidden_size": 8, "heads": 1}
    base = Pretrain.model_validate({"output": "base", "shards": "corpus", "steps": 1, "model": model})
    original = checkpoint(store, base.model_dump(mode="json"))
    assert compress._split(job({"kind": "quantize"}), original) == "validation"
    assert compress._split(job({"kind": "quantize"}, split="test"), original) == "test"
    with pytest.raises(ValidationError, match="rising order"):
        job({"kind": "quantize"}, timing={"streams": [8, 1]})


def test_what_is_made_of_a_checkpoint_knows_its_training(store: ArtifactStore) -> None:
    original = checkpoint(store)
    made = commit(store, "checkpoint", "small", config={"kind": "compress"}, details=handed_on(original))
    assert training_of(made) == training_of(original) == original.config
    assert made.details["task_config"] == TASK
    again = commit(store, "checkpoint", "smaller", config={"kind": "compress"}, details=handed_on(made))
    assert training_of(again) == original.config


def test_losses_are_shares_of_the_original_whichever_way_is_better() -> None:
    assert lost("chrf", 50.0, 49.0) == pytest.approx(0.02)
    assert lost("test/perplexity", 10.0, 11.0) == pytest.approx(0.1)
    assert lost("perplexity:en", 10.0, 9.0) == pytest.approx(-0.1)
    assert lost("test/masked_loss", 2.0, 3.0) == pytest.approx(0.5)
    assert lost("f1", 0.0, 0.0) == 0.0
    assert lost("f1", 0.0, 0.1) < 0


def test_points_that_another_beats_are_not_on_the_front() -> None:
    assert unbeaten([(1, 3), (2, 2), (3, 3), (2, 2), (0, 9)]) == [True, True, False, True, True]


def timed(streams: int, seconds: float, whole: tuple[float, ...] = (0.1, 0.3)) -> Timed:
    return Timed(streams, seconds, 100, (0.05, 0.06), whole)


def test_gains_are_medians_of_the_rounds_own_ratios() -> None:
    # The machine is half as fast in the second round, and much faster in the third.
    rounds = [[[timed(1, one)], [timed(1, one / gain)]] for one, gain in ((1.0, 2.0), (2.0, 2.2), (0.1, 1.9))]
    original, small = speeds_of(rounds)
    assert original[0].gain == 1.0
    assert small[0].gain == pytest.approx(2.0)
    assert small[0].rate == pytest.approx(200)
    assert small[0].whole == (0.2, 0.3)


def result(name: str, metric: float | None, gain: float = 1.0, size: int = 1_000_000) -> Result:
    speed = Speed(8, 100 * gain, gain, (0.1, 0.2), (0.5, 0.9))
    between = None if metric is None else (metric - 1, metric + 1)
    return Result(name, f"checkpoint/{name}@1", size, metric, between, {}, 10_000_000, (speed,))


def test_a_gate_is_closed_to_what_lost_too_much_or_gained_too_little() -> None:
    original = result("original", 50.0)
    check_gate(Gate(most_loss=0.01, least_speedup=1.5), "chrf", original, result("a", 49.6, 1.6))
    with pytest.raises(GateClosed, match=r"went from 50 to 49, worse by 2\.0%"):
        check_gate(Gate(most_loss=0.01), "chrf", original, result("a", 49.0))
    with pytest.raises(GateClosed, match=r"1\.20 times"):
        check_gate(Gate(most_loss=0.01, least_speedup=1.5), "chrf", original, result("a", 50.0, 1.2))
    with pytest.raises(GateClosed, match="not judged"):
        check_gate(Gate(most_loss=0.01), "chrf", original, result("a", None))


def test_the_page_shows_every_result_in_both_languages() -> None:
    config = job({"kind": "prune", "layers": 1}, {"kind": "quantize", "scheme": "int4"}, gate={"most_loss": 0.01})
    results = [
        result("original", 50.0),
        result(described(config.steps[0]), 49.9, 1.4, 700_000),
        result(described(config.steps[1]), 45.0, 1.8, 200_000),
    ]
    made = pages(config, "chrf", results)
    assert set(made) == {"report.html", "report.zh.html"}
    for page in made.values():
        for text in ("prune: layers 1", "quantize: int4", "-10.0%", "×1.80", "×0.20", "[44, 46]", "500 / 900"):
            assert text in page
        assert page.count("<circle") == 6
    assert "closed" in made["report.html"]
    assert "未通过" in made["report.zh.html"]
    assert json.dumps([each.plain() for each in results])


def test_the_page_of_results_that_nobody_could_judge_has_sizes() -> None:
    config = job({"kind": "export", "format": "gguf"})
    page = pages(config, "", [Result("original", "a", 900), Result("export: gguf float32", "b", 300)])["report.html"]
    assert "3 times smaller" in page
    assert "<svg" not in page
