"""Experiment tracking under Ray: what a stage opens in the driver and what its training loop gets in the worker.

    with Tracking(storage) as tracking, StageRun(tracking, spec) as run:
        ticket = run.ticket()               # goes to the workers
        ...  # there: tracker = ticket.open(); tracker.resume(step, state); tracker.log(step, metrics)
        run.result(metrics, artifact, uri)

One actor beside the driver owns MLflow, so that neither the driver nor a worker imports it or waits for it. Nothing
here raises because MLflow is down: what it could not take stays on disk, and the next command sends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from llmyard.core.errors import Busy, LlmyardError, Pruned
from llmyard.core.spool import Spool
from llmyard.core.tracking import (
    Line,
    RunSpec,
    TrackingUnavailable,
    artifact_root,
    process_owner,
    spool_root,
    tracking_uri,
)
from llmyard.runtime.session import is_lost
from llmyard.runtime.tracking_service import RunFolder, Sender, TrackingService

_log = logging.getLogger(__name__)

_FORWARDED = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_APPLICATION_", "GOOGLE_CLOUD_")
_SEND_SECONDS = 120.0
_NICE = 10  # SQLite's share of the CPU comes from what training leaves


class Service(Protocol):
    """A `TrackingService` somewhere."""

    def ask(self, method: str, *args: Any, timeout: float = _SEND_SECONDS, **options: Any) -> Any:
        """The method's answer; any exception means that it may be asked again."""
        ...


@dataclass(frozen=True)
class ActorService:
    """The service in a Ray actor; picklable."""

    handle: Any

    def ask(self, method: str, *args: Any, timeout: float = _SEND_SECONDS, **options: Any) -> Any:
        """The actor's answer within `timeout` seconds."""
        import ray

        if is_lost():
            raise TrackingUnavailable("the tracking actor died with its Ray")
        try:
            return ray.get(getattr(self.handle, method).remote(*args, **options), timeout=timeout)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, Exception) else error from None
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
            raise TrackingUnavailable(f"the tracking actor does not answer: {type(error).__name__}") from error


@dataclass(frozen=True)
class LocalService:
    """The service in this process, for commands that start no Ray."""

    service: TrackingService

    def ask(self, method: str, *args: Any, timeout: float = _SEND_SECONDS, **options: Any) -> Any:
        """The service's answer; `timeout` does not apply."""
        return getattr(self.service, method)(*args, **options)


class Tracking:
    """A driver's connection to MLflow; it also closes runs of killed drivers and sends what earlier commands left.

    Args:
        storage: Decides the store, the files' place and the spool's (`core.tracking`).
        service: Where the gateway lives; by default a Ray actor on the driver's node, which needs `ray.init` to have
            happened.

    Raises:
        RequestError: The storage is remote and MLFLOW_TRACKING_URI is not set.
    """

    def __init__(self, storage: str, service: Service | None = None) -> None:
        self.uri = tracking_uri(storage)
        self.root = spool_root(storage)
        self.owner = process_owner()
        self.service: Service = service or _start_actor(self.uri, artifact_root(storage), self.root)

    def call(self, method: str, *args: Any, timeout: float = _SEND_SECONDS, **options: Any) -> Any:
        """Any method of `MlflowGateway`, for example `call("register", model, artifact, source=uri)`.

        Raises:
            TrackingUnavailable: MLflow did not answer.
            TrackingRejected: MLflow refused.
        """
        return self.service.ask("call", method, *args, timeout=timeout, **options)

    def close(self) -> None:
        """Ends the actor; what it has not sent is on disk."""
        if isinstance(self.service, ActorService):
            import ray

            with contextlib.suppress(Exception):
                ray.kill(self.service.handle)
        elif isinstance(self.service, LocalService):
            self.service.service.stop()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StageRun:
    """One stage's MLflow run, from `with` to its end: FINISHED, FAILED on an exception, KILLED on an interrupt.

    Args:
        tracking: The driver's connection.
        spec: What to open. The same token continues the same MLflow run; `owner` and `started_ms` are filled in.
    """

    def __init__(self, tracking: Tracking, spec: RunSpec) -> None:
        self._tracking = tracking
        now = int(time.time() * 1000)
        self.spec = dataclasses.replace(spec, owner=tracking.owner, started_ms=spec.started_ms or now)
        self._folder = RunFolder(tracking.root, spec.token)
        self._result: dict[str, Any] = {"metrics": {}}
        self._tracker: SpoolTracker | None = None

    def __enter__(self) -> StageRun:
        self._folder.begin(self._tracking.uri, self.spec)
        service = self._tracking.service
        # In a thread: opening waits for MLflow's import, a migration, or a server that is down.
        threading.Thread(target=_try, args=(service, "open", self.spec.token), daemon=True).start()
        return self

    def run_id(self, timeout: float = 30.0) -> str | None:
        """MLflow's id of the run; None if MLflow did not answer in time (the run is then made later)."""
        try:
            answer: str = self._tracking.service.ask("open", self.spec.token, timeout=timeout)
            return answer
        except Exception as error:
            _log.info("the run's id is not known yet: %s", error)
            return None

    def ticket(self) -> Ticket:
        """What a worker needs to track; picklable."""
        return Ticket(self.spec, self._tracking.uri, str(self._tracking.root), self._tracking.service)

    def tracker(self) -> SpoolTracker:
        """A tracker for the driver itself; closed with the run."""
        if self._tracker is None:
            self._tracker = self.ticket().open("driver", system_seconds=0.0)
        return self._tracker

    def result(self, metrics: Mapping[str, float], artifact: str = "", artifact_uri: str = "") -> None:
        """Notes the final metrics, and the artifact (`kind/name@version`, address) that the stage made."""
        self._result |= {"metrics": dict(metrics), "artifact": artifact, "artifact_uri": artifact_uri}

    def attach(self, pages: Sequence[str]) -> None:
        """Notes files of the artifact that MLflow shows too, by their names in it."""
        self._result["pages"] = list(pages)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracker is not None:
            self._tracker.close()
        is_failure = kind is not None and issubclass(kind, Exception) and not issubclass(kind, Pruned)
        status = "FINISHED" if kind is None else "FAILED" if is_failure else "KILLED"
        try:
            self._folder.end(
                status, **self._result
            )  # on disk first: from here on a dead MLflow or actor delays it only
        except LlmyardError:
            if kind is None:
                raise
            return  # told is what ended the stage, most likely the same full disk; the next command closes the run
        settled = _try(self._tracking.service, "settle", self.spec.token, timeout=30.0)
        if not settled:
            _log.warning("run %s is not complete in MLflow yet; the next llmyard command completes it", self.spec.name)


@dataclass(frozen=True)
class Ticket:
    """Opens a run's tracker in a worker."""

    spec: RunSpec
    uri: str
    spool_root: str
    service: Service

    def open(self, name: str = "worker", *, system_seconds: float = 10.0) -> SpoolTracker:
        """The tracker that this worker logs to; call it on rank 0 only.

        Args:
            name: The spool's folder; a restarted worker of the same name goes on with its predecessor's lines.
            system_seconds: Time between samples of the machine's metrics; 0 for none.
        """
        folder = RunFolder(self.spool_root, self.spec.token)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError:  # the driver's path cannot be made on this machine
            folder = RunFolder(Path(tempfile.gettempdir()) / "llmyard-spool", self.spec.token)
        record = folder.record()
        if record is None or record[1].owner != self.spec.owner:
            folder.begin(self.uri, self.spec)
        try:
            # A killed predecessor has let go already. One that hangs, or was cut off, must not stop training; what it
            # wrote is sent when the run ends.
            spool = Spool(folder.path / name, wait_seconds=1.0)
        except Busy:
            spool = Spool(folder.path / f"{name}-{os.getpid()}")
        return SpoolTracker(spool, self.service, self.spec.token, system_seconds)


class SpoolTracker:
    """A `Tracker` whose metrics go to a spool on this machine, and from there to the service.

    Args:
        spool: Taken over and closed with the tracker.
        service: Where to send.
        token: The run.
        system_seconds: Time between samples of the machine's metrics; 0 for none.
        drain_seconds: How long `close` waits for MLflow.
    """

    def __init__(
        self,
        spool: Spool,
        service: Service,
        token: str,
        system_seconds: float = 10.0,
        drain_seconds: float = 10.0,
    ) -> None:
        self._spool = spool
        self._service = service
        self._token = token
        self._drain_seconds = drain_seconds
        self._closed = threading.Event()
        self._sender = Sender(spool, self._send)
        self._sampler: threading.Thread | None = None
        if system_seconds > 0:
            self._sampler = threading.Thread(target=self._sample_forever, args=(system_seconds,), daemon=True)
            self._sampler.start()

    def resume(self, step: int, state: bytes = b"") -> None:
        """See `Tracker.resume`.

        Raises:
            DataError: The state is damaged.
        """
        self._spool.truncate_after(step)
        self._spool.restore(state)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`: one queue operation, some 2 µs."""
        self._spool.append(step, metrics)

    def checkpoint_state(self) -> bytes:
        """See `Tracker.checkpoint_state`: waits for the disk, not for MLflow."""
        return self._spool.unsent()

    def close(self) -> None:
        """See `Tracker.close`; what MLflow does not take goes to the driver's disk, or stays on this one."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._sampler is not None:
            self._sampler.join(timeout=2)
        if not self._sender.drain(self._drain_seconds):
            self._sender.stop()
            with contextlib.suppress(Exception):
                self._service.ask("keep", self._token, self._spool.unsent(), timeout=10.0)
                self._spool.acknowledge(self._spool.read(limit=1 << 60)[1])
        self._sender.stop()
        self._spool.remove()

    def _send(self, lines: list[Line]) -> None:
        self._service.ask("send", self._token, [tuple(line) for line in lines])

    def _sample_forever(self, seconds: float) -> None:
        sample = _machine_sampler()
        while True:
            closing = self._closed.wait(seconds)
            with contextlib.suppress(Exception):  # a missing counter is no reason to stop
                # Seconds since 1970 as the step: it grows across restarts and machines without anything to remember.
                self._spool.append(int(time.time()), sample())
            if closing:
                return


def _machine_sampler() -> Any:
    """A callable that gives MLflow's own system metric names for the time since its last call."""
    import psutil

    process = psutil.Process()
    psutil.cpu_percent(None)
    process.cpu_percent(None)
    start = psutil.net_io_counters()
    mebi = 1 << 20

    def sample() -> dict[str, float]:
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.getcwd()), psutil.net_io_counters()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(None),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
            "system/disk_usage_megabytes": disk.used / 1e6,
            "system/disk_usage_percentage": disk.percent,
            "system/network_receive_megabytes": (network.bytes_recv - start.bytes_recv) / 1e6,
            "system/network_transmit_megabytes": (network.bytes_sent - start.bytes_sent) / 1e6,
            "system/process_cpu_percentage": process.cpu_percent(None),
            "system/process_memory_mebibytes": process.memory_info().rss / mebi,
        }

    return sample


def _start_actor(uri: str, files: str | None, root: Path) -> ActorService:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    environment = {key: value for key, value in os.environ.items() if key.startswith(_FORWARDED)}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # where the spools are
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 8, "scheduling_strategy": here}
    actor: Any = ray.remote(TrackingActor)
    return ActorService(actor.options(**options).remote(uri, files, str(root), environment))


class TrackingActor(TrackingService):
    """The service as a Ray actor: lives and dies with the driver, restarts if killed, yields the CPU to training."""

    def __init__(self, uri: str, files: str | None, root: str, environment: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):
            os.nice(_NICE)
        super().__init__(uri, files, root, environment)


def _try(service: Service, method: str, *args: Any, timeout: float = _SEND_SECONDS) -> Any:
    try:
        return service.ask(method, *args, timeout=timeout)
    except Exception as error:
        _log.info("tracking: %s: %s", method, error)
        return None
