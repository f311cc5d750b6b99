"""What `evaluate` takes: splits that hold something, a limit a split, names that MLflow takes too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.evaluation.endpoint import EndpointFailed, LiveModel
from llmyard.sources.examples import plan_examples
from llmyard.stages import answering, evaluate
from llmyard.stages.asked import Asked
from llmyard.stages.config import Evaluate, Finetune, job_adapter

PAIR = {"source_language": "en", "target_language": "zh", "target": "你好。"}


def base(store: ArtifactStore, metrics: dict[str, float], **config: Any) -> None:
    with store.begin("shards", "corpus", "1") as draft:
        shards = draft.commit(config={"kind": "prepare"}, parents=[], metrics=metrics)
    with store.begin("checkpoint", "base", "2") as draft:
        draft.commit(config={"kind": "pretrain", **config}, parents=[shards.reference], metrics={})


@pytest.mark.parametrize("tokens", [0.0, 32.0])
def test_a_split_without_a_sequence_is_refused_before_anything_runs(tmp_path: Path, tokens: float) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    base(store, {"tokens_train": 9e3, "tokens_validation": 500.0, "tokens_test": tokens}, sequence_length=32)
    right = Evaluate(output="report", checkpoint="base", splits=("validation",))
    assert set(evaluate.parents(right, store)) == {"checkpoint", "shards"}
    with pytest.raises(RequestError, match="has no split 'test'") as caught:
        evaluate.parents(Evaluate(output="report", checkpoint="base"), store)
    assert caught.value.remedy == "one of: validation"


def test_a_base_model_without_held_out_text_tells_what_to_do(tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    base(store, {"tokens_train": 9e3}, sequence_length=32)
    with pytest.raises(RequestError, match="splits:"):
        evaluate.parents(Evaluate(output="report", checkpoint="base"), store)


def translation(data: dict[str, Any]) -> Finetune:
    model = {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1, "hidden_size": 16, "heads": 2,
             "feed_forward_size": 16}  # fmt: skip
    return Finetune.model_validate(
        {"output": "m", "task": {"kind": "translation"}, "tokenizer": "t", "model": model, "data": data, "steps": 1}
    )


def asked(trained: Any) -> Any:
    return Asked(trained.task, trained.data, "transformer")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_units(units: list[Any], work: Callable[[Any], Any]) -> Iterator[Any]:
        return map(work, reversed(units))  # results come in any order

    monkeypatch.setattr("llmyard.runtime.datasets.map_units", map_units)


@pytest.mark.usefixtures("here")
def test_a_limit_counts_the_examples_of_a_split_and_not_of_a_file(tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 1), ("c", 5)):
        rows = [json.dumps({**PAIR, "source": f"Hello {index}."}, ensure_ascii=False) for index in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*rows, "{"]), encoding="utf-8")
    trained = translation(
        {"kind": "records", "train": str(tmp_path), "validation": str(tmp_path), "test": str(tmp_path)}
    )
    units = plan_examples(trained.data, "test")
    assert len(units) == 3
    for limit, shares in ((None, [answering.WHOLE] * 3), (3, [3, 0, 0]), (6, [4, 1, 1]), (99, [4, 1, 5])):
        assert answering._shares(limit, units, asked(trained)) == shares


@pytest.mark.usefixtures("here")
def test_generated_and_single_file_examples_need_no_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "Count", None)
    trained = translation({"kind": "smallworld", "test": 1200})
    assert answering._shares(700, plan_examples(trained.data, "test"), asked(trained)) == [500, 200, 0]
    (tmp_path / "a.jsonl").write_text("{}", encoding="utf-8")
    path = str(tmp_path / "a.jsonl")
    trained = translation({"kind": "records", "train": path, "validation": path, "test": path})
    assert answering._shares(7, plan_examples(trained.data, "test"), asked(trained)) == [7]


@pytest.mark.parametrize("name", ["it's/bad name:", "", " ", "a@b", 'a"b', "a\nb", "..", "x" * 251, "50%"])
def test_a_name_that_mlflow_refuses_is_refused_in_the_job(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot name a registered model"):
        Evaluate.model_validate({"output": "r", "checkpoint": "c", "register_as": {"name": name}})


@pytest.mark.parametrize("alias", ["", "a b", "latest", "Latest", "v1", "12", "a/b", "x" * 256])
def test_an_alias_that_mlflow_refuses_is_refused_in_the_job(alias: str) -> None:
    with pytest.raises(ValidationError, match="cannot be an alias"):
        Evaluate.model_validate({"output": "r", "checkpoint": "c", "register_as": {"name": "m", "alias": alias}})


def test_good_names_are_taken() -> None:
    for name, alias in (("smallworld-triples", "champion"), ("翻译 模型_2", "冠军"), ("a.b", "v1-rc")):
        Evaluate.model_validate({"output": "r", "checkpoint": "c", "register_as": {"name": name, "alias": alias}})


def test_data_of_another_task_are_refused_before_anything_is_read() -> None:
    data = {"kind": "records", "format": "squad", "train": "/nowhere.json"}
    with pytest.raises(ValidationError, match="format squad holds examples of question_answering, not of translation"):
        translation(data)
    asked = {"kind": "evaluate", "output": "r", "checkpoint": "c", "task": {"kind": "summarization"}}
    with pytest.raises(ValidationError, match="kind parallel holds examples of translation"):
        job_adapter().validate_python({**asked, "data": {"kind": "parallel", "paths": ["x.tsv"]}})


class Behind:
    """A model behind a URL, as far as :func:`answering._one_model_answers` asks it."""

    url = "http://127.0.0.1:1"

    def __init__(self, name: str) -> None:
        self.name = name

    def identity(self) -> str:
        return self.name


def test_answers_of_one_model_are_never_mixed_with_those_of_the_next(tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    with store.begin("report", "r", "1") as draft:
        for folder in ("predictions", "predictions-without", "predictions-other"):
            draft.storage.write(f"{draft.folder}/{folder}/test-000000-0.json", b"[]")

        def there() -> set[str]:
            return {each.path.partition("/")[0] for each in draft.storage.list(draft.folder, recursive=True)}

        def begun(name: str) -> None:
            answering._one_model_answers(cast(Any, Behind(name)), draft)

        begun("one")
        assert {"predictions", "predictions-without", "predictions-other"} <= there()
        begun("one")  # the run goes on
        assert "predictions" in there()
        begun("another")
        assert not {"predictions", "predictions-without"} & there()
        assert "predictions-other" in there()


def test_a_model_that_changes_while_it_is_asked_has_no_figures() -> None:
    live: Any = Behind("one")
    answering._refuse_another(live, "one")
    answering._refuse_another(None, "")
    live.name = "another"
    with pytest.raises(EndpointFailed, match="changed its model while it was asked: one before, another now"):
        answering._refuse_another(live, "one")


def test_a_model_from_elsewhere_is_probed_without_examples(tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    with store.begin("checkpoint", "gpt2", "1") as draft:
        draft.commit(config={"kind": "import"}, parents=[], metrics={})
    probes = Evaluate.model_validate({"output": "report", "checkpoint": "gpt2", "bias": {"probes": ["smallworld"]}})
    assert set(evaluate.parents(probes, store)) == {"checkpoint"}
    with pytest.raises(RequestError, match="not trained here"):
        evaluate.parents(Evaluate(output="report", checkpoint="gpt2"), store)


def test_a_live_model_is_asked_and_scored_with_its_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"kind": "smallworld"}
    config = Evaluate.model_validate({
        "output": "r", "endpoint": {"url": "http://127.0.0.1:1", "model": "m"}, "data": data,
        "task": {"kind": "summarization", "sentences": 2},
    })  # fmt: skip
    about = {"id": "m", "artifact": "checkpoint/m@1", "task": "summarization", "family": "text_classifier"}
    monkeypatch.setattr(LiveModel, "about", lambda self: about)
    model = LiveModel("http://127.0.0.1:1", "m")
    assert Asked.live(model, config).config == config.task  # of an older endpoint
    about["task_config"] = {"kind": "summarization", "sentences": 5}
    assert getattr(Asked.live(model, config).config, "sentences", 0) == 5
