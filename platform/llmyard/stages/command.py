"""``command``: a program run in a process of its own; what it leaves is the artifact."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, Pruned, RequestError
from llmyard.core.storage import Storage
from llmyard.stages.command_config import OUTPUT, Command
from llmyard.stages.stage import Made, Making

REVISION = 1
METRICS, REPORTS, LOG = "metrics.json", "reports.jsonl", "log.txt"
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 5.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def parents(config: Command, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns what it takes."""
    return {name: store.get(reference) for name, reference in config.takes.items()}


def sources(config: Command, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the contents' digests of the files that decide the result.

    Raises:
        RequestError: One cannot be read.
    """
    from llmyard.core.artifacts import sha256_of
    from llmyard.core.config import located

    found = []
    for name in config.reads:
        try:
            found.append([name, sha256_of(Path(located(name)))])
        except (OSError, ValueError) as error:
            raise RequestError(f"reads: {name} cannot be read: {error}", "check the path") from None
    return found


@dataclass(frozen=True)
class ProgramWork:
    """All that the process needs which runs the program; picklable."""

    config: Command
    storage: Storage
    folder: str
    taken: Mapping[str, Artifact]
    trial: Any


def make(config: Command, making: Making) -> Made:
    """Runs the program: in a trial in its own process, else as a task on the cluster."""
    from llmyard.runtime.tasks import run_task

    draft = making.draft
    work = ProgramWork(config, draft.storage, draft.folder, dict(making.parents), making.context.trial)
    if work.trial is not None:
        return Made(run_program(work))
    making.progress.update(0, 1, " ".join(config.command)[:60])
    return Made(run_task(run_program, work, config.resources.cpus, config.resources.gpus))


def run_program(work: ProgramWork) -> dict[str, float]:
    """Runs the program, copies what it left into the artifact's folder, and returns its figures.

    Raises:
        DataError: It ended with another code than 0, took too long, or left figures that are none.
        Pruned: A sweep ended the trial.
    """
    config = work.config
    with tempfile.TemporaryDirectory(prefix="ly-command-") as name:
        folder = Path(name)
        places = {OUTPUT: name} | {key: str(each.local()) for key, each in work.taken.items()}
        command = config.filled(places)
        with open(folder / LOG, "wb") as log:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    env={**os.environ, **config.environment}, preexec_fn=_dies_with_its_parent,
                )  # fmt: skip
            except OSError as error:
                raise DataError(f"{command[0]} cannot be run: {error}", "name a program of the machine") from None
            try:
                _wait(process, config, _Reports(folder / REPORTS, work.trial))
            finally:
                _end(process)
        if process.returncode != 0:
            said = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"code {process.returncode}"
            raise DataError(
                f"{command[0]} ended with {how}: {' | '.join(said) or 'it said nothing'}", "mend the program"
            )
        metrics = _figures(folder / METRICS)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                work.storage.copy_in(file, f"{work.folder}/{file.relative_to(folder)}")
    return metrics


def _dies_with_its_parent() -> None:
    """Runs in the program's process before it: when who started it is killed, the kernel ends it."""
    with contextlib.suppress(Exception):  # other systems have no such call
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


class _Reports:
    """Tells a trial the lines that a program appends to its file."""

    def __init__(self, file: Path, trial: Any) -> None:
        self._file, self._trial, self._read = file, trial, 0

    def __call__(self) -> None:
        if self._trial is None or not self._file.exists():
            return
        with open(self._file, "rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # it is still being written
                self._read += len(line)
                figures = _numbers(line, f"{REPORTS}: {line[:80]!r}")
                if "step" in figures:
                    self._trial.report(int(figures.pop("step")), figures)
        if self._trial.ended:
            raise Pruned(self._trial.ended, "its settings and figures are in the sweep's table")


def _wait(process: subprocess.Popen[bytes], config: Command, look: _Reports) -> None:
    began = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_SECONDS)
        look()
        if process.returncode is not None:
            return
        if config.timeout_seconds is not None and time.monotonic() - began > config.timeout_seconds:
            raise DataError(
                f"{config.command[0]} still ran after {config.timeout_seconds:g} s", "raise timeout_seconds"
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and what it started, if it still runs: asked first, then without asking."""
    for kind, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _figures(file: Path) -> dict[str, float]:
    return _numbers(file.read_bytes(), METRICS) if file.exists() else {}


def _numbers(data: bytes, what: str) -> dict[str, float]:
    try:
        found = json.loads(data)
        numbers = {str(name): float(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{what} is no JSON object of numbers", 'write {"name": 1.5}') from None
    return {name: value if math.isfinite(value) else math.nan for name, value in numbers.items()}
