"""What `deploy` takes, refuses and counts, without a cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import MissingArtifact, RequestError
from llmyard.core.storage import Storage
from llmyard.serving import keys
from llmyard.stages.config import deployed_by, job_adapter, stages_of
from llmyard.stages.deploy import parents
from llmyard.stages.placement import demands, shortfall
from llmyard.stages.run import missing_inputs, run, states

MODEL = {"family": "gpt2", "layers": 1, "hidden_size": 32, "heads": 2}
PRETRAIN = {"kind": "pretrain", "output": "b", "shards": "c", "steps": 9, "sequence_length": 64, "model": MODEL,
            "batch": {"size": 8, "micro_batch": 4}}  # fmt: skip
PREPARE = {"kind": "prepare", "output": "c", "sources": [{"kind": "smallworld"}]}
EVALUATE = {"kind": "evaluate", "output": "r", "checkpoint": "b", "register_as": {"name": "zh-en"}}


def job(**more: Any) -> Any:
    return job_adapter().validate_python({"kind": "deploy", "models": ["base"], **more})


def pipeline(*stages: dict[str, Any]) -> Any:
    return job_adapter().validate_python({"kind": "pipeline", "name": "p", "stages": list(stages)})


@pytest.fixture
def store(tiny: Any, tmp_path: Path) -> ArtifactStore:
    shutil.copytree(tiny.store.storage.uri, tmp_path / "store")
    return ArtifactStore(Storage(str(tmp_path / "store")))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"models": []}, "at least 1 item"),
        ({"models": ["a", "a"]}, "'a' is named twice"),
        ({"canaries": [{"model": "base", "beside": "base"}]}, "'base' is named twice"),
        ({"canaries": [{"model": name, "beside": "base"} for name in "xy"]}, "two canaries are beside 'base'"),
        ({"scale": {"least": 3, "most": 2}}, "most is 2, less than least"),
        ({"endpoint": "a b"}, "endpoint"),
        ({"output": "x"}, "output"),
        ({"port": 0}, "port"),
    ],
)
def test_what_no_endpoint_can_be_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        job(**more)


def test_it_ends_a_pipeline_and_is_no_trial() -> None:
    deploy = {"kind": "deploy", "models": ["b"]}
    whole = pipeline(PREPARE, PRETRAIN, deploy)
    assert deployed_by(whole) == whole.stages[-1]
    assert [stage.output for stage in stages_of(whole)] == ["c", "b", "llmyard"]
    assert deployed_by(pipeline(PREPARE, PRETRAIN)) is None
    with pytest.raises(ValidationError, match="stands behind `deploy`"):
        pipeline(PREPARE, deploy, PRETRAIN)
    sweep = {"kind": "sweep", "output": "s", "job": {"kind": "pipeline", "name": "p", "stages": [PRETRAIN, deploy]},
             "space": {"stages.b.steps": [1, 2]}, "objective": {"metric": "validation_loss"},
             "budget": {"trials": 2}}  # fmt: skip
    with pytest.raises(ValidationError, match="an endpoint is no trial"):
        job_adapter().validate_python(sweep)


def test_what_earlier_stages_make_or_register_is_there_for_it(store: ArtifactStore) -> None:
    def missing(*models: str, **more: Any) -> list[str]:
        return missing_inputs(
            pipeline(PREPARE, PRETRAIN, EVALUATE, {"kind": "deploy", "models": models, **more}), store
        )

    assert missing("b", "checkpoint/base", "models:/zh-en@champion", "hub:org/model@main") == []
    assert missing("b", canaries=[{"model": "base", "beside": "b"}]) == []
    assert missing("x", "models:/zh-en@next", index="passages") == [
        "deploy llmyard: no checkpoint 'x'",
        "deploy llmyard: no checkpoint 'models:/zh-en@next'",
        "deploy llmyard: no index 'passages'",
    ]


def test_it_is_never_skipped_and_its_models_are_pinned(store: ArtifactStore) -> None:
    whole = job(models=["base", "checkpoint/translator"])
    assert states(whole, store) == ["run"]
    found = parents(whole, store)
    assert [found[f"model {name}"].reference for name in whole.models] == [
        store.get("base").reference, store.get("translator").reference,
    ]  # fmt: skip
    with pytest.raises(MissingArtifact, match="no artifact checkpoint 'x'"):
        parents(job(models=["x"]), store)
    with pytest.raises(RequestError, match="again"):
        parents(job(models=["base", "checkpoint/base"]), store)


@pytest.mark.parametrize(
    ("models", "beside", "known"),
    [
        (["base"], "base", True),
        (["hub:org/model@main"], "hub-org-model", True),
        (["base"], "translator", False),
    ],
)
def test_a_canary_is_beside_a_model_of_the_endpoint(
    store: ArtifactStore, models: list[str], beside: str, known: bool
) -> None:
    whole = job(models=models, canaries=[{"model": "triples", "beside": beside}])
    if known:
        assert "model triples" in parents(whole, store)
    else:
        with pytest.raises(RequestError, match=r"canaries\.0\.beside: the endpoint has no model 'translator'"):
            parents(whole, store)


def test_its_replicas_count_where_a_cluster_is_asked_for_room() -> None:
    whole = job(scale={"least": 3, "most": 5, "cpus": 2})
    (demand,) = demands(whole)
    assert (demand.place, demand.stage, demand.count, demand.most) == (("scale",), "deploy llmyard", 3, 5)
    assert shortfall(demand, [{"CPU": 4}, {"CPU": 1}]) == "3 workers need 6 CPUs, the cluster has 5"
    assert shortfall(demand, [{"CPU": 4}, {"CPU": 2}]) is None
    (awake,) = demands(job(scale={"least": 0, "most": 1}))
    assert awake.count == 1


@pytest.mark.parametrize("address", [None, "local"])
def test_an_endpoint_that_would_end_with_its_driver_is_refused(store: ArtifactStore, address: str | None) -> None:
    import ray

    if ray.is_initialized():  # by another test of the same process: a notebook's own Ray is joined
        pytest.skip("this process is connected to a Ray")
    keys.keep(store.storage, keys.new_key())
    with pytest.raises(RequestError, match="needs a cluster that goes on running") as refused:
        run(job(), storage=store.storage.uri, address=address)
    assert "llmyard serve" in refused.value.remedy


def test_an_endpoint_that_knows_no_key_is_refused_before_anything_starts(store: ArtifactStore) -> None:
    with pytest.raises(RequestError, match="no API key") as refused:
        run(job(), storage=store.storage.uri, address="127.0.0.1:1")
    assert f"llmyard keys make --storage {store.storage.uri}" in refused.value.remedy
