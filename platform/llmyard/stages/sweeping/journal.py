"""All that is known of a sweep's trials, written down before it counts: a sweep that was killed goes on from here."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.sweeps.config import Searching
from llmyard.sweeps.population import Later
from llmyard.sweeps.searchers import proposer
from llmyard.sweeps.stopping import ends
from llmyard.sweeps.trial import Trial, best_of

_CLOCK = "clock.json"


class Journal:
    """Says which trial comes next, which end early, and when a sweep is over; one file a trial in the storage.

    Every answer is in the storage before it is given, so that whoever opens the folder again knows as much: finished
    trials count, begun ones are given out again under their numbers and go on from what their stages left.

    Args:
        storage: Where the sweep is made.
        folder: Of its own there.
        config: What is searched.
    """

    def __init__(self, storage: Storage, folder: str, config: Searching) -> None:
        self._storage, self._folder, self._config = storage, folder, config
        self._proposer = proposer(config)
        self._trials: dict[int, Trial] = {}
        for item in storage.list(folder, recursive=True):
            data = storage.read(f"{folder}/{item.path}") if item.path.startswith("trial-") else None
            if data is not None:
                trial = Trial.from_json(data)
                self._trials[trial.number] = trial
        states = {each.state for each in self._trials.values()}
        again = {"running"} if "finished" in states else {"running", "failed"}  # what failed all of them may be mended
        self._unfinished = sorted(each.number for each in self._trials.values() if each.state in again)
        for number in self._unfinished:
            self._trials[number] = replace(self._trials[number], state="running", why="")
        self._verdicts: dict[int, str] = {}
        self._fault: RequestError | None = None
        self._given: dict[int, float] = {}  # when each trial was given out last
        before = storage.read(f"{folder}/{_CLOCK}")
        self._seconds_before, self._began = float(before or b"0"), time.monotonic()

    def next(self) -> tuple[int, Mapping[str, Any]] | Literal["later"] | None:
        """Returns the number and the values of the trial to run now; None where none is left to begin, ``later`` where
        the next one depends on some that run.

        Raises:
            RequestError: It makes no sense to go on: so many trials have failed, or one has no such figure.
        """
        if self._fault is not None:
            raise self._fault
        self._refuse_failures()
        while self._unfinished:
            number = self._unfinished.pop(0)
            if self._trials[number].state == "running":
                self._given[number] = time.monotonic()
                return number, self._trials[number].values
        if self.is_spent():
            return None
        number = max(self._trials, default=-1) + 1
        try:
            values = self._proposer.propose(number, self.all())
        except Later:
            return "later"
        if values is None:
            return None
        self._write(Trial(number, values))
        self._given[number] = time.monotonic()
        return number, values

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> str:
        """Takes a trial's figures after some of its steps; returns why it ends there, "" where it goes on."""
        trial = self._trials[number].reported(step, metrics)
        self._write(replace(trial, steps=max(trial.steps, step)))
        self._verdicts[number] = self._judged(trial, step, metrics)
        return self._verdicts[number]

    def verdict(self, number: int) -> str:
        """Returns what :meth:`report` returned last for a trial; "" for one that has not reported."""
        return self._verdicts.get(number, "")

    def _judged(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> str:
        value = metrics.get(self._config.objective.metric)
        if value is not None and not math.isfinite(value):
            return f"{self._config.objective.metric} is {value} after {step} steps"
        others = [each for each in self.all() if each.number != trial.number and each.state != "failed"]
        stopping = self._config.stopping
        if stopping is not None and ends(stopping, self._config.objective, trial, others):
            return f"others did better after {step} steps"
        return ""

    def finish(self, number: int, metrics: Mapping[str, float], artifact: str, run: str, steps: int) -> None:
        """Takes a trial that ran to its end. One whose figure is no number counts as pruned; one without the figure has
        failed, and no other trial would have it either.
        """
        for objective in self._config.objectives:
            if objective.metric not in metrics:
                self.fail(number, f"it has no {objective.metric!r}")
                self._fault = RequestError(
                    f"trial {number} ended without the metric {objective.metric!r}",
                    f"name one of: {', '.join(sorted(metrics))}",
                )
                return
        bad = [each.metric for each in self._config.objectives if not math.isfinite(metrics[each.metric])]
        self._end(
            number, state="pruned" if bad else "finished", metrics=dict(metrics), artifact=artifact, run=run,
            steps=max(steps, self._trials[number].steps), why=f"{bad[0]} is no number" if bad else "",
        )  # fmt: skip

    def prune(self, number: int, why: str) -> None:
        """Takes a trial that ended early."""
        last = self._trials[number].reports[-1:]
        self._end(number, state="pruned", why=why, metrics=dict(last[0].metrics) if last else {})

    def fail(self, number: int, why: str) -> None:
        """Takes a trial that ended with an error."""
        self._end(number, state="failed", why=why)

    def drop(self, number: int) -> None:
        """Takes note that what a trial made was removed."""
        self._write(replace(self._trials[number], artifact=""))

    def all(self) -> list[Trial]:
        """Returns all trials by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    def standing(self) -> tuple[Counter[str], tuple[int, float] | None]:
        """Returns how many trials are in each state, and the best one's number and figure."""
        best = best_of(self.all(), self._config.objective)
        found = None if best is None else (best.number, best.metrics[self._config.objective.metric])
        return Counter(each.state for each in self._trials.values()), found

    def seconds(self) -> float:
        """Returns how long the sweep has run, over all its attempts."""
        return self._seconds_before + time.monotonic() - self._began

    def keep_clock(self) -> None:
        """Writes down how long it has run."""
        self._storage.write(f"{self._folder}/{_CLOCK}", f"{self.seconds():.3f}".encode())

    def is_spent(self) -> bool:
        """Returns whether the budget allows no further trial."""
        budget = self._config.budget
        if budget is None:
            return False
        trials = self._trials.values()
        return (
            (budget.trials is not None and len(trials) >= budget.trials)
            or (budget.hours is not None and self.seconds() >= budget.hours * 3600)
            or (budget.steps is not None and sum(each.steps for each in trials) >= budget.steps)
            or (budget.tokens is not None and sum(each.metrics.get("tokens", 0.0) for each in trials) >= budget.tokens)
        )

    def _refuse_failures(self) -> None:
        failed = [each for each in self.all() if each.state == "failed"]
        is_hopeless = len(failed) >= self._config.max_failures and not any(
            each.state == "finished" for each in self._trials.values()
        )
        if is_hopeless:
            raise RequestError(
                f"{len(failed)} trials failed and none has finished; the first, trial {failed[0].number} with "
                f"{dict(failed[0].values)}: {failed[0].why}",
                "mend what it says, or the space; raise max_failures if most of the space is known to fail",
            )

    def _end(self, number: int, **changes: Any) -> None:
        trial = self._trials[number]
        if trial.state != "running":  # said twice, by an attempt that was thought lost
            return
        seconds = time.monotonic() - self._given.get(number, time.monotonic())
        self._write(replace(trial, seconds=trial.seconds + seconds, **changes))
        self.keep_clock()

    def _write(self, trial: Trial) -> None:
        self._storage.write(f"{self._folder}/trial-{trial.number:06d}.json", trial.to_json().encode())
        self._trials[trial.number] = trial
