"""What is recommended: always something, never more than the machine has without saying so, and jobs that validate."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.advice import texts
from llmyard.advice.candidates import candidates
from llmyard.advice.catalogue import catalogue
from llmyard.advice.jobs import header_of, text_of_job
from llmyard.advice.question import Hardware, Question, TaskName
from llmyard.advice.reasons import TOPICS
from llmyard.advice.recommend import Suggestion, recommend, short
from llmyard.advice.rules import rate_by_size, rules, upto
from llmyard.advice.texts import said
from llmyard.core.jobfile import parse_job
from llmyard.stages.config import Finetune, Pipeline, Pretrain, job_adapter
from llmyard.training.config import FAMILIES

TEXTS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(texts.__file__).with_name("texts.yaml").read_text(encoding="utf-8")
)
TASKS = get_args(TaskName)
SMALL, LARGE = Hardware(cpus=2, memory_gb=16), Hardware(gpus=1, gpu_memory_gb=80)


@st.composite
def machines(draw: st.DrawFn) -> Hardware:
    return Hardware(
        gpus=draw(st.sampled_from([0, 0, 1, 2, 3, 8, 64])),
        gpu_memory_gb=draw(st.sampled_from([4, 12, 24, 80])),
        cpus=draw(st.sampled_from([1, 2, 3, 4, 16, 64])),
        memory_gb=draw(st.sampled_from([1, 4, 8, 16, 64, 512])),
    )


@st.composite
def questions(draw: st.DrawFn) -> Question:
    return Question(
        task=draw(st.sampled_from(TASKS)),
        languages=draw(st.sampled_from([("zh",), ("en",), ("zh", "en"), ("en", "zh")])),
        examples=draw(st.none() | st.integers(1, 50) | st.integers(50, 10**6) | st.integers(10**6, 10**11)),
        tokens=draw(st.none() | st.integers(1, 2000) | st.integers(2000, 10**6)),
        hardware=draw(machines()),
        hours=draw(st.none() | st.sampled_from([0.1, 5, 1000])),
        **{name: draw(st.booleans()) for name in ("interactive", "open_domain", "structured", "long_texts", "offline")},
    )


@settings(max_examples=200, deadline=None)
@given(question=questions(), data=st.sampled_from([None, None, "data/mine.jsonl", "data/mine.tsv"]))
def test_any_question_gets_suggestions_that_hold(question: Question, data: str | None) -> None:
    found = recommend(question, data)
    assert found
    assert [each.merit for each in found] == sorted((each.merit for each in found), reverse=True)
    for each in found:
        _check_memory(each, question)
        _check_job(each, question, data)
        _check_reasons(each)


def _check_memory(each: Suggestion, question: Question) -> None:
    machine = question.hardware
    keys = {reason.key for reason in each.reasons}
    for made, key in ((each.candidate.plan, "memory exceeded"), (each.candidate.before, "memory exceeded_before")):
        if made is None:
            continue
        there = machine.gpu_memory_gb if machine.has_gpus else machine.memory_gb / made.workers
        assert made.available < there * 1e9
        assert (made.memory.total > made.available) == (key in keys)
        assert made.workers * (1 if machine.has_gpus else made.cpus_per_worker) <= machine.devices
    if not each.candidate.fits:  # what does not fit stands there only where nothing does
        assert not any(other.fits for other in candidates(question))


def _check_job(each: Suggestion, question: Question, data: str | None) -> None:
    text = text_of_job(each.job, header_of(each.candidate, question, data))
    job = parse_job(text, "job.yaml", job_adapter())
    assert isinstance(job, Pipeline)
    trained = [stage for stage in job.stages if isinstance(stage, (Pretrain, Finetune))]
    last, plan = trained[-1], each.candidate.plan
    assert (last.steps, last.batch.size, last.batch.micro_batch) == (plan.steps, plan.batch, plan.way.micro_batch)
    if isinstance(last, Finetune):
        assert each.candidate.family in last.task.families
        assert last.task.longest(each.candidate.family) == plan.way.length
        if each.candidate.published is not None:
            assert plan.way.length <= each.candidate.published.context
    else:
        assert each.candidate.family in FAMILIES[last.objective.kind]
    if question.offline:
        assert "hub:" not in text.partition("kind: pipeline")[2]
        assert "kind: hub" not in text


def _check_reasons(each: Suggestion) -> None:
    assert {reason.topic for reason in each.reasons} == set(TOPICS)
    for reason in each.reasons:
        for language in ("en", "zh"):
            sentence = said(reason, language)  # type: ignore[arg-type]
            assert sentence
            assert "{" not in sentence.replace("{kind: full, layer_decay: 0.9}", "")


def test_every_text_is_there_in_both_languages_with_the_same_values() -> None:
    def values(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, each in TEXTS.items():
        assert set(each) == {"en", "zh"}, key
        assert all(isinstance(text, str) and text for text in each.values()), key
        assert values(each["en"]) == values(each["zh"]), key
        if not key.startswith(("column", "start", "way", "other")):
            assert any("\u4e00" <= letter <= "\u9fff" for letter in each["zh"]), key


@pytest.mark.parametrize("task", TASKS)
def test_every_tables_last_line_has_no_limit_and_every_shape_its_family(task: str) -> None:
    use = rules()
    tables = [use.batch, use.vocabulary, use.sequence, use.pretrain_batch, *use.epochs.values()]
    assert all(table[-1].upto == float("inf") for table in tables)
    assert upto(use.batch, 10**15) == use.batch[-1].value
    assert task in use.tasks
    assert use.tasks[task].own in use.shapes
    for family, shapes in use.shapes.items():
        assert {shape.family for shape in shapes} == {family}
        assert family in FAMILIES[use.objectives[family]["kind"]]


def best(**fields: Any) -> Suggestion:
    return recommend(Question(**{"task": "classification", "languages": ("zh",), "hardware": SMALL} | fields))[0]


def test_a_pretrained_encoder_labels_where_examples_are_few() -> None:
    found = best(examples=3000)
    assert (found.name, found.candidate.method) == ("google-bert/bert-base-chinese", "full")
    assert best(examples=200).candidate.method == "frozen"
    assert best(examples=3000, offline=True).candidate.start == "own_base"
    assert best(examples=3000, languages=("zh", "en")).name == "FacebookAI/xlm-roberta-base"


def test_embeddings_are_disturbed_only_where_they_are_trained_and_examples_few() -> None:
    def stage(**fields: Any) -> Any:
        return next(each for each in best(**fields).job["stages"] if each["kind"] == "finetune")

    assert stage(examples=3000)["adversarial"] == {"kind": "fgm"}
    assert "adversarial" not in stage(examples=200)  # the lower half is frozen, embeddings too
    assert "adversarial" not in stage(examples=50_000)


def test_short_own_examples_are_not_cleaned_away_and_stand_in_the_file_once() -> None:
    question = Question(task="classification", hardware=SMALL, offline=True)
    found = recommend(question, "mine.jsonl")[0]
    text = text_of_job(found.job, header_of(found.candidate, question, "mine.jsonl"))
    assert found.job["stages"][0]["clean"] == ["normalize"]
    assert text.count("mine.jsonl") == 1
    assert "&data" in text
    assert "*data" in text


def test_the_time_there_is_decides_too() -> None:
    assert best(examples=3000, hours=0.5).candidate.start != "hub"


def test_a_large_decoder_is_tuned_by_lora_where_a_gpu_holds_it() -> None:
    found = best(task="instruction", languages=("zh", "en"), hardware=LARGE)
    assert (found.name, found.candidate.method) == ("Qwen/Qwen2.5-7B", "lora")
    assert found.job["stages"][0]["precision"] == "bfloat16"
    assert best(task="instruction", languages=("zh", "en")).candidate.start == "own_base"
    few = candidates(Question(task="instruction", languages=("zh",), hardware=LARGE, examples=100))
    assert "prompt_tuning" in {each.method for each in few}


def test_less_memory_makes_smaller_micro_batches_then_activations_computed_again() -> None:
    def plan(gb: float) -> Any:
        return best(task="instruction", languages=("zh", "en"), hardware=Hardware(gpus=1, gpu_memory_gb=gb)).candidate

    roomy, tight = plan(80).plan, plan(24).plan
    assert roomy.memory.total > tight.memory.total
    assert tight.way.checkpointing or tight.way.micro_batch < roomy.way.micro_batch
    assert tight.batch == roomy.batch


def test_many_pairs_are_translated_from_random_weights() -> None:
    assert best(task="translation", languages=("zh", "en"), examples=5_000_000).candidate.start == "scratch"


def test_open_questions_want_a_model_that_writes() -> None:
    asked = {"task": "question_answering", "languages": ("zh", "en"), "open_domain": True}
    assert best(**asked, hardware=LARGE).candidate.family == "llama"
    assert not best(**asked, offline=True).candidate.labels


def test_pretraining_takes_the_size_that_text_and_compute_feed() -> None:
    def size(**fields: Any) -> Any:
        return best(task="pretraining", offline=True, **fields).candidate

    short_text, long_text = size(examples=10_000, tokens=500), size(examples=10**7, tokens=1000, hardware=LARGE)
    assert short_text.shape.parameters < 20e6 < long_text.shape.parameters
    use = rules()
    for each, text in ((short_text, 5e6), (long_text, 1e10)):
        assert each.plan.tokens <= 1.05 * min(20 * each.shape.parameters, use.worthwhile_epochs * text) + 1e5
    assert size(examples=10**7, tokens=1000).shape.parameters < long_text.shape.parameters
    assert long_text.plan.learning_rate == rate_by_size(long_text.shape.parameters)


def test_a_model_too_large_for_one_gpu_is_divided() -> None:
    def way(gpus: int) -> Any:
        machine = Hardware(gpus=gpus, gpu_memory_gb=80)
        asked = Question(
            task="pretraining", languages=("en",), examples=10**9, tokens=1000, hardware=machine, hours=9e4
        )
        return recommend(asked)[0].candidate.plan

    assert way(1).way.shards == 1
    assert way(64).way.shards == 64
    assert way(64).optimizer == "adamw"


def test_models_that_would_suit_but_are_not_trained_here_are_named() -> None:
    found = best(task="translation", languages=("zh", "en"), hardware=LARGE)
    named = " ".join(said(each, "en") for each in found.reasons if each.key == "not_yet")
    assert "Helsinki-NLP/opus-mt-zh-en" in named
    offered = {each.candidate.family for each in recommend(Question(task="translation", hardware=LARGE))}
    assert "marian" not in offered
    assert {each.family for each in catalogue().models if each.use == "not_yet"} == {"marian", "m2m_100"}


def test_learning_rates_fall_with_size_and_numbers_are_short() -> None:
    rates = [rate_by_size(10**power) for power in range(7, 11)]
    assert rates == sorted(rates, reverse=True)
    assert 3e-4 < rate_by_size(125_000_000) < 8e-4
    assert [short(each) for each in (950, 8000, 110_000_000, 7_000_000_000)] == ["950", "8K", "110M", "7B"]
