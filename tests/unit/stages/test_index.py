"""`index`: passages of a prepared corpus as its tokenizer reads them back, zh and en; what cannot be indexed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, MissingArtifact, RequestError
from llmyard.core.storage import Storage
from llmyard.stages import evaluate, index
from llmyard.stages.config import Evaluate, Index, job_adapter
from llmyard.tasks.passages import Passages
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.shards import ShardWriter, token_dtype
from llmyard.tokens.tokenizer import FILE, Tokenizer

DOCUMENTS = {
    "train": {"towns#1": "Malo lives in Kora Town. It has nine bridges.", "城镇#1": "马洛住在科拉镇。镇上有九座桥。"},
    "test": {"lamps#1": "A green lamp stands on the table.", "灯#1": "桌上有一盏绿色的灯。"},
}
TEXTS = [text for documents in DOCUMENTS.values() for text in documents.values()]
JOB = {"kind": "index", "output": "library", "shards": "corpus"}


def prepared(store: ArtifactStore, documents: dict[str, dict[str, str]] = DOCUMENTS) -> Artifact:
    """Writes a corpus; its tokenizer extends another one, which is a parent too."""
    tokenizers = []
    for number, texts in enumerate((TEXTS[:1], TEXTS)):
        tokenizer = Tokenizer.train(texts * 3, BpeTokenizer(vocab_size=300 + 60 * number, split_han=True))
        with store.begin("tokenizer", ("first", "corpus")[number], str(number)) as draft:
            tokenizer.save(Path(draft.uri) / FILE)
            tokenizers.append(draft.commit(config={}, parents=[], metrics={}).reference)
    metrics = {}
    with store.begin("shards", "corpus", "1") as draft:
        for split, some in documents.items():
            writer = ShardWriter(Path(draft.uri), f"{split}-0", token_dtype(tokenizer.vocab_size), 64)
            for name, text in some.items():
                writer.add([*tokenizer.encode(text), tokenizer.end_id], document=name, source="s")
            writer.close()
            metrics[f"tokens_{split}"] = float(sum(len(tokenizer.encode(text)) for text in some.values()))
        return draft.commit(config={"kind": "prepare"}, parents=tokenizers, metrics=metrics)


def built(store: ArtifactStore, folder: Path, **fields: Any) -> dict[str, Any]:
    config = Index.model_validate({**JOB, **fields})
    parents = index.parents(config, store)
    work = index.Build(config, parents["shards"], parents["tokenizer"], Storage(str(folder)), "out")
    return work({})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path / "store")))


def test_documents_of_both_languages_are_found_as_they_stand_in_the_corpus(
    store: ArtifactStore, tmp_path: Path
) -> None:
    prepared(store)
    assert built(store, tmp_path, passage_characters=50) == {"passages": 4, "documents": 4}
    passages = Passages(tmp_path / "out")
    asked = ["How many bridges has Kora Town?", "科拉镇有几座桥？", "which lamp?", "桌上有什么灯？"]
    best = [each[0] for each in passages.search(asked, 2)]
    assert [each.document for each in best] == ["towns#1", "城镇#1", "lamps#1", "灯#1"]
    assert [each.text for each in best] == TEXTS
    assert [each.id for each in best] == ["towns#1#0", "城镇#1#0", "lamps#1#0", "灯#1#0"]


def test_only_the_splits_that_are_asked_for_are_found(store: ArtifactStore, tmp_path: Path) -> None:
    prepared(store)
    assert built(store, tmp_path, splits=["test", "validation"])["documents"] == 2  # of validation there is none
    assert Passages(tmp_path / "out").search(["bridges"], 1) == [[]]


def test_a_corpus_that_holds_nothing_is_no_index(store: ArtifactStore, tmp_path: Path) -> None:
    prepared(store)
    with pytest.raises(RequestError, match="no document in validation") as caught:
        index.parents(Index.model_validate({**JOB, "splits": ["validation"]}), store)
    assert caught.value.remedy == "it has some in train, test"


def test_a_corpus_without_words_is_no_index(store: ArtifactStore, tmp_path: Path) -> None:
    prepared(store, {"train": {"empty#1": " "}})
    with pytest.raises(DataError, match="hold no words"):
        built(store, tmp_path)


def test_what_is_no_corpus_or_no_index_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifact, match="no artifact shards 'corpus'"):
        index.parents(Index.model_validate(JOB), store)
    prepared(store)
    with pytest.raises(RequestError, match=r"tokenizer/corpus@.* is no prepared corpus"):
        index.parents(Index.model_validate({**JOB, "shards": "tokenizer/corpus"}), store)
    asked = {"output": "r", "checkpoint": "reader", "data": {"kind": "smallworld"}, "splits": ["test"]}
    with store.begin("checkpoint", "reader", "1") as draft:
        draft.commit(config={"kind": "finetune"}, parents=[], metrics={}, details={"task": "question_answering"})
    for name, error, said in (
        ("corpus", MissingArtifact, "no artifact index 'corpus'"),
        ("shards/corpus", RequestError, "shards/corpus@.* is no index"),
    ):
        with pytest.raises(error, match=said):
            evaluate.parents(Evaluate.model_validate({**asked, "retrieval": {"index": name}}), store)
    with store.begin("index", "library", "1") as draft:
        draft.commit(config=JOB, parents=[], metrics={})
    found = evaluate.parents(Evaluate.model_validate({**asked, "retrieval": {"index": "library"}}), store)
    assert found["index"].name == "library"


def test_retrieval_for_another_task_is_refused_before_anything_is_trained() -> None:
    model = {"family": "bert", "layers": 1, "hidden_size": 16, "heads": 2, "feed_forward_size": 16}
    stages = [
        {"kind": "finetune", "output": "moods", "task": {"kind": "classification"}, "tokenizer": "t", "steps": 1,
         "data": {"kind": "records", "train": "x.jsonl"}, "model": model},
        {"kind": "evaluate", "output": "r", "checkpoint": "moods", "retrieval": {"index": "library"}},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'moods' is tuned for classification, leave it out of 'r'"):
        job_adapter().validate_python({"kind": "pipeline", "name": "p", "stages": stages})
    del stages[1]["retrieval"]
    job_adapter().validate_python(json.loads(json.dumps({"kind": "pipeline", "name": "p", "stages": stages})))
