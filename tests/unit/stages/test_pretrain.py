"""What ``pretrain`` refuses before Ray starts, and how its sources are mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import ConfigError, DataError, RequestError
from llmyard.core.jobfile import load_job
from llmyard.core.storage import Storage
from llmyard.stages.config import Prepare, Pretrain, job_adapter
from llmyard.stages.pretrain import parents, phases_in, shown
from llmyard.tokens import shard_index
from llmyard.tokens.shards import ShardWriter

SIZES = {"新闻": 3000, "books": 1000}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path)))


def corpus(store: ArtifactStore, weights: dict[str, float]) -> Artifact:
    """Commits shards as ``prepare`` does."""
    with store.begin("tokenizer", "corpus", "t") as draft:
        tokenizer = draft.commit(config={}, parents=[], metrics={})
    with store.begin("shards", "corpus", "s") as draft:
        entries, facts = [], []
        for number, (source, size) in enumerate(SIZES.items()):
            for split in ("train", "validation"):
                writer = ShardWriter(draft.storage.local(draft.folder), f"{split}-{number}", np.dtype("<u2"), 64)
                for start in range(0, size, 500 if number else 100):
                    writer.add(range(start, start + (500 if number else 100)), document=str(start), source=source)
                entries += writer.close()
                facts.append(writer.facts)
        entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(facts)))
        sources = [{"kind": "files", "name": name, "weight": weight} for name, weight in weights.items()]
        return draft.commit(
            config={"kind": "prepare", "sources": sources},
            parents=[tokenizer.reference], metrics={"tokens_train": 4000.0, "tokens_validation": 4000.0}, files=entries,
        )  # fmt: skip


def job(**fields: Any) -> Pretrain:
    return Pretrain.model_validate(
        {"output": "base", "shards": "corpus", "model": {"family": "gpt2"}, "steps": 100,
         "batch": {"size": 8, "micro_batch": 4}, "sequence_length": 64, **fields}
    )  # fmt: skip


EQUAL = {"新闻": 1.0, "books": 1.0}


def test_an_unknown_source_is_refused_with_the_known_and_the_nearest(store: ArtifactStore) -> None:
    corpus(store, EQUAL)
    with pytest.raises(RequestError, match="unknown source 'boks'") as caught:
        parents(job(mixture={"shares": {"新闻": 1, "boks": 1}}), store)
    assert caught.value.remedy == "did you mean 'books'?; corpus holds: 新闻, books"
    curriculum = [{"until": 0.5, "shares": {"新闻": 1, "书": 1}}]
    with pytest.raises(RequestError, match="unknown source '书'"):
        parents(job(mixture={"curriculum": curriculum}), store)


def test_every_source_needs_a_share(store: ArtifactStore) -> None:
    corpus(store, EQUAL)
    with pytest.raises(RequestError, match="no share for source '新闻'") as caught:
        parents(job(mixture={"shares": {"books": 1}}), store)
    assert "give 0 to leave one out" in caught.value.remedy
    assert set(parents(job(mixture={"shares": {"books": 1, "新闻": 0}}), store)) == {"shards", "tokenizer"}


def test_weights_multiply_the_sizes(store: ArtifactStore) -> None:
    assert phases_in(job(), corpus(store, EQUAL)) == ()


@pytest.mark.parametrize(
    ("packing", "wanted"),
    [("concatenate", {"新闻": 0.5, "books": 0.5}), ("document", {"新闻": 0.833333, "books": 0.166667})],
)
def test_a_source_of_triple_weight_comes_three_times_as_often(
    store: ArtifactStore, packing: str, wanted: dict[str, float]
) -> None:
    shards = corpus(store, {"新闻": 1.0, "books": 3.0})
    phases = phases_in(job(packing=packing), shards)
    assert shown(phases, 800) == [{"until": 1.0, "shares": wanted}]


def test_a_curriculum_stands_in_the_details(store: ArtifactStore) -> None:
    shards = corpus(store, EQUAL)
    curriculum = [{"until": 0.25, "shares": {"新闻": 1, "books": 0}}]
    phases = phases_in(job(mixture={"curriculum": curriculum}), shards)
    assert [phase.samples for phase in phases] == [200, None]
    assert shown(phases, 800) == [
        {"until": 0.25, "shares": {"新闻": 1.0, "books": 0.0}}, {"until": 1.0, "shares": {"新闻": 0.75, "books": 0.25}},
    ]  # fmt: skip


def test_a_source_too_short_for_one_sequence_is_refused(store: ArtifactStore) -> None:
    shards = corpus(store, EQUAL)
    drawn = {"mixture": {"shares": {"新闻": 1, "books": 1}}, "sequence_length": 2000}
    with pytest.raises(DataError, match=r"source 'books' of shards/corpus@.* has no shard of one sequence"):
        phases_in(job(**drawn), shards)
    assert phases_in(job(**drawn, packing="best_fit"), shards)
    assert phases_in(job(mixture={"shares": {"新闻": 1, "books": 0}}, sequence_length=2000), shards)


def test_sources_of_one_name_have_one_weight() -> None:
    def prepare(*weights: float) -> Prepare:
        sources = [{"kind": "files", "paths": ["/x"], "weight": weight} for weight in weights]
        return Prepare.model_validate({"output": "corpus", "sources": sources})

    assert prepare(2.0, 2.0)
    with pytest.raises(ValidationError, match="sources named 'files' have different weights"):
        prepare(1.0, 2.0)


def test_a_job_file_names_the_place_of_a_wrong_share(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "kind: pretrain\noutput: base\nshards: corpus\nmodel: {family: gpt2}\nsteps: 10\n"
        "mixture:\n  shares:\n    新闻: 1\n    books: -1\n  curriculum: [{untill: 0.5, shares: {books: 1}}]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_job(path, job_adapter())
    assert "job.yaml:9:12: mixture.shares.books" in str(caught.value)
    assert "did you mean 'until'?" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parallel": {"tensor": 2}, "resources": {"workers": 2}}, "parallel.tensor divides llama, not gpt2"),
        ({"parallel": {"shard": 3}, "resources": {"workers": 4}}, "parallel needs 3 workers"),
        ({"parallel": {"shard": 2}, "resources": {"workers": {"max": 2}}}, "divides a fixed number of workers"),
        ({"parallel": {"shard": 2}, "optimizer": {"kind": "muon"}}, "parallel.shard needs adamw"),
        ({"parallel": {"pipeline": 2}, "document_boundaries": True}, "without document_boundaries"),
        ({"parallel": {"pipeline": 2}, "precision": "float16"}, "whole models only"),
        ({"fused_loss": True, "z_loss": 1e-4}, "the logits that `fused_loss` never holds"),
        ({"model": {"family": "transformer_xl"}, "fused_loss": True}, "not with transformer_xl"),
        ({"keep_best": True}, "give `evaluate_every_steps` too"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_or_computed_is_refused_when_the_job_is_read(
    fields: dict[str, Any], message: str
) -> None:
    plain = {"kind": "pretrain", "output": "x", "shards": "s", "steps": 4, "model": {"family": "gpt2"}}
    with pytest.raises(ValidationError, match=message):
        job_adapter().validate_python({**plain, "batch": {"size": 48, "micro_batch": 4}, **fields})
