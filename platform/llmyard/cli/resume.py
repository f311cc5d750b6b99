"""``runs resume``: the job of a run, given again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llmyard.cli.shell import Shell
from llmyard.core.errors import MissingArtifact, RequestError

if TYPE_CHECKING:
    from llmyard.core.job_record import JobRecord
    from llmyard.core.storage import Storage
    from llmyard.stages.carrying import Place


def resume_run(shell: Shell, run: str, storage: str | None, address: str | None, detach: bool) -> int:
    """Gives the job of a run again, on the cluster that it came to or here; returns its exit code.

    Raises:
        RequestError: There is no such run, or its job was not written down.
    """
    where = shell.store(storage).storage
    record = None
    if address is not None:
        where, record = _known_to(address, run, where, is_given=storage is not None)
    record = record or _submitted(where, run) or _tracked(where, run)
    if record.submitted is not None:
        return _submit_again(shell, record, where, address, detach)
    if address is not None or detach:
        raise RequestError(
            f"the job of {run} ran from its user's machine, not on a cluster",
            "leave --address and --detach out to go on with it here, or `llmyard submit` its job file",
        )
    return _run_again(shell, record, where)


def _known_to(address: str, run: str, where: Storage, is_given: bool) -> tuple[Storage, JobRecord | None]:
    """Returns the storage of a submission that a cluster knows, and its job; the given one and None of any other."""
    from llmyard.core.storage import Storage
    from llmyard.core.submission import STORAGE
    from llmyard.runtime.submission import Dashboard

    jobs = Dashboard(address).jobs()
    found = [job for job in jobs if job.id == run] or [job for job in jobs if job.id.startswith(run)]
    if len(found) != 1:
        return where, None
    if not is_given and STORAGE in found[0].metadata:
        where = Storage(found[0].metadata[STORAGE])
    return where, _submitted(where, found[0].base)


def _submitted(where: Storage, run: str) -> JobRecord | None:
    """Returns the job that was submitted under an id; None if the storage knows none."""
    from llmyard.core.job_record import submissions

    found = list(submissions(where, run))
    exact = [each for each in found if each.submitted is not None and run in (each.submitted.id, each.submitted.base)]
    found = exact or found
    if len(found) > 1:
        there = ", ".join(each.submitted.id for each in found if each.submitted is not None)
        raise RequestError(f"{run!r} is the beginning of several submissions", f"one of: {there}")
    return found[0] if found else None


def _tracked(where: Storage, run: str) -> JobRecord:
    """Returns the job of a run in MLflow."""
    from llmyard.core.job_record import read
    from llmyard.runtime.registry import gateway, has_runs

    if not has_runs(where.uri):
        raise MissingArtifact(
            f"{where.uri} knows no run and no submission {run!r}",
            "name its --storage; of a submission also its --address",
        )
    with gateway(where.uri) as mlflow:
        matches = [each for each in mlflow.runs(1000) if each.run_id.startswith(run)]
    if len(matches) != 1:
        raise RequestError(f"{run!r} names {len(matches)} runs", "see `llmyard runs list` and `llmyard jobs list`")
    if not matches[0].job:
        raise RequestError(f"the job of {run} was not written down", "give its job file again: `llmyard run JOB`")
    return read(where, matches[0].job)


def _submit_again(shell: Shell, record: JobRecord, where: Storage, address: str | None, detach: bool) -> int:
    from llmyard.cli.submit import Code, Request, send_and_follow
    from llmyard.core.job_record import MANIFEST
    from llmyard.core.submission import environment
    from llmyard.runtime.submission import Dashboard
    from llmyard.stages.carrying import Parcel
    from llmyard.stages.config import Pipeline, job_adapter

    told = record.submitted
    assert told is not None
    job = job_adapter().validate_python(record.job)
    parcel = Parcel(
        name=job.name if isinstance(job, Pipeline) else job.output,
        files={name: data for name, data in record.files.items() if name != MANIFEST},
        job_file=told.job_file,
        overrides=told.overrides,
        digest=told.digest,
        asked_for=(),
    )

    def place(at: Place) -> str:
        return f"{told.job_file}: {'.'.join(map(str, at)) or 'the job'}"

    request = Request(
        parcel=parcel,
        job=job,
        base=told.base,
        storage=where.uri,
        names=told.environment,
        environment=environment(told.environment, os.environ, is_shared=told.is_shared),
        code=cast(Code, told.code),
        is_shared=told.is_shared,
        force=False,
        where=place,
    )
    return send_and_follow(shell, Dashboard(address or told.address), request, detach)


def _run_again(shell: Shell, record: JobRecord, where: Storage) -> int:
    import yaml

    from llmyard.cli.jobs import run_job

    with tempfile.TemporaryDirectory(prefix="ly-resume-") as folder:
        file = Path(folder, f"job-{record.digest}.yaml")
        file.write_text(yaml.safe_dump(record.job, allow_unicode=True, sort_keys=False), encoding="utf-8")
        shell.finish(run_job(shell, file, [], None, where.uri, force=False))
    return 0
