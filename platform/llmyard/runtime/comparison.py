"""Runs side by side: what they were told, and what came of it."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmyard.core.tracking import SYSTEM_PREFIX

Table = dict[str, dict[str, str | float | None]]
_log = logging.getLogger(__name__)


def tables(client: Any, run_ids: Sequence[str]) -> tuple[Table, Table]:
    """Returns two tables `{row: {run_id: value}}`: of the parameters and of the last metrics that any of the runs has.

    Parameters are those of MLflow and the fields of the run's logged config (`model.layers`); metrics of the machine
    are left out.
    """
    data = {run_id: client.get_run(run_id).data for run_id in run_ids}
    parameters = {run_id: {**each.params, **_config(client, run_id)} for run_id, each in data.items()}
    metrics = {
        run_id: {key: value for key, value in each.metrics.items() if not key.startswith(SYSTEM_PREFIX)}
        for run_id, each in data.items()
    }
    return _side_by_side(parameters), _side_by_side(metrics)


def _config(client: Any, run_id: str) -> dict[str, str]:
    """Returns the fields of a run's `config.json` by their path; {} for a run without one."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(run_id, "config.json", folder)
            return dict(_flat(json.loads(Path(file).read_text(encoding="utf-8"))))
        except Exception as error:  # its files may be gone, or on a storage that this machine does not reach
            _log.info("the config of run %s cannot be read: %s", run_id, error)
            return {}


def _side_by_side(columns: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = sorted({row for column in columns.values() for row in column})
    return {row: {run_id: column.get(row) for run_id, column in columns.items()} for row in rows}


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yields the fields of a config by their path, as JSON where they are no text; what is not set is left out."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
