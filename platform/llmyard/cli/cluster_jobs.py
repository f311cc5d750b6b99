"""``jobs``: what runs on a cluster: list, status, logs, stop."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Json, Shell, command, shell
from llmyard.core.errors import LlmyardError, RequestError

if TYPE_CHECKING:
    from llmyard.core.submission import Submission
    from llmyard.runtime.submission import Dashboard

app = typer.Typer(help="The jobs on a Ray cluster: list, status, logs, stop.", no_args_is_help=True)

ClusterAddress = Annotated[
    str,
    typer.Option(
        "--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, such as http://HEAD:8265."
    ),
]
Id = Annotated[str, typer.Argument(help="A submission id, or its first characters.")]
_STOP_SECONDS = 90.0  # the driver gets 60 to save
_NO_MODULE = re.compile(r"No module named '?([\w.]+)'?")
_TAIL = 4000  # characters of output in which an error's cause is looked for


@app.command("list")
def list_jobs(
    address: ClusterAddress,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    as_json: Json = False,
) -> None:
    """List the newest jobs that were submitted to the cluster, llmyard's and others."""
    from llmyard.core.submission import JOB
    from llmyard.runtime.submission import Dashboard

    shell.json = as_json
    rows = [
        {
            "submission": job.id,
            "job": job.metadata.get(JOB, ""),
            "status": job.status,
            "started": _clock(job.started),
            "took": _took(job),
        }
        for job in Dashboard(address).jobs()[:limit]
    ]
    shell.table(rows, "jobs")


@app.command()
def status(job: Id, address: ClusterAddress, as_json: Json = False) -> None:
    """Show where a job is: its status, how it ended, where its artifacts go."""
    from llmyard.core.submission import JOB, STORAGE
    from llmyard.runtime.submission import Dashboard

    shell.json = as_json
    found = Dashboard(address).find(job)
    row: dict[str, Any] = {
        "submission": found.id,
        "job": found.metadata.get(JOB, ""),
        "status": found.status,
        "exit_code": None if found.is_alive else found.exit_code(),
        "started": _clock(found.started),
        "took": _took(found),
        "storage": found.metadata.get(STORAGE, ""),
        "lost": found.loss(),
    }
    if shell.json:
        shell.finish({"job": row})
        return
    for key, value in row.items():
        if value not in ("", None):
            word = say(f"column {key}")
            typer.echo(f"{word}: {say(f'state {value}') if f'state {value}' in say else value}")


@app.command()
def logs(
    job: Id,
    address: ClusterAddress,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow it to its end, with its exit code.")] = False,
) -> int:
    """Print what a job has written; with --follow, what it goes on to write."""
    from llmyard.core.submission import Output
    from llmyard.runtime.submission import Dashboard

    shell.json = False
    dashboard = Dashboard(address)
    found = dashboard.find(job)
    if follow:
        return follow_job(shell, dashboard, found.id)
    output = Output(lambda text: typer.echo(text, nl=False))
    output.take(dashboard.logs(found.id))
    output.end()
    return 0


@app.command()
def stop(job: Id, address: ClusterAddress, as_json: Json = False) -> None:
    """Stop a job; a training saves where it is first, and the same submission goes on from there."""
    from llmyard.runtime.submission import Dashboard

    shell.json = as_json
    dashboard = Dashboard(address)
    found = dashboard.find(job)
    if not found.is_alive:
        raise RequestError(f"{found.id} has ended already: {found.status}", "see `llmyard jobs list`")
    dashboard.stop(found.id)
    if not shell.json:
        typer.echo(say("stopping", id=found.id))
    until = time.monotonic() + _STOP_SECONDS
    while (found := dashboard.job(found.id)).is_alive:
        if time.monotonic() > until:
            raise LlmyardError(
                f"{found.id} still runs after {_STOP_SECONDS:.0f} s", "look again: `llmyard jobs status`"
            )
        time.sleep(0.5)
    if not shell.json:
        typer.echo(say("job_stopped", id=found.id))
    shell.finish({"submission_id": found.id, "job_status": found.status})


def follow_job(shell: Shell, dashboard: Dashboard, submission_id: str) -> int:
    """Shows a job's output until it ends, and returns its own exit code; Ctrl-C leaves it running."""
    from llmyard.core.submission import STOPPED, Output
    from llmyard.runtime.submission_logs import follow

    tail = ""

    def show(text: str) -> None:
        nonlocal tail
        tail = (tail + text)[-_TAIL:]
        typer.echo(text, nl=False, err=shell.json)

    def notice(why: str, lost: bool) -> None:
        typer.echo(say("connection_lost", why=why) if lost else say("connection_back"), err=True)

    told: dict[str, Any] = {"submission_id": submission_id, "address": dashboard.url}
    output = Output(show)
    try:
        ended = follow(dashboard, submission_id, output.take, notice)
    except KeyboardInterrupt:
        typer.echo("\n" + say("goes_on", **hints(dashboard, submission_id)), err=True)
        return shell.leave(STOPPED, {**told, "status": "running", "error": "interrupted"})
    except LlmyardError:
        shell.found = told
        raise
    result = output.end() or {"artifacts": []}
    code = ended.exit_code()
    if code == 0:
        return shell.leave(0, {"status": "done", "error": None, **result, **told})
    error = str(result.get("error") or ended.loss() or ended.status)
    _explain(shell, dashboard, ended, tail)
    return shell.leave(code, {**result, **told, "status": "failed", "error": error})


def _explain(shell: Shell, dashboard: Dashboard, ended: Submission, tail: str) -> None:
    """Says what the job's own output does not: that it was stopped, or what became of its driver."""
    again = f"{command()} runs resume {ended.id} --address {dashboard.url}"
    if ended.status == "STOPPED":
        typer.echo(say("was_stopped", id=ended.id, again=again), err=True)
    missing = _NO_MODULE.search(tail) if ended.code == 1 else None
    if missing is not None:
        typer.echo(say("no_module", name=missing[1]), err=True)
    if ended.loss():
        typer.echo(say("driver_lost", id=ended.id, why=ended.loss(), again=again), err=True)


def hints(dashboard: Dashboard, submission_id: str) -> dict[str, str]:
    """Returns how to see and to stop a job, for messages."""
    end = f"{submission_id} --address {dashboard.url}"
    return {
        "id": submission_id,
        "address": dashboard.url,
        "logs": f"{command()} jobs logs --follow {end}",
        "stop": f"{command()} jobs stop {end}",
    }


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def _took(job: Submission) -> str:
    from llmyard.cli.view import duration

    return duration((job.ended or time.time()) - job.started) if job.started else ""
