"""Trials on Ray Tune: as many at once as there is room for, each in a process that is used again for the next one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.runtime.capacity import capacity
from llmyard.runtime.session import cause_of, is_lost, plain_error, session_folder
from llmyard.runtime.trainer import actor_here

_LOOK_SECONDS = 1.0
_ENDED = "ended"  # Tune wants some figure; the true ones go to the referee
_ATTEMPTS = 3  # at a trial whose process was lost


@dataclass(frozen=True)
class Referee:
    """An object in an actor on the driver's node, which all trials ask; picklable."""

    handle: Any

    @classmethod
    def start(cls, kind: type, *arguments: Any) -> Referee:
        """Returns the actor of a class, made with its arguments."""
        return cls(actor_here(kind, *arguments))

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns what a method says.

        Raises:
            LlmyardError: What the method raised.
        """
        import ray

        try:
            return ray.get(getattr(self.handle, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            cause = cause_of(error)
            raise (plain_error(cause) if cause is not None else error) from None

    def end(self) -> None:
        """Ends the actor."""
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self.handle)


@dataclass(frozen=True)
class Room:
    """What a trial takes.

    Attributes:
        cpus: That its own process holds; 0 where it only waits for other processes.
        gpus: The same.
        concurrent: Trials at once.
    """

    cpus: float
    gpus: float
    concurrent: int


def room_for(cpus: float, gpus: float, concurrent: int | None, *, holds_cpus: bool, holds_gpus: bool) -> Room:
    """Returns how many trials run at once.

    Args:
        cpus: That all processes of a trial take at once.
        gpus: The same.
        concurrent: Trials at once, at most; None for as many as there is room for.
        holds_cpus: Whether the trial's own process holds them; not where others work for it, which would wait for ever.
        holds_gpus: The same.

    Raises:
        RequestError: The cluster can never run a single one.
    """
    import ray

    most, there = capacity(), ray.cluster_resources()
    fitting = []
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        found = most.get(name, 0.0)
        if needed > found:
            raise RequestError(
                f"a trial needs {needed:g} {name}s, Ray has {found:g}: none would ever begin",
                f"lower resources.workers or resources.{name.lower()}s_per_worker of the job",
            )
        fitting += [int(there.get(name, 0.0) // needed)] if needed else []
    room = min(fitting, default=1)
    at_once = room if concurrent is None else min(concurrent, room)
    return Room(cpus if holds_cpus else 0.0, gpus if holds_gpus else 0.0, max(1, at_once))


def run_trials(
    work: Callable[[Any, int, Mapping[str, Any]], None],
    argument: Any,
    referee: Referee,
    room: Room,
    watch: Callable[[], None],
) -> None:
    """Runs trials until the referee's ``next`` gives no further one.

    Args:
        work: An importable function of (argument, number, values); it tells the referee how the trial ended.
        argument: Picklable.
        referee: Says which trial comes next.
        room: What a trial takes.
        watch: Called about once a second in the driver.

    Raises:
        LlmyardError: What the referee or a trial raised, or that trials were lost too often.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    # Ray writes down where its trials are for a restart that llmyard does not use.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "36000")
    from ray import tune

    proposals = _proposals(referee)
    # Something must be asked for: where others do the work, a little memory, of which there is enough anywhere.
    resources = {"CPU": room.cpus, "memory": 1 << 20} | ({"GPU": room.gpus} if room.gpus else {})
    trial = tune.with_parameters(_trial, work=work, argument=argument)
    # In the session's folder, which is swept when its owner was killed.
    with tempfile.TemporaryDirectory(prefix="tune-", dir=session_folder()) as folder:
        tuner = tune.Tuner(
            tune.with_resources(trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=proposals, num_samples=-1, max_concurrent_trials=room.concurrent, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="trials", storage_path=folder, verbose=0,
                failure_config=tune.FailureConfig(max_failures=_ATTEMPTS - 1),
            ),
        )  # fmt: skip
        finished: Future[Any] = Future()
        # Not in the main thread: there Ray would take Ctrl-C for itself.
        threading.Thread(target=_fit, args=(tuner, finished), name="ray-tune", daemon=True).start()
        while not wait([finished], timeout=_LOOK_SECONDS).done:
            if is_lost():
                break
            watch()
        if proposals.error is not None:
            raise proposals.error
        error = finished.exception() if finished.done() else None
        if error is not None:
            raise cause_of(error) or error
        watch()


def _fit(tuner: Any, finished: Future[Any]) -> None:
    try:
        finished.set_result(tuner.fit())
    except BaseException as error:
        finished.set_exception(error)


def _trial(
    config: dict[str, Any], work: Callable[[Any, int, Mapping[str, Any]], None], argument: Any
) -> dict[str, float]:
    work(argument, config["number"], config["values"])
    return {_ENDED: 1.0}


def _proposals(referee: Referee) -> Any:
    """Returns what Tune asks for the next trial."""
    from ray.tune.search import Searcher

    class Proposals(Searcher):  # type: ignore[misc]
        """Hands out what the referee says; a trial that Tune gave up is told to it as failed."""

        def __init__(self) -> None:
            super().__init__(metric=_ENDED, mode="max")
            self.error: LlmyardError | None = None
            self._numbers: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            if self.error is not None:
                return Searcher.FINISHED
            try:
                found = referee.ask("next")
            except LlmyardError as error:
                self.error = error
                return Searcher.FINISHED
            if found is None:
                return Searcher.FINISHED
            if found == "later":
                return None
            number, values = found
            self._numbers[trial_id] = number
            return {"number": number, "values": dict(values)}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            number = self._numbers.pop(trial_id, None)
            if not error or number is None:
                return
            try:
                referee.ask("fail", number, f"its process was lost {_ATTEMPTS} times")
            except LlmyardError as wrong:
                self.error = self.error or wrong

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the referee remembers."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: the referee remembers."""

    return Proposals()
