"""Answers to many records on a private Ray: the endpoint's own, part by part, and what another model learns from."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.core.storage import Storage
from llmyard.generation.model import Model
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]

ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"


@pytest.fixture
def storage(tiny: Any, tmp_path: Path) -> str:
    return str(shutil.copytree(tiny.store.storage.uri, tmp_path / "store"))


def predicted(storage: str, **fields: Any) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    (result,) = run(job_adapter().validate_python({"kind": "predict", "output": "said", **fields}), storage=storage)
    artifact = result.artifacts[0]

    def lines(folder: str) -> list[dict[str, Any]]:
        files = sorted((artifact.local() / folder).glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    return result, lines("records"), lines("set-aside")


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_texts_are_answered_as_by_the_endpoint_and_too_long_ones_set_aside(storage: str, tmp_path: Path) -> None:
    rows = [{"id": str(at), "text": ENGLISH if at % 2 else CHINESE} for at in range(600)]
    rows[7]["text"] = "lamp " * 400
    files = {"paths": written(tmp_path, rows), "columns": {"source": "text"}}
    result, said, aside = predicted(storage, checkpoint="translator", files=files)
    assert result.metrics["asked"] == 600
    assert (result.metrics["answered"], result.metrics["refused"]) == (599, 1)
    assert [each["id"] for each in said] == [row["id"] for row in rows if row["id"] != "7"]
    model = Model.load(ArtifactStore(Storage(storage)).get("translator", "checkpoint"), threads=1)
    for each in said[:2]:
        assert each["target"] == asyncio.run(model.said(each))
    assert {each["target"] for each in said} == {ENGLISH, CHINESE}
    assert (aside[0]["kind"], aside[0]["record"]["id"]) == ("refused", "7")
    again, _, _ = predicted(storage, checkpoint="translator", files=files)
    assert again.skipped


def test_a_run_that_was_stopped_goes_on_behind_its_last_part(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmyard.runtime import datasets

    rows = [{"id": str(at), "source": ENGLISH} for at in range(1024)]
    asked = {"checkpoint": "translator", "files": {"paths": written(tmp_path, rows)}}
    whole = datasets.map_with

    def stopped(units: Any, worker: Any, arguments: Any) -> Any:
        yield from whole(units[:2], worker, arguments)
        raise DataError("stopped here", "go on")

    monkeypatch.setattr(datasets, "map_with", stopped)
    with pytest.raises(DataError, match="stopped here"):
        predicted(storage, **asked)
    monkeypatch.undo()
    (unfinished,) = (each for each in (Path(storage) / "records" / "said").iterdir() if (each / "records").is_dir())
    before = {file.name: file.stat().st_mtime_ns for file in (unfinished / "records").glob("*.jsonl")}
    assert before
    result, said, _ = predicted(storage, **asked)
    assert [each["id"] for each in said] == [row["id"] for row in rows]
    folder = result.artifacts[0].local() / "records"
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_several_answers_are_drawn_and_come_again(storage: str, tmp_path: Path) -> None:
    files = {"paths": written(tmp_path, [{"id": "a", "source": ENGLISH}, {"id": "b", "source": CHINESE}])}
    drawn = {"temperature": 2.5, "answers": 3, "seed": 4}
    _, said, aside = predicted(storage, checkpoint="translator", files=files, sampling=drawn)
    assert len(said) + len(aside) == 6
    assert len({each["id"] for each in said}) == len(said)
    assert len({each["target"] for each in said}) > 2
    _, again, _ = predicted(storage, checkpoint="translator", files=files, sampling=drawn, output="again")
    assert again == said


def test_another_model_learns_from_the_answers(storage: str, tmp_path: Path, tiny: Any) -> None:
    store = ArtifactStore(Storage(storage))
    with store.begin("tokenizer", "words", "1") as draft:
        tiny.tokenizer.save(Path(draft.uri) / "tokenizer.json")
        draft.commit(config={}, parents=(), metrics={})
    rows = [{"id": str(at), "source": f"{ENGLISH} {'啊' * (at % 9)}"} for at in range(60)]
    job = {
        "kind": "pipeline",
        "name": "self-training",
        "stages": [
            {
                "kind": "predict", "output": "synthetic", "checkpoint": "translator",
                "files": {"paths": written(tmp_path, rows)},
            },
            {
                "kind": "finetune", "output": "student", "task": {"kind": "translation"}, "tokenizer": "words",
                "data": {"kind": "answers", "records": "synthetic", "validation_share": 0.2, "test_share": 0.2},
                "model": {
                    "family": "transformer", "hidden_size": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1,
                    "feed_forward_size": 64,
                },
                "steps": 2, "batch": {"size": 4, "micro_batch": 2}, "leaks": "drop",
            },
        ],
    }  # fmt: skip
    made, student = run(job_adapter().validate_python(job), storage=storage)
    assert made.artifacts[0].kind == "records"
    trained_on = student.artifacts[0].config["data"]
    assert trained_on["train"] == f"{made.artifacts[0].uri}/records"
    assert student.artifacts[1].metrics["train"] > 10


def test_documents_of_a_corpus_become_examples(storage: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(f"{ENGLISH}\n\n{CHINESE}\n\n{ENGLISH} {ENGLISH}\n", encoding="utf-8")
    corpus = {
        "kind": "prepare", "output": "corpus", "clean": ["normalize"],
        "sources": [{"kind": "files", "paths": [str(tmp_path / "short.txt")], "document": "paragraph",
                     "document_characters": 20, "split": "train"}],
        "tokenizer": {"kind": "bpe", "vocab_size": 600},
    }  # fmt: skip
    run(job_adapter().validate_python(corpus), storage=storage)
    _, said, aside = predicted(storage, checkpoint="translator", shards="corpus", limit=2)
    assert len(said) + len(aside) == 2
    assert said
    assert all(each["source"] and each["target"] for each in said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"checkpoint": "base", "shards": "x"}, "no task"),
        ({"checkpoint": "translator", "data": {"kind": "records", "format": "finre", "train": "x"}}, "finre"),
    ],
)
def test_what_cannot_be_asked_is_refused(storage: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        predicted(storage, **fields)
