"""What is seen of one training worker: metrics, live view, log, samples, trace, and the page at the end."""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.tracking import NullTracker
from llmyard.stages import training_report
from llmyard.training.history import History
from llmyard.training.watchdog import HUNG, Watchdog

if TYPE_CHECKING:
    from llmyard.stages.samples import Sampler
    from llmyard.stages.training import TrainJob
    from llmyard.training.checkpoint import Checkpoints
    from llmyard.training.diagnosis import Diagnosis
    from llmyard.training.layout import Layout
    from llmyard.training.peers import Peers
    from llmyard.training.progress import Saved
    from llmyard.training.stability import Verdict

_log = logging.getLogger("llmyard")
_SHOW_SECONDS = 1.0
_TAIL = 1 << 18


class RankLog:
    """The log of one worker, through all its restarts: ``logs/rank-0000.log`` in the artifact's folder.

    On remote storage it is written on this machine and copied there at every checkpoint.

    Args:
        job: Of the run.
        rank: Of the worker.

    Attributes:
        file: Where it is written.
        hung: Whether the worker of this rank before this one hung.
    """

    def __init__(self, job: TrainJob, rank: int) -> None:
        self._storage, self._path = job.storage, f"{job.folder}/logs/rank-{rank:04d}.log"
        if job.storage.is_local:
            path = job.storage.local(self._path)
        else:
            path = Path(tempfile.gettempdir(), "llmyard-logs", self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.hung = _hung(path)
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._handler = logging.StreamHandler(self.file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _log.addHandler(self._handler)
        _log.setLevel(logging.INFO)
        self.publish()

    def publish(self) -> None:
        """Copies it to remote storage."""
        if not self._storage.is_local:
            self._storage.copy_in(Path(self.file.name), self._path)

    def close(self) -> None:
        """Ends it."""
        _log.removeHandler(self._handler)
        self.file.close()
        self.publish()


def _hung(path: Path) -> bool:
    """Returns whether a log ends with the stacks of a worker that hung."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return HUNG.encode() in file.read().rpartition(_STARTED.encode())[2]


_STARTED = "worker started"


class Observer:
    """Watches one worker from its start to its end.

    Args:
        job: Its work.
        peers: All workers.
        checkpoints: Of the run.
    """

    def __init__(self, job: TrainJob, peers: Peers, checkpoints: Checkpoints) -> None:
        self._job, self._config, self._peers, self._rank = job, job.config, peers, peers.rank
        self._checkpoints = checkpoints
        self._logs = RankLog(job, peers.rank)
        self._watchdog = Watchdog(job.config.hang_seconds, self._logs.file)
        self._tracker = job.ticket.open() if peers.rank == 0 else NullTracker()
        self._history = History()
        self._profiler: Any = None
        self._sampler: Sampler | None = None
        self._shown = 0.0
        _log.info("%s: rank %d of %d, process %d", _STARTED, peers.rank, peers.world, os.getpid())

    def begins(self, start: Saved | None, layout: Layout, sampler: Sampler | None) -> None:
        """Training is about to begin; a collective call.

        Args:
            start: The checkpoint that it goes on from.
            layout: The model.
            sampler: Writes texts; rank 0 uses it.
        """
        facts = start.facts if start is not None else {}
        done = start.step if start is not None else 0
        _log.info("training goes on from step %d", done)
        self._tracker.resume(done, base64.b64decode(facts.get("tracking", "")))
        self._history = History.of(facts.get("history", {}))
        hung = [rank for rank, each in enumerate(self._peers.gather(self._logs.hung)) if each]
        if hung and self._rank == 0:
            what = f"no step for {self._config.hang_seconds:g} s; the stacks are in logs/rank-*.log"
            _log.warning("the workers before these hung (ranks %s): %s", ", ".join(map(str, hung)), what)
            self._history.happened(done, "hung", what)
        elif start is not None:
            self._history.happened(done, "resumed", f"{self._peers.world} workers")
        self._layout, self._sampler = layout, sampler if self._rank == 0 else None
        if self._config.profile is not None and self._rank == 0:
            from llmyard.training.profiling import Profiler

            self._profiler = Profiler(self._config.profile, layout.device, self._keep)

    def _keep(self, path: str, data: bytes) -> None:
        self._job.storage.write(f"{self._job.folder}/{path}", data)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step."""
        self._tracker.log(step, metrics)
        self._history.log(step, metrics)
        now = time.monotonic()
        if now - self._shown > _SHOW_SECONDS or step == self._config.steps:
            self._shown = now
            self._job.board.post(step=step, checkpoint_age=now - self._checkpoints.marked_at, **metrics)

    def step(self, step: int) -> None:
        """A step is over; on every rank."""
        self._watchdog.beat()
        if self._sampler is not None and self._sampler.is_due(step, self._config.steps):
            self._history.wrote(step, self._sampler(self._layout.model))
            self._watchdog.beat()
        if self._profiler is not None:
            self._profiler.step()

    def evaluated(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a validation."""
        self._history.evaluated(step, figures)
        # The step after: that of the loop's own metrics is taken.
        self._tracker.log(
            step + 1, {f"validation/{name.removeprefix('validation_')}": each for name, each in figures.items()}
        )

    def event(self, step: int, verdict: Verdict) -> None:
        """Takes a step that went wrong; on rank 0."""
        kind = verdict.decision.value
        # As a metric it stands on the loss's plot, at the step where it happened.
        self._tracker.log(step, {f"events/{kind}": verdict.value if math.isfinite(verdict.value) else 0.0})
        self._history.happened(step, kind, f"{verdict.reason} ({verdict.value:.4g})")
        _log.warning("step %d: %s (%.4g): %s", step, verdict.reason, verdict.value, kind)

    def layers(self, step: int, statistics: Mapping[str, float], faults: Mapping[str, Diagnosis]) -> None:
        """Takes the statistics of every layer, and what is wrong with them."""
        if self._rank:
            return
        self._tracker.log(step, statistics)
        self._history.looked(step, statistics)
        known = {event.what for event in self._history.events if event.kind == "diagnosis"}
        for stack, fault in faults.items():
            what = f"{stack}: {fault.what.partition(':')[0]}: {fault.remedy}"
            if what not in known:
                self._history.happened(step, "diagnosis", what)
                _log.warning("step %d: %s: %s: %s", step, stack, fault.what, fault.remedy)

    def facts(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of this."""
        self._logs.publish()
        tracked = base64.b64encode(self._tracker.checkpoint_state()).decode()
        return {"tracking": tracked, "history": self._history.state()}

    def goes_back(self, step: int) -> None:
        """The run goes back to a checkpoint."""
        self._history.go_back(step)

    def report(self, folder: str = "") -> None:
        """Writes the page, into a folder of the artifact."""
        for name, page in training_report.pages(self._config, self._history).items():
            self._keep(f"{folder}{name}", page.encode())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Ends all of it with the block; after an error the page says what the run was like until then."""
        try:
            yield
        except Exception as error:
            _log.exception("the worker ends: %s", error)
            if self._rank == 0:
                with contextlib.suppress(Exception):  # the error itself is told
                    self.report("_making/")
            raise
        finally:
            self._watchdog.close()
            if self._profiler is not None:
                self._profiler.close()
            self._tracker.close()
            self._logs.close()
