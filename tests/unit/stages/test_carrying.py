"""What a job takes along to a cluster, and what it is refused for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmyard.core.errors import RequestError
from llmyard.core.jobfile import load_job
from llmyard.stages.carrying import FUNCTIONS, PROGRAMS, Parcel, pack
from llmyard.stages.config import AnyJob, job_adapter
from llmyard.text.functions import function_of

ROOT = Path(__file__).resolve().parents[3]
STORAGE = "s3://bucket/x"
FILTER = "def keep(table):\n    return ['短' if len(text.as_py()) < 3 else None for text in table['text']]\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str) -> Path:
    Path("job.yaml").write_text(text, encoding="utf-8")
    return Path("job.yaml")


def packed_job(text: str, *overrides: str, **options: Any) -> Parcel:
    file = written(text)
    return pack(file, overrides, load(file, overrides), options.pop("storage", STORAGE), **options)


def load(file: Path, overrides: Any = ()) -> AnyJob:
    found: AnyJob = load_job(file, job_adapter(), overrides)
    return found


def on_the_cluster(parcel: Parcel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AnyJob:
    """Unpacks a parcel as a driver finds it, and reads its job as the driver does."""
    for name, data in parcel.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return load(Path(parcel.job_file), parcel.overrides)


PREPARE = "kind: prepare\noutput: c\nsources: [{kind: smallworld}]\n"


def test_data_of_this_machine_is_refused_by_line_all_at_once() -> None:
    text = (
        "kind: pipeline\nname: p\nstages:\n"
        "  - kind: prepare\n    output: c\n    sources:\n"
        "      - {kind: files, paths: [语料/书, s3://b/x, $OF_THE_CLUSTER/x]}\n"
        "      - {kind: hub, dataset: ./mine}\n      - {kind: hub, dataset: org/name}\n"
        "    clean: [urls]\n    urls: {domains: [/etc/domains]}\n"
        "  - kind: finetune\n    output: t\n    tokenizer: c\n    init: hub:../model\n    steps: 2\n"
        "    task: {kind: translation}\n    data: {kind: records, train: file:///a, test: [~/b]}\n"
    )
    with pytest.raises(RequestError) as refused:
        packed_job(text)
    lines = refused.value.what.splitlines()
    assert [line.rpartition(": ")[0].split(": ", 1) for line in lines] == [
        ["job.yaml:7:31", "stages.0.sources.0.paths.0"],
        ["job.yaml:8:30", "stages.0.sources.1.dataset"],
        ["job.yaml:11:22", "stages.0.urls.domains.0"],
        ["job.yaml:15:11", "stages.1.init"],
        ["job.yaml:18:34", "stages.1.data.train"],
        ["job.yaml:18:52", "stages.1.data.test.0"],
    ]
    assert "语料/书 is on this machine" in lines[0]
    assert "--shared-paths" in refused.value.remedy


def test_an_override_that_names_data_is_named_itself() -> None:
    with pytest.raises(RequestError, match=r"^--set sources\.0\.paths\.0=here: sources\.0\.paths\.0: here is on"):
        packed_job("kind: prepare\noutput: c\nsources: [{kind: files, paths: [s3://b/x]}]\n", "sources.0.paths.0=here")


def test_shared_paths_are_made_absolute_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "kind: prepare\noutput: c\nsources:\n"
        "  - {kind: files, paths: [a/b, /c, s3://d, $E/f]}\n  - {kind: hub, dataset: ./g}\n"
    )
    parcel = packed_job(text, is_shared=True)
    (tmp_path / "there").mkdir()
    job = on_the_cluster(parcel, tmp_path / "there", monkeypatch)
    assert job.kind == "prepare"
    first, second = (source.given() for source in job.sources)
    assert first["paths"] == [str(tmp_path / "a/b"), "/c", "s3://d", "$E/f"]
    assert second["dataset"] == str(tmp_path / "g")


@pytest.mark.parametrize(("value", "is_refused"), [("/data", True), ("s3://bucket", False)])
def test_a_variable_that_goes_along_counts_as_what_it_holds(value: str, is_refused: bool) -> None:
    text = "kind: prepare\noutput: c\nsources: [{kind: files, paths: [$DATA/x]}]\n"
    assert packed_job(text).overrides == ()  # the cluster's own
    if is_refused:
        with pytest.raises(RequestError, match="DATA/x is on this machine"):
            packed_job(text, forwarded={"DATA": value})
    else:
        packed_job(text, forwarded={"DATA": value})
    with pytest.raises(RequestError, match="on this machine"):
        packed_job(text.replace("$DATA", "$HOME"))


def test_an_own_function_is_carried_and_filters_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("过滤 器.py").write_text(FILTER, encoding="utf-8")
    parcel = packed_job(PREPARE + 'clean: [functions]\nfunctions: ["过滤 器.py:keep"]\n')
    Path("过滤 器.py").unlink()
    (tmp_path / "there").mkdir()
    job = on_the_cluster(parcel, tmp_path / "there", monkeypatch)
    assert job.kind == "prepare"
    (name,) = job.functions
    assert name.startswith(f"{FUNCTIONS}.")  # an import: equal on every node and in every session
    assert list(function_of(name)(pa.table({"text": ["长的文本", "短"]})).to_pylist()) == [None, "短"]


def test_the_package_of_a_function_is_carried_unless_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "lib" / "my_filters_of_test"
    (own / "__pycache__").mkdir(parents=True)
    (own / "__init__.py").write_text("", encoding="utf-8")
    (own / "rules.py").write_text(FILTER, encoding="utf-8")
    (own / "__pycache__" / "rules.pyc").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    parcel = packed_job(PREPARE + "clean: [functions]\nfunctions: ['my_filters_of_test.rules:keep', 'yaml:dump']\n")
    assert set(parcel.files) == {"job.yaml", "my_filters_of_test/__init__.py", "my_filters_of_test/rules.py"}
    assert parcel.overrides == ()
    with pytest.raises(RequestError, match=r"functions\.0: there is no module 'no_such_module'"):
        packed_job(PREPARE + "clean: [functions]\nfunctions: ['no_such_module.x:keep']\n")


def test_programs_are_carried_and_found_where_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmyard.stages.command import sources

    for name in ("scripts/训练.py", "../outside.sh"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("print(1)", encoding="utf-8")
    text = (
        "kind: command\noutput: o\ncommand: [python3, scripts/训练.py, ../outside.sh, '{output}', word]\n"
        "reads: [scripts/训练.py]\n"
    )
    parcel = packed_job(text)
    (tmp_path / "there").mkdir()
    job = on_the_cluster(parcel, tmp_path / "there", monkeypatch)
    assert job.kind == "command"
    assert job.command[1] == f"{PROGRAMS}/scripts/训练.py"
    assert Path(job.command[1]).read_text() == Path(job.command[2]).read_text() == "print(1)"
    assert job.command[3:] == ("{output}", "word")
    assert sources(job, {})[0][0] == f"$PWD/{PROGRAMS}/scripts/训练.py"  # no path of a session in the fingerprint


def test_what_else_a_command_reads_is_data(tmp_path: Path) -> None:
    Path("table.csv").write_text("a", encoding="utf-8")
    with pytest.raises(RequestError, match=r"reads\.0: table\.csv is on this machine"):
        packed_job("kind: command\noutput: o\ncommand: [python3, -c, pass]\nreads: [table.csv]\n")
    Path("run.sh").write_text("true", encoding="utf-8")
    with pytest.raises(RequestError, match=r"command\.0: run\.sh is carried without its right .*\[bash, run\.sh"):
        packed_job("kind: command\noutput: o\ncommand: [run.sh]\n")
    with pytest.raises(RequestError, match=r"reads\.0: gone\.py cannot be read"):
        packed_job("kind: command\noutput: o\ncommand: [python3, gone.py]\nreads: [gone.py]\n")


def test_an_endpoint_of_this_machine_is_refused_and_its_key_is_asked_for() -> None:
    text = (
        "kind: evaluate\noutput: e\nendpoint: {url: 'http://127.0.0.1:8000', model: m, key_env: MY_KEY}\n"
        "task: {kind: translation}\ndata: {kind: smallworld}\n"
    )
    with pytest.raises(RequestError, match=r"endpoint\.url: http://127\.0\.0\.1:8000 is on this machine"):
        packed_job(text)
    assert packed_job(text.replace("127.0.0.1", "endpoint.example")).asked_for == ("MY_KEY",)


def test_equal_work_has_an_equal_digest() -> None:
    Path("f.py").write_text(FILTER, encoding="utf-8")
    text = PREPARE + "clean: [functions]\nfunctions: ['f.py:keep']\n"
    first = packed_job(text).digest
    assert packed_job("# 注释\n" + text.replace("[{kind: smallworld}]", "\n  - kind: smallworld")).digest == first
    assert packed_job(text, storage="s3://other").digest != first
    assert packed_job(text, "documents_per_task=7").digest != first
    assert packed_job(text + "documents_per_task: 7\n").digest == packed_job(text, "documents_per_task=7").digest
    Path("f.py").write_text(FILTER + "\n", encoding="utf-8")
    assert packed_job(text).digest != first


def test_code_that_is_too_large_to_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmyard.stages.carrying._MOST_BYTES", 100)
    Path("f.py").write_text("#" * 200, encoding="utf-8")
    with pytest.raises(RequestError, match="takes 0 MB"):
        packed_job(PREPARE + "clean: [functions]\nfunctions: ['f.py:keep']\n")


def test_every_ready_job_is_packed_and_reads_the_same_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMYARD_DATA", "s3://bucket/data")
    jobs = sorted((ROOT / "jobs").rglob("*.yaml"))
    assert len(jobs) > 20
    for number, file in enumerate(jobs):
        monkeypatch.chdir(tmp_path)
        job = load(file)
        (tmp_path / str(number)).mkdir()
        assert on_the_cluster(pack(file, (), job, STORAGE), tmp_path / str(number), monkeypatch) == job
        sys.path.remove(str(tmp_path / str(number)))
