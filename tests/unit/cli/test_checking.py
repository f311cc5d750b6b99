"""`llmyard check`, and what `run` refuses before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.errors import MissingArtifact, RequestError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def fresh_shell() -> None:
    shell.json = shell.debug = False


def test_check_prints_a_plan_for_every_shipped_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gutenberg_en/a.txt", "chinese_poetry/a.json", "tatoeba_cmn/cmn.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        text = '[{"content": "床前明月光"}]' if name.endswith("json") else "x\ty\n"
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("LLMYARD_DATA", str(tmp_path))
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    assert jobs
    for job in jobs:
        assert main(["check", str(job), "--storage", str(tmp_path / "store"), "--json", "--price-per-hour", "2"]) == 0
        plan = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
        assert isinstance(plan, list)
        assert all(row["state"] == "run" for row in plan)
        assert any(row.get("cost") for row in plan)


def test_check_reckons_what_goes_on_from_a_base_of_the_same_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    batch = {"size": 8, "micro_batch": 4}
    stages = [
        {"kind": "prepare", "output": "c", "sources": [{"kind": "smallworld"}], "tokenizer": {"vocab_size": 500}},
        {"kind": "pretrain", "output": "b", "shards": "c", "steps": 9, "sequence_length": 64, "batch": batch,
         "model": {"family": "gpt2", "layers": 1, "hidden_size": 32, "heads": 2}},
        {"kind": "finetune", "output": "t", "init": "b", "tokenizer": "c", "steps": 9, "batch": batch,
         "task": {"kind": "translation", "max_source_tokens": 32, "max_target_tokens": 32},
         "data": {"kind": "smallworld"}},
    ]  # fmt: skip
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"kind": "pipeline", "name": "p", "stages": stages}), encoding="utf-8")
    assert main(["check", str(job), "--storage", str(tmp_path / "store"), "--json"]) == 0
    _, base, tuned = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
    assert base["parameters"] == tuned["parameters"]
    assert tuned["memory a worker"]


def test_a_training_that_goes_on_from_its_own_name_means_what_the_store_has() -> None:
    from llmyard.cli.jobs import base_of
    from llmyard.stages.config import job_adapter

    class Empty:
        def get(self, name: str, kind: str) -> None:
            raise MissingArtifact(f"there is no {kind} {name}", "make it")

    job = job_adapter().validate_python(
        {"kind": "finetune", "output": "chat", "init": "chat", "tokenizer": "c", "steps": 9,
         "batch": {"size": 8, "micro_batch": 4}, "task": {"kind": "translation"}, "data": {"kind": "smallworld"}}
    )  # fmt: skip
    assert base_of(job, job, Empty()) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [("", "has no document"), ('{"text": "a"}\n{"text": 1}\nno\n', "2 of the first 3 records of source 'files'")],
)
def test_check_refuses_a_corpus_that_cannot_be_read(
    lines: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_text(lines, encoding="utf-8")
    job = tmp_path / "job.yaml"
    source = f"{{kind: files, paths: [{tmp_path}/data.jsonl], format: jsonl}}"
    job.write_text(f"{{kind: prepare, output: corpus, sources: [{source}]}}", encoding="utf-8")
    assert main(["check", str(job), "--storage", str(tmp_path / "store")]) == 2
    assert message in capsys.readouterr().err


def test_a_job_on_files_names_the_variable_that_is_not_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMYARD_DATA", raising=False)
    assert main(["check", str(ROOT / "jobs" / "books-and-poems.yaml")]) == 2
    assert "LLMYARD_DATA is not set" in capsys.readouterr().err


TOO_BIG = """
kind: pipeline
name: big
stages:
  - {kind: prepare, output: c, sources: [{kind: smallworld}]}
  - {kind: pretrain, output: b, shards: c, model: {preset: gpt3-175b}, steps: 10, sequence_length: 2048}
"""


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_model_too_big_for_the_machine_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str
) -> None:
    (tmp_path / "job.yaml").write_text(TOO_BIG, encoding="utf-8")
    assert main([verb, str(tmp_path / "job.yaml"), "--storage", str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err
    assert "pretrain b: 2 workers need some" in said
    assert "parallel.shard" in said
    assert not (tmp_path / "s").exists()


def test_profile_traces_every_training_that_does_not_say_itself(tmp_path: Path) -> None:
    from llmyard.cli.jobs import load, profiled

    text = TOO_BIG.replace("gpt3-175b", "gpt2-124m") + (
        "  - {kind: pretrain, output: d, shards: c, model: {preset: gpt2-124m}, steps: 10, profile: {steps: 9}}\n"
    )
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    job = load(tmp_path / "job.yaml", [])
    _, first, second = profiled(job).stages
    assert (first.profile.steps, second.profile.steps) == (3, 9)
    assert first.decisive() == job.stages[1].decisive()


def test_check_names_a_missing_artifact_and_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("{kind: evaluate, output: report, checkpoint: nowhere}", encoding="utf-8")
    assert main(["run", str(job), "--storage", str(tmp_path / "store")]) == 2
    assert "no checkpoint 'nowhere'" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_named_with_its_place_in_the_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    job = tmp_path / "job.yaml"
    job.write_text(
        "kind: pipeline\nname: p\nstages:\n  - kind: prepare\n    output: corpus\n    sources:\n"
        "      - {kind: files, paths: [a.txt, b.txt]}\n",
        encoding="utf-8",
    )
    assert main(["check", "job.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"job.yaml:7:38: stages.0.sources.0.paths.1: no file at {tmp_path}/b.txt\n" in said
    override = "stages.corpus.sources.0.paths=[c.txt]"
    assert main(["run", "job.yaml", "--set", override]) == 2
    assert f"--set {override}: stages.0.sources.0.paths.0: no file at {tmp_path}/c.txt" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["/proc/x", "README.md", "README.md/x"])
def test_a_storage_that_cannot_be_is_a_wrong_request(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    monkeypatch.setattr("llmyard.stages.run.run", lambda *a, **b: pytest.fail("it ran"))
    monkeypatch.setattr("llmyard.runtime.session.session", lambda *a: pytest.fail("Ray was started"))
    job = str(ROOT / "jobs" / "quickstart.yaml")
    for command in (["run", job], ["check", job], ["quickstart"]):
        assert main([*command, "--storage", storage]) == 2
        said = capsys.readouterr().err
        assert storage in said
        assert "--storage" in said


def test_examples_of_other_tasks_and_of_evaluations_are_looked_for_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}", encoding="utf-8")
    shared = "tokenizer: t\nsteps: 1\nmodel: {family: gpt2}\ntask: {kind: translation}\n"
    for text, place in (
        (
            f"kind: finetune\noutput: o\n{shared}data: {{kind: records, train: a.jsonl}}\n"
            "also:\n  - {task: {kind: summarization}, data: {kind: records, train: b.jsonl}}\n",
            "also.0.data.train",
        ),
        (
            "kind: evaluate\noutput: o\ncheckpoint: c\ntask: {kind: summarization}\n"
            "data: {kind: records, train: a.jsonl, test: b.jsonl}\n",
            "data.test",
        ),
    ):
        (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
        assert main(["check", "job.yaml"]) == 2
        assert f"{place}: no file at {tmp_path}/b.jsonl" in capsys.readouterr().err


def test_promoting_registers_what_the_last_stage_ends_in(tmp_path: Path) -> None:
    from llmyard.cli.jobs import load, promoted

    file = tmp_path / "job.yaml"
    file.write_text("kind: compress\noutput: small\ncheckpoint: large\nsteps: [{kind: quantize}]\n")
    changed = promoted(load(file, []), "champion")
    assert changed.register_as.model_dump() == {"name": "small", "alias": "champion"}
    named = promoted(load(file, ["register_as.name=translator"]), "staging")
    assert named.register_as.model_dump() == {"name": "translator", "alias": "staging"}
    with pytest.raises(RequestError, match="cannot be an alias"):
        promoted(load(file, []), "latest")
    file.write_text(
        "{kind: pretrain, output: base, shards: corpus, steps: 1, "
        "model: {family: gpt2, layers: 1, hidden_size: 8, heads: 1}}"
    )
    with pytest.raises(RequestError, match="judges no model"):
        promoted(load(file, []), "champion")
