"""Which data files a task file of the lm-evaluation-harness reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def data_files(file: Path) -> list[str]:
    """Returns the paths under ``dataset_kwargs.data_files`` of a task file, as they stand there.

    Nothing that the file names is run or fetched; of one that is no YAML nothing is returned.
    """
    try:
        task = yaml.load(file.read_text(encoding="utf-8"), _Plain)
    except (yaml.YAMLError, ValueError):  # ValueError: no UTF-8, or a date that does not exist
        return []
    settings = task.get("dataset_kwargs") if isinstance(task, dict) else None
    return list(_texts(settings.get("data_files"))) if isinstance(settings, dict) else []


class _Plain(yaml.SafeLoader):
    """Reads tags that it does not know, as ``!function``, as nothing."""


_Plain.add_constructor(None, lambda loader, node: None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
