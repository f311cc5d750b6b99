"""Workers on Ray Train: started together, restarted together when one is lost."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError, TrainingError
from llmyard.runtime.capacity import capacity
from llmyard.runtime.session import cause_of, is_lost, is_private, plain_error, session_folder
from llmyard.training.config import Resources


@dataclass(frozen=True)
class Board:
    """Where the workers and the driver of a run leave word for each other."""

    handle: Any

    @classmethod
    def start(cls, resources: Resources) -> Board:
        """Returns a new board; where training runs in this process, one that nobody reads."""
        return cls(None if _trains_here.get() and resources.most == 1 else actor_here(_Board))

    def post(self, **values: float) -> None:
        """Replaces what the driver's view shows; does not wait, and what comes late is simply not shown."""
        if self.handle is not None:
            self.handle.post.remote(values)

    def read(self) -> dict[str, float]:
        """Returns what the workers posted."""
        import ray

        if self.handle is None:
            return {}
        try:
            return ray.get(self.handle.posted.remote(), timeout=5)  # type: ignore[no-any-return]
        except ray.exceptions.RayError:
            return {}


_trains_here: ContextVar[bool] = ContextVar("trains_here", default=False)


@contextlib.contextmanager
def training_here(is_here: bool) -> Iterator[None]:
    """Within the block each training with one worker runs in this process: a trial of a sweep is one of Ray's processes
    already, and another one would take longer to start than a small trial to run.
    """
    before = _trains_here.set(is_here)
    try:
        yield
    finally:
        _trains_here.reset(before)


class _Board:
    """What the workers post; an error that no restart would mend; that the run is to stop; what resources they hold."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._error: LlmyardError | None = None
        self._stops = False
        self._held: Any = None

    def post(self, values: dict[str, float]) -> None:
        self._values.update(values)

    def posted(self) -> dict[str, float]:
        return self._values

    def hold(self, placement_group: Any) -> None:
        self._held = placement_group

    def held(self) -> Any:
        return self._held

    def leave(self, error: LlmyardError) -> None:
        self._error = self._error or error

    def error(self) -> LlmyardError | None:
        return self._error

    def stop(self) -> None:
        self._stops = True

    def stops(self) -> bool:
        return self._stops


class _Asked:
    """What a worker was asked to do: save now, since its node is about to go; stop after that.

    Answers at once: a thread looks for news. After a notice it is asked to save every few seconds, so that little is
    lost when the node goes.

    Args:
        board: The run's.
    """

    def __init__(self, board: Any) -> None:
        self._board = board
        self._stops = self._leaves = False
        self._next_save = 0.0
        threading.Thread(target=self._look, name="asked", daemon=True).start()

    def __call__(self) -> tuple[bool, bool]:
        """Returns whether to save now, and whether to stop after that."""
        if self._leaves and time.monotonic() >= self._next_save:
            self._next_save = time.monotonic() + _SAVE_AGAIN_SECONDS
            return True, self._stops
        return False, self._stops

    def _look(self) -> None:
        import ray
        from ray.train import get_preemption_info

        while not self._stops:
            time.sleep(_LOOK_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError):  # the actor goes before the workers
                self._stops = ray.get(self._board.stops.remote())
            with contextlib.suppress(Exception):
                self._leaves = get_preemption_info() is not None


_SAVE_AGAIN_SECONDS = 5.0
_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_WATCHER_ASKED_FOR = os.environ.get(_WATCHER)
_LOOK_SECONDS = 1.0  # each message between processes costs training a little where cores are few


def _guarded(config: dict[str, Any]) -> None:
    """Runs the work; an error of llmyard's own is final: it would come again after every restart.

    The worker that has it leaves the process group, which breaks the others' connection to it; they find it on the
    board and return too. With NCCL they would wait for it instead: there it raises, and all find it after the restart.
    """
    import ray
    import torch.distributed as dist

    board = config["board"]
    if ray.get(board.error.remote()) is not None or ray.get(board.stops.remote()):
        return
    board.hold.remote(ray.util.get_current_placement_group())
    try:
        # By the driver, over Ray's own connection, on which all that it sends is a pickle already.
        work, argument = ray.cloudpickle.loads(config["packed"])
        work({"argument": argument, "asked": _Asked(board)})
    except LlmyardError as error:
        ray.get(board.leave.remote(plain_error(error)))
        if dist.is_initialized():
            if dist.get_backend() == "nccl":
                raise
            dist.destroy_process_group()
    except Exception:
        for _ in range(_ERROR_WAITS):
            if ray.get(board.error.remote()) is not None:
                return
            time.sleep(0.1)
        raise


_ERROR_WAITS = 20  # tenths of a second that a peer's error may take to arrive after its connection broke


def run_workers(
    work: Callable[[Any], None],
    argument: Any,
    resources: Resources,
    name: str,
    board: Board,
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
        board: The run's own.
        watch: Called about once a second in the driver while the workers run.

    Raises:
        RequestError: There are fewer CPUs or GPUs than the workers need; Ray would wait for them for ever.
        LlmyardError: What a worker raised, at once; or TrainingError when the restarts are used up.
    """
    if board.handle is None:
        work({"argument": argument, "asked": lambda: (False, False)})
        return
    _refuse_too_many(resources)
    workers = resources.workers
    # A short poll finds a dead worker quickly; workers past a few hundred are polled less often.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25" if resources.most <= 64 else "2")
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    # Nobody takes a node from a private Ray, and whoever watches for it takes a process at every start of the workers.
    os.environ[_WATCHER] = _WATCHER_ASKED_FOR or ("0" if is_private() else "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20" if resources.most <= 64 else "120")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    per_worker = {"CPU": resources.cpus_per_worker} | (
        {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    )
    # In the session's folder, which is swept when its owner was killed.
    with tempfile.TemporaryDirectory(prefix="train-", dir=session_folder()) as folder:
        handle = board.handle
        trainer = _trainer()(
            _guarded,
            # Packed, so that the controller, which passes it on, need not import what the workers do.
            train_loop_config={"packed": ray.cloudpickle.dumps((work, argument)), "board": handle},
            scaling_config=ScalingConfig(
                num_workers=workers if isinstance(workers, int) else (workers.min, workers.max),
                elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            torch_config=_process_group("nccl" if resources.gpus_per_worker else "gloo"),
            # Ray keeps nothing of value here: checkpoints and metrics go llmyard's own ways.
            run_config=RunConfig(
                name=name,
                storage_path=folder,
                failure_config=FailureConfig(max_failures=resources.max_failures),
            ),
        )
        for controllers_left in range(resources.max_failures, -1, -1):
            error = _fitted(trainer, handle, watch)
            final = None if is_lost() else ray.get(handle.error.remote(), timeout=30)
            if error is not None and not is_lost():
                # Ray gives back what the workers held, unless its controller died, an actor of the cluster as they are.
                held = ray.get(handle.held.remote(), timeout=30)
                if held is not None:
                    ray.util.remove_placement_group(held)
            if final is not None:
                raise final
            if error is None:
                return
            # It starts lost workers again, but not that controller.
            if not isinstance(error, ray.exceptions.RayActorError) or is_lost() or not controllers_left:
                break
        assert error is not None
        cause = cause_of(error)
        if cause is not None:
            raise cause from None
        raise TrainingError(
            f"the workers failed more than {resources.max_failures} times; the last: {_last_line(error)}",
            "see the traceback with --debug; raise resources.max_failures if machines come and go",
        ) from error


def _trainer() -> Any:
    """Returns Ray's trainer without an actor, for which every start would wait some seconds, that hands over data sets:
    llmyard has its own way. A private Ray needs none either that gives back what the workers of a dead controller held:
    `run_workers` does so, and if that dies too, Ray ends with it.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()
            unused = _UNUSED if is_private() else _UNUSED[:1]
            return [each for each in made if type(each).__name__ not in unused]

    return Trainer


_UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")


def _process_group(backend: str) -> Any:
    """Returns Ray's set-up of a torch process group, which tells Gloo first which network it is to use: by itself it
    takes what the host's name stands for, and that is 127.0.0.1 on many a machine.
    """
    from ray.train.torch.config import TorchConfig, _TorchBackend

    class Backend(_TorchBackend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_use_network_of_node)
            super().on_start(worker_group, backend_config)

        def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
            """Leaves the group to the end of its processes, which comes next: a worker that waits for a node that was
            cut off cannot leave it in order, and Ray would wait half a minute for that.
            """

    class ProcessGroup(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return Backend

    return ProcessGroup(backend=backend)


def _use_network_of_node() -> None:
    import psutil
    import ray

    here = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == here for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _fitted(trainer: Any, board: Any, watch: Callable[[], None]) -> BaseException | None:
    """Trains once, with the workers that Ray starts again; returns what it ended with."""
    finished: Future[None] = Future()
    # Not in the main thread: there Ray would take Ctrl-C for itself, for the rest of the process's life.
    threading.Thread(target=_fit, args=(trainer, finished), name="ray-train", daemon=True).start()
    try:
        while not _is_done(finished, _LOOK_SECONDS):
            watch()
    except KeyboardInterrupt:
        _stop(board, finished)
        raise
    watch()
    return finished.exception()


def actor_here(kind: type, *arguments: Any) -> Any:
    """Returns an actor on the driver's own node: it goes when the driver goes, and not when a node of workers does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=here).remote(*arguments)


def _stop(board: Any, finished: Future[None]) -> None:
    """Lets the workers save where they are, before their processes are ended; a second Ctrl-C does not wait."""
    import ray

    if is_lost():
        return
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(board.stop.remote(), timeout=5)
        _is_done(finished, _STOP_SECONDS)


_STOP_SECONDS = 20.0
_RESIZE_SECONDS = 10.0


def _refuse_too_many(resources: Resources) -> None:
    there = capacity()
    for name, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        needed, found = each * resources.least, there.get(name, 0.0)
        if needed > found:
            raise RequestError(
                f"{resources.least} workers need {needed:g} {name}s, Ray has {found:g}",
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
