"""One trial run: its stages, with its figures told to the journal on the way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import LlmyardError, Pruned
from llmyard.core.storage import Storage
from llmyard.stages.config import Sweep
from llmyard.stages.stage import Context, StageResult, run_stage
from llmyard.stages.sweeping.trial_stages import trial_stages


@dataclass(frozen=True)
class TrialWork:
    """All that a process needs to run trials; picklable.

    Attributes:
        storage: Where artifacts are.
        service: The tracking service.
        referee: Takes and answers what the :class:`llmyard.stages.sweeping.journal.Journal` does.
        parent: Token of the sweep's tracked run.
        job: Digest of the job that the sweep is of.
        shared: What the trials share.
        is_here: Whether training runs in the trial's own process.
        threads: For training here.
    """

    sweep: Sweep
    storage: Storage
    service: Any
    referee: Any
    parent: str
    job: str
    shared: tuple[Artifact, ...]
    is_here: bool
    threads: int


@dataclass
class Reporter:
    """Tells the journal how a trial goes; picklable, for it is the training's first worker that knows.

    Attributes:
        ended: Why the trial is to end; "" as long as it is not.
    """

    referee: Any
    number: int
    ended: str = field(default="", init=False)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes figures after some steps."""
        self.ended = self.referee.ask("report", self.number, step, dict(metrics))

    def why(self) -> str:
        """Returns why the trial is to end, also where another process reported; "" where it goes on."""
        return self.ended or str(self.referee.ask("verdict", self.number))


class Silent:
    """A progress view that shows nothing."""

    def update(self, done: float, total: float, note: str = "", **figures: float) -> None:
        """Shows nothing."""


def run_trial(work: TrialWork, number: int, values: Mapping[str, Any]) -> None:
    """Runs a trial to its end and tells the journal how it ended.

    Raises:
        Exception: What is no error of llmyard's own, such as a lost worker: the trial may be run again.
    """
    from llmyard.runtime.tracking import Tracking
    from llmyard.runtime.trainer import training_here

    os.environ["OMP_NUM_THREADS"] = str(work.threads)
    store = ArtifactStore(work.storage)
    for artifact in work.shared:
        store = store.pinned(artifact)
    tracking = Tracking(work.storage.uri, work.service)
    reporter = Reporter(work.referee, number)
    figures: list[Mapping[str, float]] = []
    last: StageResult | None = None
    steps = 0
    try:
        for seed in range(work.sweep.seeds):
            found = store
            for stage in trial_stages(work.sweep, number, values, seed):
                context = Context(
                    found, tracking, lambda stage: Silent(), pipeline=work.sweep.output, job=work.job,
                    parent=work.parent, trial=reporter,
                )  # fmt: skip
                with training_here(work.is_here):
                    last = run_stage(stage, context)
                steps += getattr(stage, "steps", 0)
                found = found.pinned(last.artifacts[0])
            assert last is not None
            figures.append(last.metrics)
    except Pruned as pruned:
        work.referee.ask("prune", number, pruned.what)
        return
    except (LlmyardError, ValueError) as error:
        what = f"{error.what}: {error.remedy}" if isinstance(error, LlmyardError) else str(error)
        work.referee.ask("fail", number, what)
        return
    assert last is not None
    metrics = {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}
    work.referee.ask("finish", number, metrics, last.artifacts[0].reference, last.run_id, steps)
