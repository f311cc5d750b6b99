"""``llmyard runs``: the tracked runs."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

import typer

from llmyard.cli.shell import Json, StorageOption, shell
from llmyard.core.storage import Storage
from llmyard.core.tracking import SYSTEM_PREFIX

app = typer.Typer(help="The runs in MLflow: list, compare.", no_args_is_help=True)


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, storage: StorageOption = None, as_json: Json = False
) -> None:
    """List the newest runs; runs whose process is gone are closed, waiting metrics are sent."""
    from llmyard.runtime.registry import gateway

    shell.json = as_json
    if not (uri := _tracked(shell.store(storage).storage)):
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
    """Show parameters and metrics of runs side by side."""
    from llmyard.core.errors import RequestError
    from llmyard.runtime.registry import gateway

    shell.json = as_json
    uri = _tracked(shell.store(storage).storage)
    if not uri:
        raise RequestError(
            "nothing was run with this storage yet", "see `llmyard run --help`, or name another --storage"
        )
    with gateway(uri) as mlflow:
        known = [run.run_id for run in mlflow.runs(1000)]
        chosen = []
        for given in runs:
            matches = [run for run in known if run.startswith(given)]
            if len(matches) != 1:
                raise RequestError(f"{given!r} names {len(matches)} runs", "see `llmyard runs list`")
            chosen += matches
        table = mlflow.compare(chosen)
    rows = [
        {"": key, **{run[:8]: _shown(values.get(run, "")) for run in chosen}}
        for key, values in table.items()
        if not key.startswith(SYSTEM_PREFIX)
    ]
    shell.table(rows, "comparison")


def _tracked(storage: Storage) -> str:
    """Returns the storage's address; "" where no run was tracked yet, which looking must not change."""
    if storage.is_local and "MLFLOW_TRACKING_URI" not in os.environ and not storage.local("mlflow.db").exists():
        return ""
    return storage.uri


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
