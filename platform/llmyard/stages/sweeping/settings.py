"""A job with other values, by their paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from llmyard.core.jobfile import nearest
from llmyard.sweeps.config import Dimension


def with_values(job: BaseModel, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a job as plain data with other values, to be validated.

    Args:
        job: That validates as it is.
        values: By path, as ``optimizer.learning_rate``; items of a list go by index, or by their ``output`` or ``name``
            (``stages.base.steps``). Mappings on the way that are not there are made.

    Raises:
        ValueError: The job has no such place.
    """
    data: dict[str, Any] = job.model_dump(mode="json", exclude_unset=True)
    for path, value in values.items():
        node: Any = data
        *way, last = path.split(".")
        for part in way:
            key = _key(node, part, path)
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node = node[key]
        node[_key(node, last, path)] = value
    return data


def _key(node: Any, part: str, path: str) -> str | int:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise ValueError(f"there is no field {part!r} in {path}: {node!r} is a value")
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    named = [each.get("output") or each.get("name") if isinstance(each, dict) else None for each in node]
    if part in named:
        return named.index(part)
    there = ", ".join(str(each) for each in named if each) or f"0 to {len(node) - 1}"
    raise ValueError(
        f"there is no {part!r} in {path}; {nearest(part, [str(each) for each in named])} there is: {there}"
    )


def ends_of(dimension: Dimension) -> list[Any]:
    """Returns the values of a dimension that a job must take for it to make sense: all choices, or both ends."""
    if dimension.kind == "choice":
        return list(dimension.choices)
    whole = dimension.kind in ("int", "logint")
    return [int(end) if whole else end for end in (dimension.low, dimension.high) if end is not None]


def reason(error: ValidationError) -> str:
    """Returns the first thing that a job says of a value that it does not take."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no field {where}"
    return f"{where}: {str(first['msg']).removeprefix('Value error, ')}"
