"""Jobs on nothing, or on the wrong thing: one clear error, the right exit code, nothing committed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.cli.main import main
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage
from llmyard.core.tracking import artifact_root, tracking_uri

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]

GOOD = "这是一篇足够长的文章，讲的是一个人搬到河边小镇的故事。"
TRAINING = {"steps": 2, "batch": {"size": 4, "micro_batch": 4}, "resources": {"workers": 1}}


def run(tmp_path: Path, job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs a job; returns the exit code and what stood on standard error, which is one error without a traceback."""
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job, allow_unicode=True), encoding="utf-8")
    capsys.readouterr()
    code = main(["run", str(file), "--storage", str(tmp_path / "store")])
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert len([line for line in said.err.splitlines() if line.startswith("error: ")]) == 1
    assert "remedy: " in said.err
    return code, said.err


def committed(tmp_path: Path) -> list[str]:
    return [item.reference for item in ArtifactStore(Storage(str(tmp_path / "store"))).list()]


def prepare(paths: list[str], **source: Any) -> dict[str, Any]:
    files = {"kind": "files", "paths": paths, "format": "jsonl", **source}
    return {"kind": "prepare", "output": "corpus", "sources": [files], "tokenizer": {"vocab_size": 300}}


def lines(path: Path, *records: Any) -> str:
    rows = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in records]
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "the corpus is empty"),
        ([{"text": "短"}, {"text": "x"}], "none of the 2 documents"),
        ([{"text": GOOD + str(index)} for index in range(9)] + ["{broken"], "1 of 10 records cannot be read"),
        ([{"body": GOOD}], "no text in any of the fields text"),
    ],
    ids=["empty", "filtered", "corrupt", "other fields"],
)
def test_a_corpus_of_which_nothing_is_left_fails_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: list[Any], said: str
) -> None:
    code, error = run(tmp_path, prepare([lines(tmp_path / "a.jsonl", *content)]), capsys)
    assert code == 1
    assert said in error
    if any(item == "{broken" for item in content):
        assert re.search(rf"{tmp_path / 'a.jsonl'}, byte \d+: not JSON", error)
    assert committed(tmp_path) == []
    from llmyard.runtime.mlflow_gateway import MlflowGateway

    storage = str(tmp_path / "store")
    runs = MlflowGateway(tracking_uri(storage), artifact_root(storage)).runs(100)
    assert [item.status for item in runs] == ["FAILED"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"paths": ["nowhere/*.txt"]}, "no file at"), ({"paths": ["$NO_SUCH_VARIABLE/x"]}, "NO_SUCH_VARIABLE is not set")],
)
def test_a_source_that_is_not_there_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    code, error = run(tmp_path, prepare(**change), capsys)
    assert code == 2
    assert said in error
    assert committed(tmp_path) == []


def test_a_missing_artifact_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"family": "gpt2", "layers": 1, "hidden_size": 16, "heads": 2}
    job = {"kind": "pretrain", "output": "base", "shards": "nosuch", "model": model, **TRAINING}
    code, error = run(tmp_path, job, capsys)
    assert code == 2
    assert "no shards 'nosuch'" in error
    assert committed(tmp_path) == []


def test_a_wrong_split_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore(Storage(str(tmp_path / "store")))
    with store.begin("checkpoint", "base", "f" * 64) as draft:
        draft.commit(config={"kind": "finetune", "data": {"kind": "smallworld"}}, parents=[], metrics={})
    job = {"kind": "evaluate", "output": "report", "checkpoint": "base", "splits": ["tset"]}
    code, error = run(tmp_path, job, capsys)
    assert code == 2
    assert "has no split 'tset'" in error
    assert "test_names" in error
    assert committed(tmp_path) == [f"checkpoint/base@{draft.version}"]


def test_task_records_beyond_the_threshold_name_file_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = lines(tmp_path / "a.jsonl", *({"text": GOOD + str(index)} for index in range(9)))
    pair = {"source_language": "en", "target_language": "zh", "source": "Hello.", "target": "你好。"}
    good = lines(tmp_path / "good.jsonl", *[{**pair, "source": "Good evening."}] * 9)
    bad = lines(tmp_path / "bad.jsonl", *[pair] * 9, {**pair, "target_language": "fr"}, {**pair, "source": ""}, "{")
    shape = {"encoder_layers": 1, "decoder_layers": 1, "hidden_size": 16, "heads": 2, "feed_forward_size": 16}
    finetune = {
        "kind": "finetune", "output": "translator", "task": {"kind": "translation"}, "tokenizer": "corpus",
        "data": {"kind": "records", "train": bad, "validation": good, "test": good},
        "model": {"family": "transformer", **shape}, **TRAINING,
    }  # fmt: skip
    job = {"kind": "pipeline", "name": "pairs", "stages": [prepare([corpus]), finetune]}
    code, error = run(tmp_path, job, capsys)
    assert code == 1
    assert "3 records (14.3%) cannot be used" in error
    assert bad in error
    assert "target_language is 'fr'" in error
    assert {item.partition("@")[0] for item in committed(tmp_path)} == {"shards/corpus", "tokenizer/corpus"}
