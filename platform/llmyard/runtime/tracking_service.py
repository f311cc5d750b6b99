"""From spools to MLflow, without Ray: a worker's sending thread, and the service that owns the gateway.

Every run has a folder on disk, so whatever MLflow could not take is sent by the next command:

    {spool root}/{token}/run.json   what to open, and for which store
                         end.json   how the run ended; written before MLflow is told
                         worker/    a spool; also `driver/`, and `kept/` for what other machines handed over
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmyard.core.errors import Busy
from llmyard.core.spool import Spool
from llmyard.core.storage import write_failed
from llmyard.core.tracking import Line, RunSpec, TrackingRejected, TrackingUnavailable, owner_lives
from llmyard.runtime.mlflow_gateway import BATCH, HEARTBEAT_SECONDS, MlflowGateway

_log = logging.getLogger(__name__)


class RunFolder:
    """A run's files on this machine.

    Args:
        root: The spool root.
        token: The run's identity.
    """

    def __init__(self, root: str | Path, token: str) -> None:
        readable = re.sub(r"[^\w.@-]+", "-", token)[:60]
        self.path = Path(root) / f"{readable}-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """The folder that is already there."""
        folder = cls.__new__(cls)
        folder.path = path
        return folder

    def begin(self, uri: str, spec: RunSpec) -> None:
        """Notes what to open; a former attempt's end no longer counts."""
        self._write("run.json", {"uri": uri, "spec": spec.to_json()})
        (self.path / "end.json").unlink(missing_ok=True)

    def record(self) -> tuple[str, RunSpec] | None:
        """(store, spec) as begun, or None."""
        found = self._read("run.json")
        return (found["uri"], RunSpec.from_json(found["spec"])) if found else None

    def end(
        self,
        status: str,
        metrics: Mapping[str, float],
        artifact: str = "",
        artifact_uri: str = "",
        pages: Sequence[str] = (),
    ) -> None:
        """Notes how the run ended."""
        now = int(time.time() * 1000)
        fields = {"status": status, "metrics": dict(metrics), "artifact": artifact, "artifact_uri": artifact_uri}
        self._write("end.json", fields | {"pages": list(pages), "ended_ms": now})

    def ending(self) -> dict[str, Any] | None:
        """What `end` noted, as arguments of `MlflowGateway.finish`."""
        return self._read("end.json")

    def spools(self) -> list[Path]:
        """The spool directories in it."""
        return sorted(path for path in self.path.iterdir() if path.is_dir()) if self.path.is_dir() else []

    def remove(self) -> None:
        """Deletes the folder unless a spool is left in it."""
        if not self.spools():
            shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            temporary.replace(self.path / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise write_failed(str(self.path / name), error) from error

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return None


class Sender:
    """A thread that sends a spool's lines in batches until it is stopped; it never gives up on its own.

    Args:
        spool: Where the lines come from.
        send: Returns once MLflow has the lines; raises `TrackingRejected` if it never will, anything else to be tried
            again.
        interval: Seconds between sends that are not full; fewer sends cost less CPU, more show a curve sooner.
        longest_pause: The back-off's limit, in seconds.
    """

    def __init__(
        self,
        spool: Spool,
        send: Callable[[list[Line]], object],
        *,
        interval: float = 2.0,
        longest_pause: float = 15.0,
    ) -> None:
        self._spool = spool
        self._send = send
        self._interval = interval
        self._longest_pause = longest_pause
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="llmyard-sender", daemon=True)
        self.failure: Exception | None = None
        """Why the last send failed; None if it did not."""
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Sends at once what is on disk; False if that took longer than `timeout` seconds."""
        self._spool.flush()
        give_up = time.monotonic() + timeout
        while not self._spool.is_empty():
            self._wake.set()
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> None:
        """Ends the thread; a send under way is waited for shortly."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = self._interval
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopping:
                return
            try:
                sent = send_batch(self._spool, self._send)
            except Exception as error:  # MLflow, the actor or the disk: whatever it is, the lines are kept and go again
                self._note(error)
                pause = min(max(pause, 0.5) * 2, self._longest_pause)
            else:
                self._note(None)
                pause = 0.0 if sent > BATCH // 2 else self._interval  # at once only for a backlog, else sends get tiny

    def _note(self, failure: Exception | None) -> None:
        if failure and not self.failure:
            _log.warning("metrics wait on disk, training goes on: %s", str(failure).splitlines()[0])
        elif self.failure and not failure:
            _log.warning("MLflow is back, the waiting metrics are being sent")
        self.failure = failure


def send_batch(spool: Spool, send: Callable[[list[Line]], object]) -> int:
    """Sends one batch and acknowledges it; returns how many metrics it held. Raises what `send` raises."""
    lines, behind = spool.read(limit=BATCH)
    if not lines:
        return 0
    spool.attempt(behind)  # before the send: should the answer be lost, these lines keep their timestamps
    try:
        send(lines)
    except TrackingRejected as error:
        _log.warning("MLflow refuses metrics, they are kept in %s/rejected.jsonl: %s", spool.directory, error.what)
        spool.reject(lines, behind, error.what)
    else:
        spool.acknowledge(behind)
    return sum(len(line.metrics) for line in lines)


class TrackingService:
    """Owns the gateway for all runs of one driver; runs in an actor beside it, or in the process itself.

    Args:
        uri: The MLflow store.
        artifact_root: See `MlflowGateway`.
        root: The spool root.
        environment: The driver's settings for MLflow and its storage, which an actor process does not inherit.
        background: Close abandoned runs, send leftovers and keep the heartbeat in threads of its own; False leaves
            that to the caller.
    """

    def __init__(
        self,
        uri: str,
        artifact_root: str | None,
        root: str | Path,
        environment: Mapping[str, str] | None = None,
        background: bool = True,
    ) -> None:
        os.environ.update(environment or {})
        self._root = Path(root)
        self._gateway = MlflowGateway(uri, artifact_root)
        self._runs: dict[str, str] = {}
        self._open: set[str] = set()
        # One thread at a time opens or settles a run: one that is opened amid its end would be RUNNING again after it.
        self._locks: dict[str, threading.Lock] = {}
        self._stopped = threading.Event()
        if background:
            threading.Thread(target=self._tidy, name="llmyard-tidy", daemon=True).start()
            threading.Thread(target=self._beat, name="llmyard-heartbeat", daemon=True).start()

    def open(self, token: str) -> str:
        """The id of the run whose folder the driver has begun; its lease is kept from now on."""
        return self._run_id(token)

    def send(self, token: str, lines: list[Line]) -> int:
        """Logs the lines; returns how many metrics were new."""
        return self._gateway.log_batch(self._run_id(token), [Line(*line) for line in lines])

    def keep(self, token: str, state: bytes) -> None:
        """Stores another machine's unsent lines on this one."""
        spool = Spool(RunFolder(self._root, token).path / "kept")
        try:
            spool.restore(state)
        finally:
            spool.close()

    def settle(self, token: str) -> bool:
        """Sends what is on this machine's disk and ends the run as noted; True if nothing is left to do."""
        return self._flush(RunFolder(self._root, token), token)

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Any method of the gateway."""
        return getattr(self._gateway, method)(*args, **options)

    def flush_pending(self) -> int:
        """Sends what earlier commands left on this machine; returns how many runs still wait."""
        waiting = 0
        for path in sorted(self._root.glob("*/run.json")):
            folder = RunFolder.at(path.parent)
            record = folder.record()
            if record is None or record[0] != self._gateway.uri or record[1].token in self._open:
                continue
            if owner_lives(record[1].owner):
                continue
            try:
                waiting += not self._flush(folder, record[1].token)
            except TrackingUnavailable as error:
                _log.warning("metrics of earlier runs still wait in %s: %s", self._root, error.what)
                return waiting + 1
        return waiting

    def cpu_seconds(self) -> float:
        """CPU time of this process so far: what tracking costs the machine."""
        return time.process_time()

    def stop(self) -> None:
        """Ends the threads."""
        self._stopped.set()

    def _run_id(self, token: str) -> str:
        known = self._runs.get(token)
        if known is not None:
            return known
        with self._alone(token):
            return self._runs.get(token) or self._started(token)

    def _alone(self, token: str) -> threading.Lock:
        return self._locks.setdefault(token, threading.Lock())

    def _started(self, token: str) -> str:
        folder = RunFolder(self._root, token)
        record = folder.record()
        if record is None:
            raise TrackingUnavailable(f"run {token} is not open here", "its metrics are sent by the next command")
        run_id: str | None = None
        if folder.ending() is None:
            self._open.add(token)  # its lease is kept, also after this process was killed and restarted
        else:  # a straggler must not make an ended run RUNNING
            run_id = self._gateway.find_run(token, record[1].experiment)
        run_id = run_id or self._gateway.start_run(record[1])
        self._runs[token] = run_id
        return run_id

    def _flush(self, folder: RunFolder, token: str) -> bool:
        with self._alone(token):
            self._open.discard(token)
            self._runs.pop(token, None)
            return self._sent(folder)

    def _sent(self, folder: RunFolder) -> bool:
        record = folder.record()
        if record is None:
            return True
        spec, ending = record[1], folder.ending()
        run_id = self._gateway.find_run(spec.token, spec.experiment)
        if run_id is None:
            run_id = self._gateway.start_run(spec)
            ending = ending or {"status": "KILLED"}
        elif owner_lives(spec.owner) is None and ending is None and self._gateway.is_owned(run_id):
            return True  # this machine ran a worker of a run that lives on elsewhere
        left = [path for path in folder.spools() if not self._drain(path, run_id)]
        if ending is not None:
            self._gateway.finish(run_id, **ending)
            self._gateway.forget(run_id)
        if not left:
            folder.remove()
        return not left

    def _drain(self, path: Path, run_id: str) -> bool:
        try:
            spool = Spool(path, wait_seconds=2.0)
        except Busy:
            return False
        try:
            while send_batch(spool, lambda lines: self._gateway.log_batch(run_id, lines)):
                pass
            return spool.remove()
        finally:
            spool.close()

    def _tidy(self) -> None:
        pause = 2.0
        while not self._stopped.wait(pause if pause > 2.0 else 0.0):
            try:
                self._gateway.close_abandoned()
                self.flush_pending()
                return
            except TrackingUnavailable:
                pause = min(pause * 2, 60.0)
            except Exception:
                _log.exception("could not tidy up after earlier runs")
                return

    def _beat(self) -> None:
        last = 0.0
        while not self._stopped.wait(5.0):
            due = time.monotonic() - last > HEARTBEAT_SECONDS
            last = time.monotonic() if due else last
            for token in list(self._open):
                with contextlib.suppress(TrackingUnavailable, TrackingRejected):
                    if token not in self._runs:  # MLflow was down when the stage began
                        self._run_id(token)
                    elif due:
                        self._gateway.heartbeat(self._runs[token])
