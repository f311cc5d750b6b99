"""A whole pipeline on a private Ray: artifacts, lineage, tracking, skipping, equal results for any worker count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.storage import Storage
from llmyard.core.tracking import artifact_root, tracking_uri
from llmyard.runtime.registry import resolve
from llmyard.stages import run as run_module
from llmyard.stages.config import AnyJob, job_adapter
from llmyard.stages.run import run, states
from llmyard.stages.stage import StageResult
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.tokenizer import Tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]

TINY = {"hidden_size": 16, "heads": 2}
TRAINING = {
    "steps": 4,
    "batch": {"size": 8, "micro_batch": 4},
    "checkpoint_every_steps": 2,
    "resources": {"workers": 1},
}
ENCODER_DECODER = {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1, "feed_forward_size": 32, **TINY}
EXAMPLES = {"kind": "smallworld", "train": 60, "validation": 20, "test": 30}
JOB: dict[str, Any] = {
    "kind": "pipeline",
    "name": "tiny",
    "stages": [
        {
            "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 300}],
            "documents_per_task": 100, "tokenizer": {"vocab_size": 500, "split_han": True},
            "splits": {"validation": 0.1},
        },
        {
            "kind": "pretrain", "output": "base", "shards": "corpus", "model": {"family": "gpt2", "layers": 1, **TINY},
            "sequence_length": 32, **TRAINING, "steps": 6, "resources": {"workers": 2},
        },
        {
            "kind": "finetune", "output": "triples", "task": {"kind": "knowledge_graph", "max_tokens": 200},
            "tokenizer": "corpus", "data": EXAMPLES, **TRAINING,
            "model": {"family": "bert", "layers": 1, "feed_forward_size": 32, **TINY},
        },
        {
            "kind": "finetune", "output": "translator", "task": {"kind": "translation"}, "tokenizer": "corpus",
            "data": EXAMPLES, **TRAINING, "model": ENCODER_DECODER,
        },
        {"kind": "evaluate", "output": "base-report", "checkpoint": "base", "splits": ["validation"], "limit": 20},
        {"kind": "evaluate", "output": "triples-report", "checkpoint": "triples", "limit": 20},
        {"kind": "evaluate", "output": "translator-report", "checkpoint": "translator", "limit": 20},
    ],
}  # fmt: skip


def go(job: dict[str, Any], storage: Path) -> list[StageResult]:
    return run(job_adapter().validate_python(job), storage=str(storage))


def prepare_job(paths: list[str], **fields: Any) -> dict[str, Any]:
    source = {"kind": "files", "paths": paths, "format": "jsonl"}
    tokenizer = {"vocab_size": 400}
    return {"kind": "prepare", "output": "corpus", "sources": [source], "tokenizer": tokenizer, **fields}


def documents(artifact: Artifact, split: str = "train") -> list[str]:
    from llmyard.tokens.shards import ShardSet

    return [name for shard in ShardSet.of(artifact, split).shards for name in shard.documents["id"].to_pylist()]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def results(shared_ray: None, storage: Path) -> list[StageResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return go(JOB, storage)


def test_every_stage_makes_its_artifact_with_verified_files(results: list[StageResult], storage: Path) -> None:
    assert [result.kind for result in results] == [stage["kind"] for stage in JOB["stages"]]
    assert not any(result.skipped for result in results)
    store = ArtifactStore(Storage(str(storage)))
    found = {f"{item.kind}/{item.name}" for item in store.list()}
    assert found == {
        "tokenizer/corpus", "shards/corpus", "checkpoint/base", "shards/triples-data", "checkpoint/triples",
        "shards/translator-data", "checkpoint/translator", "report/base-report", "report/triples-report",
        "report/translator-report",
    }  # fmt: skip
    for item in store.list():
        assert item.local()
        assert not (item.local() / "_making").exists()
        assert {path.relative_to(item.local()).as_posix() for path in item.local().rglob("*") if path.is_file()} == {
            *(entry.path for entry in item.files()), "artifact.json", item.files_list,
        }  # fmt: skip
    assert not list(Path(storage).rglob("*.part"))


def test_lineage_goes_from_a_report_back_to_the_corpus(results: list[StageResult], storage: Path) -> None:
    store = ArtifactStore(Storage(str(storage)))
    names = [f"{item.kind}/{item.name}" for _, item in store.lineage(store.get("report/base-report"))]
    assert names[0] == "report/base-report"
    assert set(names[1:]) == {"checkpoint/base", "shards/corpus", "tokenizer/corpus"}
    for report in ("triples-report", "translator-report"):
        roots = [item for _, item in store.lineage(store.get(report)) if not item.parents]
        assert [root.details["corpus"]["sources"][0]["kind"] for root in roots] == ["smallworld"]


def test_figures_stand_beside_a_baseline(results: list[StageResult]) -> None:
    base, triples, translator = (result.artifacts[0] for result in results[-3:])
    assert base.metrics["validation/perplexity"] > 1
    assert {"validation/baseline_perplexity", "validation/loss"} <= set(base.metrics)
    assert 0 < base.metrics["validation/bits_per_byte"] < 8
    assert {"test/triple_f1", "test/baseline_triple_f1"} <= set(triples.metrics)
    assert {"test/chrf", "test/baseline_chrf"} <= set(translator.metrics)
    report = json.loads(translator.local("report.json").read_text(encoding="utf-8"))
    assert report["splits"]["test"]["examples"] == 20
    assert {"loss", "gradient_norm", "validation_loss"} <= set(results[1].artifacts[0].metrics)


def test_each_stage_has_one_finished_mlflow_run(results: list[StageResult], storage: Path) -> None:
    from llmyard.runtime.mlflow_gateway import MlflowGateway

    gateway = MlflowGateway(tracking_uri(str(storage)), artifact_root(str(storage)))
    runs = {item.token: item for item in gateway.runs(1000)}
    assert len(runs) == len(gateway.runs(1000)) == len(results)
    for result in results:
        item = runs[result.artifacts[0].reference]
        assert item.status == "FINISHED"
        assert item.run_id == result.run_id == result.artifacts[0].details["mlflow_run"]


def test_a_second_run_skips_everything_and_starts_nothing(
    results: list[StageResult], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: Any) -> None:
        raise AssertionError("Ray and tracking are not needed")

    monkeypatch.setattr(run_module, "_started", started)
    again = go(JOB, storage)
    assert all(result.skipped for result in again)
    assert [item.artifacts[0].reference for item in again] == [item.artifacts[0].reference for item in results]


def test_a_run_takes_its_own_results_although_another_config_made_newer_ones(tmp_path: Path) -> None:
    def job(vocab_size: int) -> AnyJob:
        prepare, pretrain = (dict(stage) for stage in JOB["stages"][:2])
        prepare |= {"tokenizer": {"vocab_size": vocab_size}, "sources": [{"kind": "smallworld", "documents": 60}]}
        stages = [prepare, pretrain | {"steps": 2, "resources": {"workers": 1}}]
        stages.append({"kind": "evaluate", "output": "report", "checkpoint": "base", "splits": ["validation"],
                       "limit": 2, "register_as": {"name": "base-model"}})  # fmt: skip
        return job_adapter().validate_python(JOB | {"stages": stages})  # type: ignore[no-any-return]

    def champion() -> str:
        return resolve("models:/base-model@champion", str(tmp_path))

    first = run(job(400), storage=str(tmp_path))
    assert champion() == first[1].artifacts[0].reference
    other = run(job(500), storage=str(tmp_path))
    assert champion() == other[1].artifacts[0].reference
    store = ArtifactStore(Storage(str(tmp_path)))
    assert states(job(400), store) == ["skip"] * 3
    again = run(job(400), storage=str(tmp_path))
    assert [result.skipped for result in again] == [True] * 3
    assert [result.artifacts[0].reference for result in again] == [each.artifacts[0].reference for each in first]
    assert champion() == first[1].artifacts[0].reference
    # What is to be made anew is not looked up in what was made before.
    assert states(job(600), store) == ["run"] * 3


def corpus(folder: Path) -> Path:
    words = ["安娜", "鲍里斯", "河镇", "面包店", "bakery", "river", "moved", "opened"]
    for name, numbers in (("a", range(40)), ("b", range(20, 60)), ("c", (5, 5, 70))):
        texts = [" ".join(words[(index * step) % 8] for step in range(1, 12)) + f" {index}" for index in numbers]
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_exact_duplicates_keep_their_first_document(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    job = prepare_job([str(corpus(tmp_path / "data"))], splits={"validation": 0}, duplicates={"near": False})
    (result,) = go(job, tmp_path / "store")
    shards = result.artifacts[0]
    assert shards.metrics["documents_read"] == 83
    assert shards.metrics["dropped_duplicate"] == shards.metrics["duplicate_exact"] == 22
    lines = {name: (tmp_path / "data" / f"{name}.jsonl").read_bytes().splitlines(keepends=True) for name in "abc"}
    starts = {
        name: [f"data/{name}.jsonl#{sum(map(len, all_[:at]))}" for at in range(len(all_))]
        for name, all_ in lines.items()
    }
    assert sorted(documents(shards)) == sorted([*starts["a"], *starts["b"][20:], starts["c"][2]])
    removed = pq.read_table([shards.local(entry.path) for entry in shards.files() if entry.path.startswith("removed-")])
    assert removed["reason"].to_pylist() == ["duplicate"] * 22
    assert sorted(removed["id"].to_pylist()) == sorted([*starts["b"][:20], *starts["c"][:2]])


def test_near_copies_keep_their_first_document_and_splits_share_none(tmp_path: Path) -> None:
    from llmyard.sources.smallworld import SmallWorld

    world = SmallWorld("dev", seed=7, documents=400)
    texts = [world.document(index).text for index in range(60)]
    copies = [text.replace("。", "！", 1).replace(". ", "! ", 1) for text in texts]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, *copies]), encoding="utf-8")
    job = prepare_job([str(data)], splits={"validation": 0.3}, clean=["deduplicate"])
    shards = go(job, tmp_path / "store")[0].artifacts[0]
    kept = [each for split in ("train", "validation") for each in documents(shards, split)]
    begins = [int(name.partition("#")[2]) for name in kept]
    assert max(begins) < sum(len(json.dumps({"text": text})) + 1 for text in texts)
    assert 50 <= len(kept) <= 60
    assert shards.local("report.zh.html").read_text(encoding="utf-8").count("<svg") >= 4


def test_lines_of_many_documents_go_from_all_and_pages_of_nothing_else_too(tmp_path: Path) -> None:
    menu, note = "首页 | 新闻 | 关于我们 | 联系方式", "Subscribe to our newsletter today, it is free"
    texts = [f"{menu}\n第{page}篇文章讲的是不同的事情。\n{note}" for page in range(9)] + [f"{note}\n{menu}"]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    job = prepare_job([str(data)], splits={"validation": 0}, clean=["deduplicate"],
                      duplicates={"near": False, "line_documents": 5})  # fmt: skip
    shards, tokenizer = go(job, tmp_path / "store")[0].artifacts
    assert shards.metrics["common_lines_dropped"] == 20
    assert shards.metrics["dropped_common_lines"] == 1
    reader, text = ShardSet.of(shards, "train").shards[0], Tokenizer.load(tokenizer.local("tokenizer.json"))
    pages = text.decode(reader.read(0, reader.tokens).tolist())
    assert pages == "".join(f"第{page}篇文章讲的是不同的事情。" for page in range(9))


def test_an_edited_corpus_file_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    job = prepare_job([str(corpus(tmp_path / "data"))])
    first = go(job, tmp_path / "store")[0]
    assert go(job, tmp_path / "store")[0].skipped
    with open(tmp_path / "data" / "c.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "又添了一篇新的文章，讲的是另外一件事情。"}) + "\n")
    again = go(job, tmp_path / "store")[0]
    assert not again.skipped
    assert again.artifacts[0].metrics["documents_read"] == first.artifacts[0].metrics["documents_read"] + 1
    assert again.artifacts[0].version != first.artifacts[0].version


def test_one_cpu_and_two_prepare_the_same_bytes(results: list[StageResult], tmp_path: Path) -> None:
    from ray.data import DataContext, ExecutionResources

    options = DataContext.get_current().execution_options
    before = options.resource_limits
    options.resource_limits = ExecutionResources(cpu=1)
    try:
        (alone,) = go(JOB["stages"][0], tmp_path)
    finally:
        options.resource_limits = before
    assert alone.artifacts[0].files() == results[0].artifacts[0].files()
    assert alone.artifacts[1].files() == results[0].artifacts[1].files()


def test_a_dead_runs_leftover_shards_are_not_trained_on(results: list[StageResult], tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    job = job_adapter().validate_python(JOB["stages"][0])
    from llmyard.stages.stage import plan_stage

    with store.begin("shards", "corpus", plan_stage(job, store).fingerprint) as draft:
        draft.storage.write(f"{draft.folder}/train-000000-f1.tokens.parquet", b"torn by a kill")
    (result,) = go(JOB["stages"][0], tmp_path)
    assert result.artifacts[0].version == draft.version
    names = {path.name for path in result.artifacts[0].local().iterdir()}
    assert "train-000000-f1.tokens.parquet" not in names
    assert len(documents(result.artifacts[0])) == len(documents(results[0].artifacts[0]))


def test_sources_are_mixed_and_packed_as_the_job_says(tmp_path: Path, shared_ray: None) -> None:
    texts = {"新闻": "马洛去了科拉镇。他找到了一盏绿色的灯。", "books": "Malo went home. He found a green lamp."}
    sources = []
    for name, text in texts.items():
        file = tmp_path / f"{name}.jsonl"
        rows = [json.dumps({"text": f"{number} {text * (1 + number % 5)}"}, ensure_ascii=False) for number in range(60)]
        file.write_text("\n".join(rows), encoding="utf-8")
        sources.append({"kind": "files", "name": name, "paths": [str(file)], "format": "jsonl"})
    sources[0]["weight"] = 2.0
    prepare = {
        "kind": "prepare", "output": "corpus", "sources": sources, "clean": ["normalize"],
        "tokenizer": {"vocab_size": 400}, "splits": {"validation": 0.2},
    }  # fmt: skip
    pretrain = {
        "kind": "pretrain", "output": "base", "shards": "corpus", "sequence_length": 32, "packing": "best_fit",
        "document_boundaries": True, "model": {"family": "gpt2", "layers": 1, **TINY}, **TRAINING,
        "resources": {"workers": 2},
        "mixture": {"curriculum": [{"until": 0.5, "shares": {"新闻": 1, "books": 3}}]},
    }  # fmt: skip
    evaluate = {"kind": "evaluate", "output": "report", "checkpoint": "base", "splits": ["validation"]}
    job = {"kind": "pipeline", "name": "mixed", "stages": [prepare, pretrain, evaluate]}
    shards, base, report = (result.artifacts[0] for result in go(job, tmp_path / "storage"))

    from llmyard.tokens.shards import ShardSet

    tokens = dict.fromkeys(texts, 0)
    for shard in ShardSet.of(shards, "train").shards:
        assert set(shard.document_columns("source")["source"].to_pylist()) == {shard.source}
        tokens[shard.source] += shard.tokens
    early, late = base.details["mixture"]
    assert early == {"until": 0.5, "shares": {"新闻": 0.25, "books": 0.75}}
    natural = 2 * tokens["新闻"] / (2 * tokens["新闻"] + tokens["books"])
    assert late["shares"]["新闻"] == pytest.approx(natural, abs=1e-6)
    assert report.metrics["validation/loss"] == pytest.approx(base.metrics["validation_loss"], rel=1e-5)
