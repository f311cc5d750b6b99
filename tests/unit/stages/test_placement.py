"""Whether a cluster can ever run a job."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.stages.config import job_adapter
from llmyard.stages.placement import Demand, demands, shortfall

MODEL = {"family": "gpt2", "layers": 1, "hidden_size": 32, "heads": 2}
PRETRAIN = {"kind": "pretrain", "output": "b", "shards": "c", "steps": 9, "sequence_length": 64, "model": MODEL,
            "batch": {"size": 8, "micro_batch": 4}}  # fmt: skip
COMMAND = {"kind": "command", "output": "o", "command": ["true"], "resources": {"cpus": 3, "gpus": 0.5}}


def of(job: dict[str, Any]) -> list[tuple[Any, int, Any]]:
    found = demands(job_adapter().validate_python(job))
    return [(each.place, each.count, dict(each.each)) for each in found]


def need(count: int, **each: float) -> Demand:
    return Demand((), "pretrain base", count, each)


def test_each_part_of_a_job_says_what_it_holds() -> None:
    workers = {"resources": {"workers": {"min": 2, "max": 8}, "cpus_per_worker": 2, "gpus_per_worker": 1}}
    prepare = {"kind": "prepare", "output": "c", "sources": [{"kind": "smallworld"}]}
    job = {"kind": "pipeline", "name": "p", "stages": [prepare, PRETRAIN | workers, COMMAND]}
    assert of(job) == [
        (("stages", 0), 1, {"CPU": 1}),
        (("stages", 1, "resources"), 2, {"CPU": 2, "GPU": 1}),
        (("stages", 2, "resources"), 1, {"CPU": 3, "GPU": 0.5}),
    ]
    assert of(COMMAND) == [(("resources",), 1, {"CPU": 3, "GPU": 0.5})]


def test_what_a_sweep_or_a_compression_trains_counts_too() -> None:
    sweep = {"kind": "sweep", "output": "s", "job": PRETRAIN | {"resources": {"workers": 1, "gpus_per_worker": 1}},
             "space": {"optimizer.learning_rate": "loguniform(1e-4, 1e-2)"},
             "objective": {"metric": "validation_loss"}, "budget": {"trials": 2}}  # fmt: skip
    assert (("job", "resources"), 1, {"CPU": 1, "GPU": 1}) in of(sweep)
    recovery = {"steps": 3, "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 2}}
    compress = {"kind": "compress", "output": "s", "checkpoint": "b",
                "steps": [{"kind": "prune", "layers": 1, "recovery": recovery}]}  # fmt: skip
    assert of(compress) == [(("steps", 0, "recovery", "resources"), 2, {"CPU": 1, "GPU": 0})]


@pytest.mark.parametrize(
    ("demand", "nodes", "said"),
    [
        (need(2, CPU=1, GPU=1), [{"CPU": 8}], "2 workers need 2 GPUs, the cluster has 0"),
        (need(1, CPU=3), [{"CPU": 2}], "it needs 3 CPUs, the cluster has 2"),
        (need(1, CPU=4), [{"CPU": 2}, {"CPU": 2}], "each worker needs 4 CPUs on one node, the largest node has 2"),
        (need(2, CPU=2), [{"CPU": 3}, {"CPU": 1}], "the nodes have room for 1"),
        (need(1, CPU=1, GPU=1), [{"CPU": 8}, {"GPU": 1}], "1 CPUs and 1 GPUs each, the nodes have room for 0"),
        (need(1, CPU=1), [], "the cluster has 0"),
    ],
)
def test_the_missing_resource_is_named(demand: Demand, nodes: list[dict[str, float]], said: str) -> None:
    why = shortfall(demand, nodes)
    assert why is not None
    assert said in why


def test_tenths_add_up() -> None:
    assert shortfall(need(10, CPU=0.1), [{"CPU": 1}]) is None


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=5),
)
def test_it_fits_exactly_if_it_can_be_laid_out(count: int, cpus: int, gpus: int, nodes: list[tuple[int, int]]) -> None:
    rooms = sum(min(has // cpus, gpu // gpus if gpus else 99) for has, gpu in nodes)
    why = shortfall(need(count, CPU=cpus, GPU=gpus), [{"CPU": has, "GPU": gpu} for has, gpu in nodes])
    assert (why is None) == (rooms >= count)
