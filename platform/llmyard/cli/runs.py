"""``llmyard runs``: the tracked runs, and what stopped gone on with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmyard.cli.shell import Json, StorageOption, shell

app = typer.Typer(help="The runs in MLflow: list, compare, resume.", no_args_is_help=True)


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, storage: StorageOption = None, as_json: Json = False
) -> None:
    """List the newest runs; runs whose process is gone are closed, waiting metrics are sent."""
    from llmyard.runtime.registry import gateway, has_runs

    shell.json = as_json
    uri = shell.store(storage).storage.uri
    if not has_runs(uri):
        shell.table([], "runs")
        return
    with gateway(uri) as mlflow:
        rows = [
            {
                "run": run.run_id[:8],
                "name": run.name,
                "status": run.status,
                "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_ms / 1000)),
                "artifact": run.artifact,
            }
            for run in mlflow.runs(limit)
        ]
    shell.table(rows, "runs")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Two or more run ids, or their first characters.")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Show parameters, where they differ, and metrics of runs side by side; with --json all of both."""
    from llmyard.core.errors import RequestError
    from llmyard.runtime.registry import gateway

    shell.json = as_json
    with gateway(shell.store(storage).storage.uri) as mlflow:
        known = [run.run_id for run in mlflow.runs(1000)]
        chosen = []
        for given in runs:
            matches = [run for run in known if run.startswith(given)]
            if len(matches) != 1:
                raise RequestError(f"{given!r} names {len(matches)} runs", "see `llmyard runs list`")
            chosen += matches
        parameters, metrics = mlflow.compare(chosen)
    rows = [_row(key, values) for key, values in parameters.items() if shell.json or len(set(values.values())) > 1]
    rows += [_row(key, values) for key, values in metrics.items()]
    shell.table(
        rows if shell.json else [{key: _figure(cell) for key, cell in row.items()} for row in rows], "comparison"
    )


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run id, or a submission id; or its first characters.")],
    storage: StorageOption = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Another cluster's dashboard than the one that the job ran on; or where a submission is known."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="On a cluster: come back at once.")] = False,
    as_json: Json = False,
) -> int:
    """Give a run's job again where it ran, here or on its cluster: finished stages are skipped, trainings go on."""
    from llmyard.cli.resume import resume_run

    shell.json = as_json
    return resume_run(shell, run, storage, address, detach)


def _row(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"": key, **{run[:8]: value for run, value in values.items()}}


def _figure(value: Any) -> str:
    """Returns a cell of the table: a figure with the digits that tell runs apart, "" for none."""
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
