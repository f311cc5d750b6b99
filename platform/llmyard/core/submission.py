"""Jobs on a cluster, decided without asking it: their ids, what of the environment goes along, what they ended with."""

from __future__ import annotations

import importlib
import io
import json
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from llmyard.core.errors import RequestError

# Read by llmyard, or by what it stands on, for storages, hubs and tracking. Names of files on this machine
# (AWS_CA_BUNDLE, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS) are not here: they mean nothing on a cluster.
FORWARDED = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_TOKEN", "HF_ENDPOINT", "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip
ENVIRONMENT_MODULE = "llmyard_environment"
ENVIRONMENT_HOOK = f"{ENVIRONMENT_MODULE}.load"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")

BASE, DIGEST, STORAGE, JOB = (f"llmyard_{name}" for name in ("base", "digest", "storage", "job"))
"""Keys of a job's metadata."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Status = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]
STOPPED = 130
_OWN_CODES = (1, 2, STOPPED)


def environment(names: Sequence[str], known: Mapping[str, str], *, is_shared: bool = False) -> dict[str, str]:
    """Returns the variables that go along with a job: those of ``FORWARDED`` that are set, and those named.

    Args:
        names: Asked for by the user.
        known: The environment.
        is_shared: Whether the cluster reaches what this machine reaches.

    Raises:
        RequestError: A name is none, is not set, or is Ray's own; or MLflow's address is one of this machine.
    """
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise RequestError(f"--env {name.partition('=')[0]!r} names no variable", "give its name only: --env NAME")
        if name.startswith("RAY_"):
            raise RequestError(f"--env {name}: the cluster sets Ray's variables itself", "leave it out")
        if name not in known:
            raise RequestError(f"--env {name}: it is not set here", f"export {name} first, or leave it out")
    wanted = [name for name in FORWARDED if known.get(name)] + list(names)
    found = {name: known[name] for name in dict.fromkeys(wanted)}
    if not is_shared and _is_of_this_machine(found.get("MLFLOW_TRACKING_URI", "")):
        raise RequestError(
            "MLFLOW_TRACKING_URI names a place on this machine, where the cluster records nothing",
            "set it to a server that the cluster reaches, or unset it; --shared-paths if the cluster runs here",
        )
    return found


def environment_module(values: Mapping[str, str]) -> dict[str, bytes]:
    """Returns a module that sets variables, by its file name: how they go along.

    Ray has a field for variables, but shows it to all who list its jobs, and writes it into the nodes' logs. A file
    that a job brings along is shown to nobody. Its address is a digest of its content, so that has a part of chance:
    else a short secret could be guessed from it.
    """
    source = f"import os\n\nCHANCE = {secrets.token_hex(16)!r}\nVALUES = {dict(values)!r}\n\n\n"
    source += "def load():\n    os.environ.update(VALUES)\n"
    return {f"{ENVIRONMENT_MODULE}.py": source.encode()}


def load_environment() -> None:
    """Sets the variables that came with this driver, if any did."""
    try:
        importlib.import_module(ENVIRONMENT_MODULE).load()
    except ModuleNotFoundError as error:
        if error.name != ENVIRONMENT_MODULE:
            raise


def _is_of_this_machine(uri: str) -> bool:
    parts = urlsplit(uri)
    return bool(uri) and (parts.scheme in ("", "file", "sqlite") or (parts.hostname or "") in _LOOPBACK)


def check_storage(uri: str, *, is_local: bool, is_shared: bool) -> None:
    """Raises RequestError if a cluster cannot write to a storage, or everybody could read its password."""
    if is_local and not is_shared:
        raise RequestError(
            f"the storage {uri} is on this machine: the cluster does not see it",
            "give --storage s3://BUCKET/FOLDER or another that the cluster reaches; --shared-paths if it sees this "
            "path too",
        )
    if not is_local and "@" in urlsplit(uri).netloc:
        raise RequestError(
            "the storage's address holds a password, which everybody would see who lists the cluster's jobs",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead: they are forwarded",
        )


def base_id(name: str, digest: str) -> str:
    """Returns the submission id of a job's first attempt: its name, and a digest of what runs and of where to."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40]
    return f"{plain or 'job'}-{digest[:10]}"


def check_id(given: str) -> str:
    """Returns a submission id that a user gave; raises RequestError if it may be none."""
    if not _ID.fullmatch(given):
        raise RequestError(
            f"--id {given!r} cannot be a submission id", "letters, digits, '.', '_' and '-', at most 100"
        )
    return given


@dataclass(frozen=True)
class Submission:
    """A job of a cluster, as its API tells.

    Attributes:
        code: Of the driver's process; None if it did not end by itself.
        started: Seconds since 1970; 0 if unknown. ``ended`` too, as long as it runs.
    """

    id: str
    status: Status
    message: str = ""
    code: int | None = None
    started: float = 0.0
    ended: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Submission:
        """Returns what the API's JSON says, without the runtime environment, in which secrets stand."""
        return cls(
            id=str(row.get("submission_id") or ""),
            status=row["status"],
            message=str(row.get("message") or ""),
            code=row.get("driver_exit_code"),
            started=(row.get("start_time") or 0) / 1000,
            ended=(row.get("end_time") or 0) / 1000,
            metadata={str(key): str(value) for key, value in (row.get("metadata") or {}).items()},
        )

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in ("PENDING", "RUNNING")

    @property
    def base(self) -> str:
        """The id of its first attempt."""
        return self.metadata.get(BASE, self.id)

    def exit_code(self) -> int:
        """Returns what a command ends with that followed it: the job's own code as far as it is one of llmyard's."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED
        return self.code if self.code in _OWN_CODES else 1

    def loss(self) -> str:
        """Returns how the driver was lost; "" if it ended by itself."""
        if self.status != "FAILED" or self.code in _OWN_CODES:
            return ""
        if self.code is None:
            lines = [line.strip() for line in self.message.splitlines() if line.strip()]
            said = dict.fromkeys([lines[0], lines[-1]]) if lines else ("it ended without a word",)
            return " … ".join(said)[:500]
        number = -self.code if self.code < 0 else self.code - 128
        return f"its process was killed by signal {number}" if number > 0 else f"it ended with code {self.code}"


@dataclass(frozen=True)
class Attempt:
    """What to do about a job: attach to the attempt that runs, or begin one."""

    id: str
    runs_already: bool


def next_attempt(base: str, digest: str, there: Iterable[Submission]) -> Attempt:
    """Returns under which id a job is to run, given the cluster's jobs: one id a job as long as it is alive.

    Raises:
        RequestError: Under this id another job runs.
    """
    taken = {each.id: each for each in there}
    attempts = [each for each in taken.values() if each.base == base]
    for each in attempts:
        if each.is_alive:
            if each.metadata.get(DIGEST) != digest:
                raise RequestError(
                    f"under {each.id} another job runs", "give another --id, or stop that one with `llmyard jobs stop`"
                )
            return Attempt(each.id, runs_already=True)
    number = 1
    while (name := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return Attempt(name, runs_already=False)


def packed(files: Mapping[str, bytes]) -> bytes:
    """Returns a zip archive whose bytes depend on the files' names and contents alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    """Returns the files of an archive by their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}


class Unseen:
    """Of a text that is sent from its beginning whenever the connection is new: what has not been seen before."""

    def __init__(self) -> None:
        self._seen = 0
        self._at = 0

    def again(self) -> None:
        """Says that the text begins anew."""
        self._at = 0

    def take(self, text: str) -> str:
        """Returns the new part of the next piece."""
        known = min(len(text), max(0, self._seen - self._at))
        self._at += len(text)
        self._seen = max(self._seen, self._at)
        return text[known:]


class Output:
    """Shows a driver's output line by line, but for the JSON object in which it ends.

    Args:
        show: Takes text.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._rest = ""
        self._held = ""

    def take(self, text: str) -> None:
        """Takes the next piece of the output."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if self._held:
                self._show(self._held + "\n")
            self._held = line if line.startswith('{"status": ') else ""
            if not self._held:
                self._show(line + "\n")

    def end(self) -> dict[str, Any] | None:
        """Shows what is left, and returns the object in which the output ends, if it does."""
        if self._rest:
            self.take("\n")
        held, self._held = self._held, ""
        try:
            found = json.loads(held) if held else None
        except ValueError:
            found = None
        if held and not isinstance(found, dict):
            self._show(held + "\n")
        return found if isinstance(found, dict) else None
