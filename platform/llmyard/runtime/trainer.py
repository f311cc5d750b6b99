"""Workers on Ray Train: started together, restarted together when one is lost."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import RequestError, TrainingError
from llmyard.runtime.session import cause_of
from llmyard.training.config import Resources


@dataclass(frozen=True)
class Board:
    """A small mailbox from the workers to the driver's progress view; what is posted late is simply not shown."""

    handle: Any

    @classmethod
    def start(cls) -> Board:
        """Returns a new board."""
        import ray

        return cls(ray.remote(_Board).options(num_cpus=0).remote())

    def post(self, **values: float) -> None:
        """Replaces what the board shows; does not wait."""
        self.handle.post.remote(values)

    def read(self) -> dict[str, float]:
        """Returns what the board shows."""
        import ray

        try:
            return ray.get(self.handle.read.remote(), timeout=5)  # type: ignore[no-any-return]
        except ray.exceptions.RayError:
            return {}


class _Board:
    def __init__(self) -> None:
        self._values: dict[str, float] = {}

    def post(self, values: dict[str, float]) -> None:
        self._values.update(values)

    def read(self) -> dict[str, float]:
        return self._values


def run_workers(
    work: Callable[[Any], None],
    argument: Any,
    resources: Resources,
    name: str,
    watch: Callable[[], None],
) -> None:
    """Runs ``work(argument)`` in every worker until all have returned.

    The workers form a torch process group. When one fails or its node is lost, all are started again, up to
    ``max_failures`` times; ``work`` finds its way back by its own checkpoints.

    Args:
        work: An importable function.
        argument: Picklable.
        resources: Workers and what each gets.
        name: Shown in Ray's dashboard.
        watch: Called about twice a second in the driver while the workers run.

    Raises:
        RequestError: There are fewer CPUs or GPUs than the workers need; Ray would wait for them for ever.
        LlmyardError: What a worker raised, or TrainingError when the restarts are used up.
    """
    _refuse_too_many(resources)
    # A short poll finds a dead worker quickly; workers past a few hundred are polled less often.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25" if resources.workers <= 64 else "2")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    per_worker = {"CPU": resources.cpus_per_worker} | (
        {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    )
    with tempfile.TemporaryDirectory(prefix="ly-train-") as folder:
        trainer = TorchTrainer(
            work,
            train_loop_config={"argument": argument},
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
            # Ray keeps nothing of value here: checkpoints and metrics go llmyard's own ways.
            run_config=RunConfig(
                name=name, storage_path=folder, failure_config=FailureConfig(max_failures=resources.max_failures)
            ),
        )
        finished: Future[None] = Future()
        # Not in the main thread: there Ray would take Ctrl-C for itself, for the rest of the process's life.
        threading.Thread(target=_fit, args=(trainer, finished), name="ray-train", daemon=True).start()
        while not _is_done(finished, 0.5):
            watch()
        watch()
        error = finished.exception()
        if error is None:
            return
        cause = cause_of(error)
        if cause is not None:
            raise cause from None
        raise TrainingError(
            f"the workers failed more than {resources.max_failures} times; the last: {_last_line(error)}",
            "see the traceback with --debug; raise resources.max_failures if machines come and go",
        ) from error


def _refuse_too_many(resources: Resources) -> None:
    import ray

    there = ray.cluster_resources()
    for name, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        needed, found = each * resources.workers, there.get(name, 0.0)
        if needed > found:
            raise RequestError(
                f"{resources.workers} workers need {needed:g} {name}s, Ray has {found:g}",
                f"lower resources.workers or resources.{name.lower()}s_per_worker",
            )


def _fit(trainer: Any, finished: Future[None]) -> None:
    try:
        trainer.fit()
    except BaseException as error:
        finished.set_exception(error)
    else:
        finished.set_result(None)


def _is_done(finished: Future[None], seconds: float) -> bool:
    return bool(wait([finished], timeout=seconds).done)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
