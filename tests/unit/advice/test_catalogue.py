"""The catalogue says what can be held against the code: sizes, sources that validate, and what can be tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from llmyard.advice.candidates import shape_of
from llmyard.advice.catalogue import Dataset, Pretrained, catalogue, datasets_for, families_of_tasks
from llmyard.advice.jobs import init_of
from llmyard.advice.listing import markdown, with_tables
from llmyard.advice.question import TaskName
from llmyard.sources.config import FORMAT_TASKS, DocumentSource, ExampleSource
from llmyard.stages.naming import hub_name

README = Path(__file__).parents[3] / "jobs" / "finetune" / "README.md"
MODELS, DATASETS = catalogue().models, catalogue().datasets


def test_names_are_given_once() -> None:
    for entries in (MODELS, DATASETS):
        names = [each.name for each in entries]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("model", [each for each in MODELS if each.shape], ids=lambda model: model.short)
def test_a_shape_has_the_published_number_of_weights(model: Pretrained) -> None:
    assert shape_of(model).parameters == pytest.approx(model.parameters, rel=0.05)
    assert model.config.family == model.kin
    assert model.vocab_size


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.short)
def test_every_family_that_is_trained_has_a_shape_and_no_other_claims_to_be_tuned(model: Pretrained) -> None:
    is_trained = any(model.kin in families for families in families_of_tasks().values())
    assert (model.use != "not_yet") == (is_trained and model.shape is not None)
    assert (model.use == "convert") <= (model.weights == "pickle" or model.tokenizer == "other")
    assert model.source


def test_a_bert_of_the_hub_is_not_offered_for_questions_while_its_tokenizer_drops_their_end() -> None:
    from llmyard.tasks.question_answering import QUESTION_END
    from llmyard.tokens.config import WordPieceTokenizer
    from llmyard.tokens.tokenizer import Tokenizer

    wordpiece = Tokenizer.train(["some text " * 20], WordPieceTokenizer(vocab_size=300))
    assert wordpiece.encode(QUESTION_END) == []
    assert all("question_answering" not in each.tasks for each in MODELS if each.kin == "bert")


@pytest.mark.parametrize("model", [each for each in MODELS if each.use != "not_yet"], ids=lambda model: model.short)
def test_a_tokenizer_is_named_as_the_store_names_it(model: Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    init, tokenizer = init_of(model)
    located = init.replace("hub:./", "hub:/here/")  # a stage makes folders absolute
    assert tokenizer == hub_name(located)


@pytest.mark.parametrize("data", DATASETS, ids=lambda data: data.name)
def test_every_block_is_one_that_jobs_take(data: Dataset) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(DocumentSource if data.tasks == ("pretraining",) else ExampleSource)
    found = adapter.validate_python(data.data)
    if found.kind == "records" and found.format in FORMAT_TASKS:
        assert set(data.tasks) <= set(FORMAT_TASKS[found.format])
    assert data.source


def test_every_task_has_data_and_the_larger_come_first() -> None:
    for task in get_args(TaskName):
        if task == "knowledge_graph":  # none could be verified whose form is read; the synthetic world has examples
            continue
        found = datasets_for(task, ("zh", "en"))
        assert found, task
        assert [each.examples for each in found] == sorted((each.examples for each in found), reverse=True)


def test_a_catalogue_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="licences"):
        Pretrained.model_validate({"name": "a/b", "licences": "MIT"})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_readme_has_todays_tables(language: Any) -> None:
    text = README.read_text(encoding="utf-8")
    how = (
        "run: python -c \"from llmyard.advice.listing import rewrite; rewrite('jobs/finetune/README.md')\" with a Path"
    )
    assert f"<!-- catalogue {language} -->\n{markdown(language)}<!-- end -->" in text, how
    assert with_tables(text) == text
    for model in MODELS:
        assert f"| {model.name} |" in markdown(language)
