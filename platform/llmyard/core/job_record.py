"""What was asked to run, kept beside what it makes, so that a run can be gone on with where its job file is not.

Layout: ``{storage}/jobs/{digest}.json`` holds the job; of one that came to a cluster, ``{digest}.zip`` holds what it
brought along. A run in MLflow names the digest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmyard.core.errors import CorruptArtifact, LlmyardError, MissingArtifact
from llmyard.core.fingerprint import fingerprint
from llmyard.core.storage import Storage
from llmyard.core.submission import packed, unpacked

FORMAT_VERSION = 1
FOLDER = "jobs"
MANIFEST = "submission.json"  # in the driver's working directory on the cluster
VARIABLE = "LLMYARD_SUBMISSION"  # its submission id, in the driver's environment
_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Submitted:
    """How a job came to a cluster.

    Attributes:
        id: Of the submission.
        base: The id of its first attempt.
        address: Of the cluster's dashboard, as its user gave it.
        job_file: Among the files that were carried.
        overrides: Of it.
        environment: Names of the variables that were asked for beside the usual ones.
        code: "here" or "image": where llmyard's own code came from.
        is_shared: Whether the cluster was said to see its user's paths.
        digest: Of the parcel.
    """

    id: str
    base: str
    address: str
    job_file: str
    overrides: tuple[str, ...]
    environment: tuple[str, ...]
    code: str
    is_shared: bool
    digest: str

    def manifest(self) -> bytes:
        """Returns the file that tells the driver."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, ensure_ascii=False, indent=1).encode()

    @classmethod
    def parse(cls, record: Mapping[str, Any], name: str) -> Submitted:
        """Returns what a manifest holds.

        Raises:
            LlmyardError: Another llmyard wrote it, or it is damaged.
        """
        _check_version(record, name)
        try:
            fields = {key: record[key] for key in cls.__dataclass_fields__}
        except KeyError as error:
            raise CorruptArtifact(f"{name} is damaged: it has no {error}", "submit the job file again") from None
        return cls(**fields | {key: tuple(fields[key]) for key in ("overrides", "environment")})


@dataclass(frozen=True)
class JobRecord:
    """A job that ran.

    Attributes:
        digest: Names it in its storage.
        job: As plain data that validates.
        submitted: How it came to a cluster; None if it ran from its user's machine.
        files: What it brought along.
    """

    digest: str
    job: dict[str, Any]
    submitted: Submitted | None
    files: Mapping[str, bytes]


def keep(storage: Storage, job: dict[str, Any]) -> str:
    """Writes down a job that begins in this process, and returns its digest."""
    digest = fingerprint(job=job)[:16]
    submitted = _submitted_here()
    record: dict[str, Any] = {"format_version": FORMAT_VERSION, "job": job, "submitted": None}
    if submitted is not None:
        record["submitted"] = json.loads(submitted.manifest())
        storage.write(f"{FOLDER}/{digest}.zip", packed(_files_here()))
    storage.write(f"{FOLDER}/{digest}.json", json.dumps(record, ensure_ascii=False, indent=1).encode())
    return digest


def submission_id() -> str:
    """Returns the id of the submission that this process is the driver of; "" where it is none's."""
    return os.environ.get(VARIABLE, "")


def _submitted_here() -> Submitted | None:
    if not submission_id():
        return None
    try:
        manifest = json.loads(Path(MANIFEST).read_bytes())
    except FileNotFoundError:
        return None  # a program of the job that runs llmyard in a folder of its own
    return Submitted.parse({**manifest, "id": submission_id()}, MANIFEST)


def _files_here() -> dict[str, bytes]:
    files = [each for each in sorted(Path().rglob("*")) if each.is_file() and "__pycache__" not in each.parts]
    return {each.as_posix(): each.read_bytes() for each in files}


def read(storage: Storage, digest: str) -> JobRecord:
    """Returns the job that a digest stands for.

    Raises:
        MissingArtifact: The storage has no such job.
        LlmyardError: Another llmyard wrote it, or it is damaged.
    """
    name = f"{FOLDER}/{digest}.json"
    data = storage.read(name)
    if data is None:
        raise MissingArtifact(f"{storage.uri} holds no job {digest}", "give the job file again: `llmyard run JOB`")
    try:
        record = json.loads(data)
        _check_version(record, name)
        told = record["submitted"]
        submitted = None if told is None else Submitted.parse(told, name)
        archive = storage.read(f"{FOLDER}/{digest}.zip") if submitted is not None else None
        files = unpacked(archive) if archive is not None else {}
        return JobRecord(digest, dict(record["job"]), submitted, files)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{name} is damaged: {error}", "give the job file again: `llmyard run JOB`") from None


def submissions(storage: Storage, wanted: str) -> Iterator[JobRecord]:
    """Yields the jobs that came to a cluster under an id, or whose id begins so."""
    for stat in storage.list(FOLDER):
        digest = stat.path.removesuffix(".json")
        if _DIGEST.fullmatch(digest) and stat.path.endswith(".json"):
            record = read(storage, digest)
            if record.submitted is not None and record.submitted.id.startswith(wanted):
                yield record


def _check_version(record: Mapping[str, Any], name: str) -> None:
    written = record.get("format_version")
    if written != FORMAT_VERSION:
        raise LlmyardError(
            f"{name} has format {written}, this llmyard reads {FORMAT_VERSION}", "use the llmyard that wrote it"
        )
