"""Jobs written down beside what they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmyard.core import job_record
from llmyard.core.errors import CorruptArtifact, LlmyardError, MissingArtifact
from llmyard.core.job_record import MANIFEST, VARIABLE, Submitted, keep, read, submissions
from llmyard.core.storage import Storage

JOB = {"kind": "command", "output": "输出", "command": ["true"]}
TOLD = Submitted(
    id="", base="base", address="http://head:8265", job_file="job.yaml", overrides=("a=1",), environment=("KEY",),
    code="here", is_shared=False, digest="d" * 64,
)  # fmt: skip


def test_a_job_that_ran_here_is_read_back(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    digest = keep(storage, JOB)
    assert keep(storage, JOB) == digest
    record = read(storage, digest)
    assert (record.job, record.submitted, record.files) == (JOB, None, {})
    assert list(submissions(storage, "")) == []


def test_a_job_that_came_to_a_cluster_is_kept_with_what_it_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = tmp_path / "parcel"
    (parcel / "files" / "__pycache__").mkdir(parents=True)
    brought = {"job.yaml": b"kind: command", "files/go.py": "打印".encode(), MANIFEST: TOLD.manifest()}
    for name, data in brought.items():
        (parcel / name).write_bytes(data)
    (parcel / "files" / "__pycache__" / "go.pyc").write_bytes(b"x")
    monkeypatch.chdir(parcel)
    monkeypatch.setenv(VARIABLE, "base-2")
    storage = Storage(str(tmp_path / "store"))
    record = read(storage, keep(storage, JOB))
    assert record.submitted is not None
    assert record.submitted.id == "base-2"
    assert {**record.submitted.__dict__, "id": ""} == TOLD.__dict__
    assert dict(record.files) == brought
    assert [each.digest for each in submissions(storage, "base")] == [record.digest]
    assert list(submissions(storage, "another")) == []


def test_a_program_of_a_job_that_runs_llmyard_elsewhere_is_no_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "base")
    storage = Storage(str(tmp_path / "store"))
    assert read(storage, keep(storage, JOB)).submitted is None


def test_missing_damaged_and_foreign_records_are_told_apart(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(MissingArtifact):
        read(storage, "0" * 16)
    file = tmp_path / job_record.FOLDER / f"{'0' * 16}.json"
    file.parent.mkdir()
    file.write_text("{", encoding="utf-8")
    with pytest.raises(CorruptArtifact):
        read(storage, "0" * 16)
    file.write_text(json.dumps({"format_version": 99, "job": {}, "submitted": None}), encoding="utf-8")
    with pytest.raises(LlmyardError, match="format 99"):
        read(storage, "0" * 16)
    file.write_text(json.dumps({"format_version": 1, "job": {}, "submitted": {"format_version": 1}}), encoding="utf-8")
    with pytest.raises(CorruptArtifact):
        read(storage, "0" * 16)
