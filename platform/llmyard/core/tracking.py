"""What training sees of experiment tracking, and where a run's records live.

Nothing here knows MLflow: a loop gets a `Tracker`, a stage describes its run with a `RunSpec`, and the adapter in
`runtime` does the rest.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from llmyard.core.errors import LlmyardError, RequestError

EXPERIMENT = "llmyard"
SYSTEM_PREFIX = "system/"
"""Keys of machine metrics; a resume keeps them, since no retraining brings them back."""

_FORBIDDEN_IN_KEY = re.compile(r"[^/\w.\- :]")
_KEY_LENGTH = 250  # MLflow's column width


class TrackingUnavailable(LlmyardError):
    """MLflow cannot be reached or is busy; the same call may succeed later."""


class TrackingRejected(LlmyardError):
    """MLflow refused the call for good: a deleted run, an unknown model, a bad value."""


class Line(NamedTuple):
    """The metrics of one `log` call."""

    step: int
    timestamp_ms: int
    metrics: dict[str, float]

    @property
    def is_system(self) -> bool:
        """True for a sample of machine metrics."""
        return all(key.startswith(SYSTEM_PREFIX) for key in self.metrics)


@runtime_checkable
class Tracker(Protocol):
    """Takes metrics from a training loop without making it wait.

    In MLflow each (key, step) ends up exactly once, over all crashes and resumes. Therefore the steps of a key must
    grow: a second value for a step, or a step that goes back other than by `resume`, is dropped.
    """

    def resume(self, step: int, state: bytes = b"") -> None:
        """Goes on from a checkpoint; call it once, before the first `log`, also on a fresh start (`resume(0)`).

        Args:
            step: The checkpoint's step. What an earlier attempt logged beyond it and did not send is dropped.
            state: `checkpoint_state()` as stored in that checkpoint.
        """
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step; returns within microseconds and never raises for a tracking problem."""
        ...

    def checkpoint_state(self) -> bytes:
        """The metrics that MLflow has not acknowledged yet, to be stored in the checkpoint of the last logged step."""
        ...

    def close(self) -> None:
        """Sends what is left, waiting some seconds at most; the rest stays on disk for the next command."""
        ...


class NullTracker:
    """A tracker that keeps nothing: for ranks other than 0 and for tests."""

    def resume(self, step: int, state: bytes = b"") -> None:
        """Does nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def checkpoint_state(self) -> bytes:
        """No bytes."""
        return b""

    def close(self) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Input:
    """An artifact that a run reads: one entry of its data lineage."""

    name: str
    version: str
    kind: str
    uri: str
    digest: str = ""
    """Root hash of the artifact; MLflow keeps its first 36 characters."""


@dataclass(frozen=True)
class RunSpec:
    """Everything needed to open a stage's MLflow run, now or when MLflow is back.

    `token` is the run's identity: any string that is the same in every attempt of one stage run, such as the
    `kind/name@version` it writes. Opening a token twice continues one MLflow run, also where the first attempt died
    before it learnt the run's id.
    """

    token: str
    name: str
    experiment: str = EXPERIMENT
    config: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    code_version: str = ""
    parent_token: str = ""
    """Token of the run shown above this one: a pipeline's or a sweep's."""
    owner: str = ""
    started_ms: int = 0

    def to_json(self) -> str:
        """The spec as a JSON text for `from_json`."""
        return json.dumps(asdict(self), ensure_ascii=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """The spec written by `to_json`."""
        fields = json.loads(text)
        fields["inputs"] = tuple(Input(**each) for each in fields["inputs"])
        return cls(**fields)


@dataclass(frozen=True)
class RunSummary:
    """One row of `llmyard runs list`."""

    run_id: str
    token: str
    name: str
    experiment: str
    status: str
    started_ms: int
    ended_ms: int | None
    artifact: str
    metrics: dict[str, float]
    job: str = ""
    """Digest of the job that it is of; "" for runs of before jobs were written down."""


def metric_key(name: str) -> str:
    """The name with `p` for plus (`chrfpp`) and `_` for all else that MLflow forbids; letters of any script stay."""
    key = _FORBIDDEN_IN_KEY.sub("_", str(name).replace("+", "p"))[:_KEY_LENGTH]
    parts = [
        part for part in key.split("/") if part not in ("", ".", "..")
    ]  # MLflow refuses what looks like another path
    return "/".join(parts) or "_"


def process_owner(pid: int | None = None) -> str:
    """`host:pid:start` of a process, by which another process tells whether it still lives.

    The host part holds the pid namespace too: two containers with one host name do not take each other's processes
    for dead.
    """
    import psutil

    pid = os.getpid() if pid is None else pid
    return f"{_host()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def owner_lives(owner: str) -> bool | None:
    """Whether the owner's process runs; None if it is on another host, where nobody here can tell."""
    import psutil

    host, _, rest = owner.partition(":")
    pid, _, start = rest.partition(":")
    if host != _host() or not pid.isdigit():
        return None
    try:
        process = psutil.Process(int(pid))
        # Boot time is estimated anew by each process, so start times of one process may differ by some hundredths.
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(start)) < 1.0
    except (psutil.NoSuchProcess, ValueError):
        return False


def _host() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}/{namespace}"


def local_directory(storage: str) -> Path | None:
    """The storage as an absolute local directory, or None for s3:// and the like."""
    if storage.startswith("file://"):
        return Path(storage.removeprefix("file://")).absolute()
    return None if "://" in storage else Path(storage).expanduser().absolute()


def tracking_uri(storage: str) -> str:
    """`MLFLOW_TRACKING_URI` if set, else an SQLite file in the (local) storage.

    Raises:
        RequestError: The storage is remote and no tracking server is named: SQLite is for one machine.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return uri
    directory = local_directory(storage)
    if directory is None:
        raise RequestError(
            f"storage {storage!r} is not on this machine, so its runs need a tracking server",
            "set MLFLOW_TRACKING_URI, for example to http://mlflow.example:5000",
        )
    return f"sqlite:///{directory / 'mlflow.db'}"


def artifact_root(storage: str) -> str | None:
    """Where runs in an SQLite store keep their files; None if a tracking server decides.

    Without it MLflow would put the files of a store that the user named into the current directory.
    """
    directory = local_directory(storage)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if directory is None or (uri and not uri.startswith("sqlite:")):
        return None
    return str(directory / "mlruns")


def spool_root(storage: str) -> Path:
    """The directory of this machine's spools: in a local storage, else in the user's cache."""
    if directory := local_directory(storage):
        return directory / "spool"
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "llmyard" / "spool"
