"""``submit``: a job whose driver runs on a cluster; what is wrong with either is said before anything is sent."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell
from llmyard.core.errors import LlmyardError, RequestError

if TYPE_CHECKING:
    from llmyard.core.submission import Attempt
    from llmyard.runtime.submission import Dashboard, Node
    from llmyard.stages.carrying import Parcel, Place
    from llmyard.stages.config import AnyJob

Code = Literal["here", "image"]
# After being asked to stop, a training saves where it is; Ray gives a driver 3 s by default.
_STOP_SECONDS = 60
_TRIES = 5


@dataclass(frozen=True)
class Request:
    """A job that is to run on a cluster.

    Attributes:
        base: The id of its first attempt.
        storage: Where its artifacts go.
        names: Of environment variables that its user asked for.
        environment: All variables that go along.
        code: Where llmyard's own code comes from.
        where: Returns how messages name a place of the job.
    """

    parcel: Parcel
    job: AnyJob
    base: str
    storage: str
    names: tuple[str, ...]
    environment: Mapping[str, str]
    code: Code
    is_shared: bool
    force: bool
    where: Callable[[Place], str]


def submit_job(
    shell: Shell,
    file: Path,
    address: str,
    overrides: Sequence[str],
    storage: str | None,
    *,
    names: Sequence[str] = (),
    given_id: str | None = None,
    code: Code | None = None,
    is_shared: bool = False,
    force: bool = False,
    detach: bool = False,
) -> int:
    """Submits a job file and follows it; returns the job's own exit code."""
    from llmyard.cli.jobs import load
    from llmyard.core.jobfile import place_of
    from llmyard.core.storage import Storage
    from llmyard.core.submission import base_id, check_id, check_storage, environment
    from llmyard.runtime.submission import Dashboard
    from llmyard.stages.carrying import pack

    job = load(file, overrides)
    where = Storage.resolve(storage, getattr(job, "storage", None))
    check_storage(where.uri, is_local=where.is_local, is_shared=is_shared)
    forwarded = environment(names, os.environ, is_shared=is_shared)
    parcel = pack(file, overrides, job, where.uri, is_shared=is_shared, forwarded=forwarded)
    for name in parcel.asked_for:
        if name in os.environ and name not in forwarded:
            typer.echo(say("not_forwarded", name=name), err=True)
    request = Request(
        parcel=parcel,
        job=job,
        base=check_id(given_id) if given_id is not None else base_id(parcel.name, parcel.digest),
        storage=where.uri,
        names=tuple(names),
        environment=forwarded,
        code=code or ("here" if _is_checkout() else "image"),
        is_shared=is_shared,
        force=force,
        where=lambda place: place_of(file, overrides, place),
    )
    return send_and_follow(shell, Dashboard(address), request, detach)


def send_and_follow(shell: Shell, dashboard: Dashboard, request: Request, detach: bool) -> int:
    """Submits a job, or attaches to it if it runs already, and follows it; returns its exit code."""
    from llmyard.cli.cluster_jobs import follow_job, hints

    attempt = send(dashboard, request)
    if attempt.runs_already:
        typer.echo(say("runs_already", id=attempt.id, address=dashboard.url), err=shell.json)
    else:
        typer.echo(say("submitted", id=attempt.id, address=dashboard.url), err=shell.json)
        if request.environment:
            typer.echo(say("forwarded", names=", ".join(request.environment)), err=shell.json)
    if not detach:
        return follow_job(shell, dashboard, attempt.id)
    typer.echo(say("detached", **hints(dashboard, attempt.id)), err=shell.json)
    shell.finish({"status": "submitted", "submission_id": attempt.id, "address": dashboard.url, "error": None})
    return 0


def send(dashboard: Dashboard, request: Request) -> Attempt:
    """Checks that the cluster can run a job, and submits it; returns its id, and whether it ran there already.

    Raises:
        RequestError: Nobody answers, the token is refused, Ray or Python is another one, or there is no room for it.
    """
    from llmyard.core.submission import (
        BASE,
        DIGEST,
        ENVIRONMENT_HOOK,
        JOB,
        STORAGE,
        environment_module,
        next_attempt,
    )
    from llmyard.runtime.submission import Unreachable

    dashboard.check_versions()
    attempt = next_attempt(request.base, request.parcel.digest, dashboard.jobs())
    if attempt.runs_already:
        return attempt
    nodes = dashboard.nodes()
    check_placement(dashboard, request.job, request.where, nodes)
    interpreter = dashboard.interpreter(nodes) or "python"
    packages: dict[str, Any] = {"working_dir": dashboard.upload(_parcel_files(dashboard, request))}
    modules = [dashboard.upload(_own_code())] if request.code == "here" else []
    if request.environment:
        modules.append(dashboard.upload(environment_module(request.environment)))
        packages["worker_process_setup_hook"] = ENVIRONMENT_HOOK
    if modules:  # Ray cannot set up an empty list
        packages["py_modules"] = modules
    metadata = {BASE: request.base, DIGEST: request.parcel.digest, STORAGE: request.storage, JOB: request.parcel.name}
    is_unsure = False  # whether an answer was lost, so that the job may be there although nobody said so
    for _ in range(_TRIES):
        runtime_env = {**packages, "env_vars": _settings(attempt.id, request.code)}
        try:
            if dashboard.submit(attempt.id, _entrypoint(interpreter, request), runtime_env, metadata):
                return attempt
        except Unreachable:
            is_unsure = True
            time.sleep(1)
        attempt = next_attempt(request.base, request.parcel.digest, dashboard.jobs())
        if attempt.runs_already:
            return replace(attempt, runs_already=not is_unsure)
    raise LlmyardError(f"the cluster at {dashboard.url} takes no job", "see its dashboard")


def check_cluster(address: str, job: AnyJob, where: Callable[[Place], str]) -> None:
    """Raises RequestError if a cluster could not run a job; submits nothing."""
    from llmyard.runtime.submission import Dashboard

    dashboard = Dashboard(address)
    dashboard.check_versions()
    check_placement(dashboard, job, where, dashboard.nodes())


def check_placement(dashboard: Dashboard, job: AnyJob, where: Callable[[Place], str], nodes: Sequence[Node]) -> None:
    """Raises RequestError if a part of the job could never run there; where an autoscaler may bring nodes, says so."""
    from llmyard.stages.placement import demands, shortfall

    there = [node.resources for node in nodes]
    lacking = [(demand, why) for demand in demands(job) if (why := shortfall(demand, there))]
    if not lacking:
        return
    lines = [f"{where(demand.place)}: {demand.stage}: {why}" for demand, why in lacking]
    if dashboard.is_autoscaled():
        typer.echo(say("needs_nodes", address=dashboard.url, lacking="\n  ".join(lines)), err=True)
        return
    raise RequestError("\n".join(lines), f"ask for less in `resources`, or add nodes that have it to {dashboard.url}")


def _parcel_files(dashboard: Dashboard, request: Request) -> dict[str, bytes]:
    from llmyard.core.job_record import MANIFEST, Submitted

    told = Submitted(
        id="",  # another one with each attempt, while equal files are sent once
        base=request.base,
        address=dashboard.url,
        job_file=request.parcel.job_file,
        overrides=request.parcel.overrides,
        environment=request.names,
        code=request.code,
        is_shared=request.is_shared,
        digest=request.parcel.digest,
    )
    return {**request.parcel.files, MANIFEST: told.manifest()}


def _entrypoint(interpreter: str, request: Request) -> str:
    """Returns the driver's command. ``exec``: signals are for the driver, and its exit code is the job's."""
    sets = [part for item in request.parcel.overrides for part in ("--set", item)]
    run = ["run", request.parcel.job_file, "--address", "auto", "--storage", request.storage, "--json"]
    return f"exec {shlex.join([interpreter, '-m', 'llmyard', *run, *(['--force'] if request.force else []), *sets])}"


def _settings(submission_id: str, code: Code) -> dict[str, str]:
    """Returns the variables of llmyard and Ray that a driver runs with."""
    from llmyard.core.artifacts import code_version
    from llmyard.core.job_record import VARIABLE
    from llmyard.core.language import user_language

    commit = code_version().partition("+")[2] if code == "here" else ""
    return {
        VARIABLE: submission_id,
        "LLMYARD_LANG": user_language(),
        "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
        **({"LLMYARD_COMMIT": commit} if commit else {}),
    }


def _package() -> Path:
    return Path(__file__).resolve().parents[1]


def _is_checkout() -> bool:
    """Whether llmyard runs from its sources: then a cluster's image cannot have the same code."""
    return not {"site-packages", "dist-packages"} & set(_package().parts)


def _own_code() -> dict[str, bytes]:
    return dict(_modules(_package()))


def _modules(package: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file.relative_to(package.parent).as_posix(), file.read_bytes()
