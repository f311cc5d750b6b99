"""Ray started and stopped: embedded on this machine, or joined at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.owner import is_alive, this_process

OWNER = "llmyard-owner"
OBJECT_STORE_BYTES = 400 * 1024 * 1024
STARTING = "starting Ray"  # logged, for whoever shows progress: it takes some ten seconds
RUN_AGAIN = "run the same command again, it goes on from what is finished; if this comes back, see if memory ran out"


@contextlib.contextmanager
def session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Connects to Ray for the time of the block.

    Args:
        address: A running cluster's address; None starts a private Ray on this machine and stops just that one.
        cpus: CPUs the private Ray reckons with; None for all, at least 2, so that two workers fit anywhere.

    Raises:
        RequestError: There is no cluster at the address.
        LlmyardError: The private Ray does not start, or died.
    """
    _quiet()
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    if ray.is_initialized():  # a test's or a notebook's own Ray
        yield
        return
    _log.info(STARTING)
    _sweep()
    folder = tempfile.mkdtemp(prefix="ly-", dir="/tmp")  # short: Unix socket paths end at 107 characters
    owned(folder)
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            start(folder, cpus or max(2, os.cpu_count() or 2))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if address is None:
            raise
        if isinstance(error, (ConnectionError, ray.exceptions.AuthenticationError)):
            raise RequestError(
                f"no Ray cluster answers at {address}: {_first_line(error)}",
                "check the address, and the token if it asks for one (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH); omit --address to run here",
            ) from None
        if isinstance(error, RuntimeError) and "ersion" in str(error):
            said = " ".join(str(error).split())
            raise RequestError(said, "use the Ray and the Python of the cluster, or `llmyard submit`") from None
        raise
    if threading.current_thread() is threading.main_thread():
        # Ray has put in handlers of its own: they end the process with another code and a C++ trace.
        signal.signal(signal.SIGTERM, on_sigterm)
    _folders.append(folder)
    if address is None:
        _private.set()
    try:
        with _watched() if address is None else contextlib.nullcontext():
            yield
    finally:
        _folders.remove(folder)
        _private.clear()
        if not is_lost():  # it would wait for the dead one, and end this process before its user is told
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: str, cpus: int, object_store_bytes: int = OBJECT_STORE_BYTES) -> None:
    """Starts a Ray of this process' own.

    It is tried twice: Ray's node process gives up when a helper of its own takes more than 15 s to come up, as happens
    on a busy machine.

    Args:
        folder: For its session; short, since the paths of Unix sockets end at 107 characters.
        cpus: That it reckons with.
        object_store_bytes: Of shared memory.

    Raises:
        LlmyardError: It does not start.
    """
    import psutil
    import ray

    for is_last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
                _system_config={"automatic_object_spilling_enabled": True},
            )
            return
        except BaseException as error:
            has_died = not any(each.name() == "raylet" and _runs(each) for each in psutil.Process().children())
            _kill(folder)
            if not isinstance(error, Exception):
                raise
            if is_last or not has_died:
                raise LlmyardError(f"Ray does not start on this machine: {_first_line(error)}", _BUSY) from error


_BUSY = "see that some gigabytes of memory and disk are free, and the machine not too busy; `llmyard doctor` looks"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _kill(folder: str) -> None:
    """Kills what this process has started for a session in a folder, and what that has started."""
    import psutil

    found: list[Any] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(folder in word for word in child.cmdline()):
                found += [*child.children(recursive=True), child]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)


_folders: list[str] = []


def session_folder() -> str | None:
    """Returns the folder of this process's session, which goes with it, also after a kill; None without a session."""
    return _folders[-1] if _folders else None


_log = logging.getLogger(__name__)
_lost = threading.Event()
_private = threading.Event()


def is_private() -> bool:
    """Returns whether this process's Ray was started for it and is nobody else's."""
    return _private.is_set()


def is_joined() -> bool:
    """Returns whether this process is connected to a Ray that it did not start for itself, as a notebook is."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized()) and not is_private()


def is_lost() -> bool:
    """Returns whether the private Ray has died: nothing may wait for its actors then."""
    return _lost.is_set()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Ends the block with an error when the private Ray's node process or control service (GCS) dies.

    Ray notices after 15 s, or a minute, and then often ends this process on the spot ("Failed to connect to GCS", "The
    connection to the plasma store is failed"), without a word to the user: so the block is interrupted before that.
    """
    import psutil

    nodes = [child for child in psutil.Process().children() if child.name() in ("raylet", "gcs_server")]
    ended = threading.Event()
    _lost.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        if not ended.is_set():
            raise _NodeLost

    def watch() -> None:
        while not ended.wait(0.5):
            if not all(_runs(node) for node in nodes) and not ended.is_set():
                _lost.set()
                # To the main thread itself: it may wait for a lock, from which only a signal wakes it. Not SIGINT,
                # which a shell's background jobs ignore.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    former = signal.signal(signal.SIGUSR1, interrupt)
    threading.Thread(target=watch, name="raylet-watch", daemon=True).start()
    try:
        yield
    except _NodeLost:
        raise LlmyardError("a process of Ray on this machine died, its raylet or its gcs_server", RUN_AGAIN) from None
    finally:
        ended.set()
        signal.signal(signal.SIGUSR1, former)


class _NodeLost(BaseException):
    """Ends what the main thread does when a process that the private Ray cannot do without is dead."""


def _runs(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def owned(folder: str) -> None:
    """Notes in a folder ``/tmp/ly-…`` that it is this process' own: the next command removes what a killed one left."""
    Path(folder, OWNER).write_text(this_process(), encoding="utf-8")


def _sweep() -> None:
    """Removes the folders of commands that were killed."""
    for note in Path("/tmp").glob(f"ly-*/{OWNER}"):
        with contextlib.suppress(OSError):
            if is_alive(note.read_text(encoding="utf-8")) is False:
                shutil.rmtree(note.parent, ignore_errors=True)


def _quiet() -> None:
    """Turns off what would break the progress view; the user's own settings win."""
    for name, value in {
        "RAY_DEDUP_LOGS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("ray.data", "ray.train", "ray.tune", "ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cause_of(error: BaseException) -> LlmyardError | None:
    """Returns the llmyard error that lies under what Ray raised, if there is one."""
    seen: set[int] = set()
    stack: list[Any] = [error]
    while stack:
        item = stack.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, LlmyardError):
            # Ray raises a subclass made on the spot; give back the plain error.
            return plain_error(item)
        stack += [getattr(item, "cause", None), item.__cause__, item.__context__]
        failures = getattr(item, "worker_failures", None)
        if isinstance(failures, dict):
            stack += list(failures.values())
        stack.append(getattr(item, "training_failed_error", None))
    return None


def lost_process(error: BaseException) -> LlmyardError | None:
    """Returns what to tell when Ray gave up because a process or a node of it is gone; None for any other error."""
    import ray

    # The error of a task's own code is a RayTaskError, which is a fault to report and no loss.
    if not isinstance(error, ray.exceptions.RayError) or isinstance(error, ray.exceptions.RayTaskError):
        return None
    first = str(error).strip().partition("\n")[0]
    return LlmyardError(f"Ray lost a process that this job needs: {type(error).__name__}: {first}", RUN_AGAIN)


def plain_error(error: LlmyardError) -> LlmyardError:
    """Returns the error as one of the classes in ``core.errors``, which every process can read."""
    for kind in type(error).__mro__:
        if kind.__module__ == LlmyardError.__module__ and issubclass(kind, LlmyardError):
            return kind(error.what, error.remedy)
    return error
