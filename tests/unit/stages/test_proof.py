"""What is proven before a checkpoint is registered; that what differs is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifact import Artifact
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage
from llmyard.generation.parity import ParityLost
from llmyard.stages.config import Evaluate, Finetune
from llmyard.stages.held_out import HeldOut
from llmyard.stages.proof import ProofWork, prove
from llmyard.tasks.task import Record
from llmyard.tokens.tokenizer import Tokenizer

PAIRS = [
    ("Malo found a green lamp.", "马洛找到了一盏绿色的灯。"),
    ("One morning, Malo went to Kora Town.", "有一天，马洛去了科拉镇。"),
]


def tuned(tiny: Any, folder: Path, name: str, task: dict[str, Any], records: list[Record]) -> tuple[Any, Artifact]:
    """A tiny model as a checkpoint that was tuned on some records, all of them held out."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8")
    config = Finetune.model_validate(
        {
            "output": name,
            "task": task,
            "data": {"kind": "records", "format": "jsonl", "train": str(data), "test": str(data)},
            "tokenizer": "words",
            "model": {"family": "transformer" if task["kind"] == "translation" else "bert"},
            "steps": 1,
        }
    )
    store = ArtifactStore(Storage(str(folder / "store")))
    with store.begin("checkpoint", name, "1") as draft:
        shutil.copytree(tiny.folders[name], Path(draft.uri), dirs_exist_ok=True)
        details = {"task": task["kind"], "task_config": config.task.model_dump(mode="json")}
        made = draft.commit(config=config.model_dump(mode="json"), parents=(), metrics={}, details=details)
    return store, made


def proven(store: Any, checkpoint: Artifact) -> dict[str, Any]:
    held_out = HeldOut.of(checkpoint, Evaluate(output="x", checkpoint=checkpoint.name), store)
    assert held_out is not None
    return prove(ProofWork(held_out, checkpoint))


def translations() -> list[Record]:
    return [
        {"source": one, "target": other, "source_language": languages[0], "target_language": languages[1]}
        for pair in PAIRS
        for one, other, languages in ((*pair, ["en", "zh"]), (*pair[::-1], ["zh", "en"]))
    ]


def test_a_writer_answers_alike_by_itself_in_batches_and_over_http(tiny: Any, tmp_path: Path) -> None:
    found = proven(*tuned(tiny, tmp_path, "translator", {"kind": "translation"}, translations()))
    assert (found["prompts"], found["differing"]) == (4, ())
    assert found["endpoint"] == {"cases": 4, "refused": 0, "near": 0}


def test_a_tagger_finds_the_same_over_http(tiny: Any, tmp_path: Path) -> None:
    task = {"kind": "knowledge_graph", "max_tokens": 64}
    found = proven(*tuned(tiny, tmp_path, "triples", task, list(tiny.facts)))
    assert found["endpoint"] == {"cases": 2, "refused": 0, "near": 0}


def test_another_template_at_the_endpoint_is_caught(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmyard.generation import model

    store, checkpoint = tuned(tiny, tmp_path, "translator", {"kind": "translation"}, translations())
    honest = model.task_of_checkpoint

    def changed(artifact: Artifact) -> Any:
        task: Any = honest(artifact)
        prompt = task.prompt

        def other(record: Record, tokenizer: Tokenizer) -> list[int]:
            return [*prompt(record, tokenizer)[:2], *tokenizer.encode("Malo Malo Malo")]

        task.prompt = other
        return task

    monkeypatch.setattr(model, "task_of_checkpoint", changed)
    with pytest.raises(ParityLost, match=r"(?s)answers [1-4] of 4 cases otherwise.*alias was not"):
        proven(store, checkpoint)


def test_other_weights_at_the_engine_are_caught(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from llmyard.generation import model

    store, checkpoint = tuned(tiny, tmp_path, "translator", {"kind": "translation"}, translations())
    honest = model.model_of

    def changed(artifact: Artifact) -> Any:
        torch.manual_seed(0)
        made = honest(artifact)
        for each in made.parameters():
            each.data += 0.3 * torch.randn_like(each)
        return made

    monkeypatch.setattr(model, "model_of", changed)
    with pytest.raises(ParityLost, match="prompts otherwise than its model does by itself"):
        proven(store, checkpoint)


def test_what_an_endpoint_refuses_is_counted(tiny: Any, tmp_path: Path) -> None:
    records = translations()
    records.append({**records[0], "source": "lamp " * 300})
    store, checkpoint = tuned(tiny, tmp_path, "translator", {"kind": "translation"}, records)
    found = proven(store, dataclasses.replace(checkpoint))
    assert found["endpoint"] == {"cases": 5, "refused": 1, "near": 0}
