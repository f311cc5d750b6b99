"""Evaluations on a private Ray: a live endpoint beside its checkpoint, probes for bias, the harness's own tasks."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, hash_of
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]

WORLD = {"kind": "smallworld", "train": 20, "validation": 2, "test": 6}
TASKS = {"translator": {"kind": "translation"}, "triples": {"kind": "knowledge_graph", "max_tokens": 64}}
MOODS = [{"text": text, "label": label, "language": "en"} for text, label in (("a", "up"), ("b", "down"), ("c", "up"))]


@pytest.fixture
def storage(tiny: Any, tmp_path: Path) -> str:
    return str(shutil.copytree(tiny.store.storage.uri, tmp_path / "store"))


def records(folder: Path, rows: Any) -> dict[str, str]:
    """Writes the same records for every split."""
    folder.mkdir(exist_ok=True)
    text = "\n".join(json.dumps({"id": str(at), **row}, ensure_ascii=False) for at, row in enumerate(rows))
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return {"kind": "records"} | {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}


@pytest.fixture
def url(tiny: Any) -> Iterator[str]:
    models = [Model.load(tiny.store.get(name, "checkpoint"), threads=1) for name in ("translator", "triples", "base")]
    api = build_api(models, KeyRing.of([hash_of("ly-right")]), Limits(max_new_tokens=100))
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def evaluated(storage: str, **fields: Any) -> tuple[Any, dict[str, Any]]:
    job = job_adapter().validate_python({"kind": "evaluate", "output": "report", **fields})
    (result,) = run(job, storage=storage)
    return result, json.loads(result.artifacts[0].local("report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["translator", "triples"])
def test_what_is_served_scores_as_what_was_trained(
    name: str, tiny: Any, storage: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "ly-right")
    asked = {"task": TASKS[name], "data": WORLD if name == "translator" else records(tmp_path / "facts", tiny.facts)}
    _, mine = evaluated(storage, checkpoint=name, **asked)
    endpoint = {"url": url, "model": name, "key_env": "MY_KEY"}
    result, live = evaluated(storage, endpoint=endpoint, **asked)
    assert live["splits"] == mine["splits"]
    assert live["checkpoint"] == f"{url} {name}"
    assert result.artifacts[0].details["endpoint"]["artifact"].startswith(f"checkpoint/{name}@")
    assert "ly-right" not in json.dumps(result.artifacts[0].config)
    again, _ = evaluated(storage, endpoint=endpoint, **asked)
    assert not again.skipped  # another model may answer there by now
    if name == "translator":
        _, found = evaluated(storage, checkpoint=name, disturb={"typos": 0.3}, **asked)
        disturbed = found["splits"]["test"]
        untouched = {figure: mine["splits"]["test"]["metrics"][figure] for figure in disturbed["undisturbed"]}
        assert disturbed["undisturbed"] == pytest.approx(untouched)
        lost = disturbed["metrics"]["chrf"] - untouched["chrf"]
        assert disturbed["against_undisturbed"]["chrf"]["difference"] == pytest.approx(lost)
    if name == "triples":
        there = {entry.path for entry in result.artifacts[0].files()}
        assert {"graph-test.tsv", "graph-test-entities.tsv", "graph-test.ttl"} <= there
        assert live["splits"]["test"]["graph"]["triples"] >= 1
        assert live["splits"]["test"]["metrics"]["triple_f1"] > 0.5
        (tmp_path / "names.tsv").write_text("马洛\tMalo\n", encoding="utf-8")
        _, one = evaluated(storage, checkpoint=name, graph={"aliases": str(tmp_path / "names.tsv")}, **asked)
        assert one["splits"]["test"]["graph"]["entities"] == mine["splits"]["test"]["graph"]["entities"] - 1


def test_another_model_behind_a_url_is_asked_in_plain_text(
    storage: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMYARD_API_KEY", "ly-right")
    long = {"text": "a long text " * 20, "label": "up", "language": "en"}
    endpoint, task = {"url": url, "model": "base"}, {"kind": "classification", "max_label_tokens": 4}
    _, said = evaluated(storage, endpoint=endpoint, task=task, data=records(tmp_path / "moods", [*MOODS, long]))
    assert said["splits"]["test"]["examples"] == 4
    assert said["splits"]["test"]["metrics"]["refused"] == 0.25
    monkeypatch.setenv("LLMYARD_API_KEY", "ly-wrong")
    with pytest.raises(RequestError, match="refuses the key"):
        evaluated(storage, endpoint=endpoint, task=task, data=records(tmp_path / "moods", MOODS))


def test_an_endpoint_tells_no_likelihoods() -> None:
    endpoint = {"url": "http://127.0.0.1:1", "model": "m"}
    job = {"kind": "evaluate", "output": "r", "endpoint": endpoint, "task": {"kind": "translation"}, "data": WORLD}
    for fields, said in (
        ({"bias": {}}, "`bias` needs a model's weights"),
        ({"attributions": 2}, "`attributions` needs"),
        ({"checkpoint": "c"}, "one of them is asked"),
        ({"task": None}, "needs `task` and `data`"),
    ):
        with pytest.raises(ValueError, match=said):
            job_adapter().validate_python({**job, **fields})


def test_probes_and_tasks_of_the_harness_stand_in_the_report(storage: str, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"question": f"{name}在哪里？", "options": ["桌子", "盒子"], "answer": 0} for name in ("灯", "钥匙", "杯子")
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    task = {
        "task": "where", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "doc_to_text": "{{question}}", "doc_to_choice": "{{options}}", "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / "where.yaml").write_text(json.dumps(task), encoding="utf-8")
    asked: dict[str, Any] = {
        "checkpoint": "base", "task": {"kind": "classification"}, "data": records(tmp_path / "moods", MOODS),
        "bias": {"probes": ["smallworld"]},
        "harness": {"folder": str(folder), "tasks": ["where"]},
    }  # fmt: skip
    result, said = evaluated(storage, **asked)
    assert set(said["bias"]) == {f"{probe}_{to}" for probe in asked["bias"]["probes"] for to in ("en", "zh")}
    for each in said["bias"].values():
        assert each["low"] <= each["difference"] <= each["high"]
    assert said["harness"]["where"]["examples"] == 3
    metrics = result.artifacts[0].metrics
    assert metrics["harness/where/acc"] == said["harness"]["where"]["metrics"]["acc"]
    assert metrics["bias/smallworld_zh"] == said["bias"]["smallworld_zh"]["difference"]
    page = result.artifacts[0].local("report.zh.html").read_text(encoding="utf-8")
    assert "smallworld_zh" in page
    assert "where" in page
    assert evaluated(storage, **asked)[0].skipped
    (folder / "where.yaml").write_text(json.dumps({**task, "doc_to_text": "问：{{question}}"}), encoding="utf-8")
    assert not evaluated(storage, **asked)[0].skipped
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:2]), encoding="utf-8")
    result, said = evaluated(storage, **asked)
    assert not result.skipped
    assert said["harness"]["where"]["examples"] == 2
    with pytest.raises(LlmyardError, match="no task 'there'"):
        evaluated(storage, **{**asked, "harness": {"folder": str(folder), "tasks": ["there"]}})


def test_questions_are_answered_from_an_index_and_say_where_from(tmp_path: Path) -> None:
    towns = {"en": ("Kora", "Malo", "Pell", "Sun"), "zh": ("科拉", "马洛", "佩尔", "苏恩")}
    rows = []
    for number, (english, chinese) in enumerate(zip(*towns.values(), strict=True)):
        texts = (
            ("en", f"{english} lies by a river. It has {number + 3} bridges.", f"How many bridges has {english}?"),
            ("zh", f"{chinese}镇在河边。{chinese}镇上有{number + 3}座桥。", f"{chinese}镇上有几座桥？"),
        )
        for language, context, question in texts:
            answer = {"text": str(number + 3), "start": context.index(str(number + 3))}
            rows.append({"language": language, "context": context, "question": question, "answers": [answer]})
    data = records(tmp_path / "towns", rows)
    model = {"family": "bert", "layers": 1, "hidden_size": 16, "heads": 2, "feed_forward_size": 32}
    evaluation = {"kind": "evaluate", "checkpoint": "reader", "data": data, "task": {"kind": "question_answering"}}
    stages = [
        {
            "kind": "prepare", "output": "towns", "clean": ["normalize"], "splits": {"validation": 0.3},
            "sources": [
                {"kind": "task_texts", "task": "question_answering", "data": data, "fields": ["context"]},
            ],
            "tokenizer": {"vocab_size": 400, "split_han": True},
        },
        {"kind": "index", "output": "towns", "shards": "towns", "passage_characters": 60},
        {
            "kind": "finetune", "output": "reader", "tokenizer": "towns", "data": data, "model": model, "steps": 2,
            "leaks": "drop", "task": {"kind": "question_answering"}, "batch": {"size": 4, "micro_batch": 4},
            "resources": {"workers": 1},
        },
        {
            "kind": "finetune", "output": "writer", "tokenizer": "towns", "steps": 2, "leaks": "drop",
            "model": {"family": "gpt2", "layers": 1, "hidden_size": 16, "heads": 2}, "data": data,
            "task": {"kind": "question_answering", "max_tokens": 80, "max_answer_tokens": 4},
            "batch": {"size": 4, "micro_batch": 4}, "resources": {"workers": 1},
        },
    ]  # fmt: skip
    storage = str(tmp_path / "store")
    del evaluation["task"]
    with pytest.raises(LlmyardError, match="no training example is left"):  # held out is what is trained on
        run(job_adapter().validate_python({"kind": "pipeline", "name": "p", "stages": stages}), storage=storage)
    others = records(tmp_path / "others", [{**row, "question": f"{row['question']}!"} for row in rows])
    for stage in stages[2:]:
        stage |= {"data": {**data, "train": others["train"]}}
    strange = {"language": "en", "question": "zzz qqq?", "answers": [{"text": "9"}]}  # comes without a text, too
    test = records(tmp_path / "test", [*rows, strange])["test"]
    evaluation["data"] = {**data, "train": others["train"], "test": test}
    open_questions = {**evaluation, "output": "open", "retrieval": {"index": "towns", "passages": 3}}
    written = {**open_questions, "output": "written", "checkpoint": "writer"}
    job = {"kind": "pipeline", "name": "p", "stages": [*stages, open_questions, written]}
    results = run(job_adapter().validate_python(job), storage=storage)
    assert results[1].artifacts[0].metrics["documents"] == len(rows)
    for result in results[-2:]:
        report, planted = result.artifacts[0], 0
        assert report.metrics["test/recall_at_3"] == pytest.approx(len(rows) / (len(rows) + 1))  # all that are planted
        assert report.metrics["test/nothing_found"] == pytest.approx(1 / (len(rows) + 1))
        assert report.metrics["test/exact_match_without"] == 0.0
        for part in [entry.path for entry in report.files() if entry.path.startswith("predictions/test")]:
            for line in json.loads(report.local(part).read_text(encoding="utf-8")):
                record = line["record"]
                read = [each["id"] for each in record["passages"] if each["read"]]
                assert len(record["passages"]) <= 3
                assert record["cited"] is None or record["cited"] in read
                planted += any(each["right"] for each in record["passages"])
                assert bool(read) == (record["question"] != strange["question"])
        assert planted == len(rows)
        assert f"index/towns@{results[1].artifacts[0].version}" in report.local("report.zh.html").read_text("utf-8")
    again = run(job_adapter().validate_python(job), storage=storage)
    assert all(result.skipped for result in again)
    with pytest.raises(ValueError, match="`retrieval` is for question_answering"):
        job_adapter().validate_python({**open_questions, "task": {"kind": "classification"}})
