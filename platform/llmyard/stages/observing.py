"""What is seen of one training worker: metrics, live view, log, samples, trace, and the page at the end."""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.artifact import MARK
from llmyard.core.errors import LlmyardError
from llmyard.core.tracking import NullTracker
from llmyard.stages import training_report
from llmyard.training.history import MOST_ROWS, History
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


class RankLog:
    """The log of one worker, through all its restarts: ``_making/logs/rank-0000.log`` in the artifact's folder.

    On remote storage it is written on this machine and copied there in the background; a worker that is started again
    on another machine goes on with that copy.

    Args:
        job: Of the run.
        rank: Of the worker.

    Attributes:
        file: Where it is written.
        starts: How many workers of this rank there were before.
        hung: Whether the last of them hung.
    """

    def __init__(self, job: TrainJob, rank: int) -> None:
        self._storage, self._path = job.storage, f"{job.folder}/{LOGS}/rank-{rank:04d}.log"
        if job.storage.is_local:
            path = job.storage.local(self._path)
        else:
            path = Path(tempfile.gettempdir(), f"llmyard-logs-{os.getuid()}", self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(self._storage.read(self._path) or b"")
        before = path.read_text(encoding="utf-8", errors="replace")
        self.starts = before.count(_STARTED)
        self.hung = HUNG in before.rpartition(_STARTED)[2]
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._handler = logging.StreamHandler(self.file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _log.addHandler(self._handler)
        _log.setLevel(logging.INFO)

    def publish(self) -> None:
        """Copies it to remote storage, without waiting."""
        if not self._storage.is_local:
            threading.Thread(target=self._copy, name="log", daemon=True).start()

    def _copy(self) -> None:
        try:
            self._storage.copy_in(Path(self.file.name), self._path)
        except LlmyardError as error:  # a log is no reason to stop
            _log.warning("the log was not copied: %s", error)

    def close(self) -> None:
        """Ends it."""
        _log.removeHandler(self._handler)
        self.file.close()
        if not self._storage.is_local:
            self._copy()
            Path(self.file.name).unlink()


LOGS = "_making/logs"
_STARTED = "worker started"


class Observer:
    """Watches one worker from its start to its end.

    Args:
        job: Its work.
        peers: All workers.
        checkpoints: Of the run.

    Attributes:
        done: Steps that are done.
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
        self.done = 0
        _log.info("%s: rank %d of %d, process %d", _STARTED, peers.rank, peers.world, os.getpid())

    def begins(self, start: Saved | None, layout: Layout, sampler: Sampler | None) -> None:
        """Training is about to begin; a collective call.

        Args:
            start: The checkpoint that it goes on from.
            layout: The model.
            sampler: Writes texts; rank 0 uses it.
        """
        facts = start.facts if start is not None else {}
        self.done = start.step if start is not None else 0
        _log.info("training goes on from step %d", self.done)
        self._tracker.resume(self.done, base64.b64decode(facts.get("tracking", "")))
        self._history = History.of(facts.get("history", {}))
        self._tell_of_restarts([rank for rank, each in enumerate(self._peers.gather(self._logs.hung)) if each])
        self._layout, self._sampler = layout, sampler if self._rank == 0 else None
        if self._config.profile is not None and self._rank == 0:
            from llmyard.training.profiling import Profiler

            self._profiler = Profiler(self._config.profile, layout.device, self._keep)

        self.beat()

    def _tell_of_restarts(self, hung: list[int]) -> None:
        """Notes the restarts since the checkpoint was written; there may have been several, or none was written yet."""
        known = sum(event.kind in ("resumed", "hung") for event in self._history.events)
        for _ in range(min(self._logs.starts - known - bool(hung), MOST_ROWS)):
            self._history.happened(self.done, "resumed", f"{self._peers.world} workers")
        if hung:
            what = f"ranks {', '.join(map(str, hung))} made no step any more; where they hung stands in their logs"
            self._history.happened(self.done, "hung", what)
            if self._rank == 0:
                _log.warning("%s", what)

    def beat(self) -> None:
        """All is well."""
        self._watchdog.beat()

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
        self.done = step
        self.beat()
        if self._sampler is not None and self._sampler.is_due(step, self._config.steps):
            self._history.wrote(step, self._sampler(self._layout.model))
            self.beat()
        if self._profiler is not None:
            self._profiler.step()

    def evaluated(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a validation."""
        self._history.evaluated(step, figures)
        # The step after: that of the loop's own metrics is taken.
        self._tracker.log(
            step + 1, {f"validation/{name.removeprefix('validation_')}": each for name, each in figures.items()}
        )

        trial = self._job.trial
        if trial is not None and self._rank == 0 and step < self._config.steps:
            trial.report(step, {name: float(each) for name, each in figures.items()})

    def asked(self, asked: Callable[[], tuple[bool, bool]]) -> Callable[[], tuple[bool, bool]]:
        """Returns what a worker was asked: to save now, to stop after that; a trial that others leave behind is too."""

        def also_by_the_trial() -> tuple[bool, bool]:
            save, stop = asked()
            return save, stop or bool(self._job.trial is not None and self._job.trial.ended)

        return also_by_the_trial

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
        tracked = base64.b64encode(self._tracker.checkpoint_state()).decode()
        return {"tracking": tracked, "history": self._history.state()}

    def saves(self) -> None:
        """A checkpoint is about to be written; on every rank."""
        self.beat()
        self._logs.publish()

    def ends(self) -> None:
        """The last step is done."""
        self._watchdog.close()

    def goes_back(self, step: int) -> None:
        """The run goes back to a checkpoint."""
        self._history.go_back(step)

    def leaves(self) -> None:
        """Writes the page and the workers' logs into the artifact's folder."""
        self._report("")
        for item in list(self._job.storage.list(f"{self._job.folder}/{LOGS}")):
            self._keep(f"logs/{item.path}", self._job.storage.read(f"{self._job.folder}/{LOGS}/{item.path}") or b"")

    def _report(self, folder: str) -> None:
        try:
            for name, page in training_report.pages(self._config, self._history).items():
                self._keep(f"{folder}{name}", page.encode())
        except Exception:  # a page that cannot be drawn is no reason to lose a training
            _log.exception("the report was not written")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Ends all of it with the block; after an error the page says what the run was like until then."""
        try:
            yield
        except Exception as error:
            _log.exception("the worker ends: %s", error)
            # A worker that was cut off learns late that others went on without it, and are done.
            if self._rank == 0 and self._job.storage.read(f"{self._job.folder}/{MARK}") is None:
                self._report("_making/")
            raise
        finally:
            self._watchdog.close()
            if self._profiler is not None:
                self._profiler.close()
            self._tracker.close()
            self._logs.close()
