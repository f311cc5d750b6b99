"""Work over many units on Ray Data: what is read and written stays with the workers, the driver sees counts."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llmyard.core import errors
from llmyard.core.errors import LlmyardError
from llmyard.runtime.session import cause_of, lost_process, plain_error

Row = dict[str, Any]


def map_units(units: Sequence[Row], work: Callable[[Row], Row], *, cpus: float = 1) -> Iterator[Row]:
    """Yields the result of ``work`` on each unit, in the order they finish.

    Args:
        units: Plain JSON data.
        work: Runs in a Ray task, maybe more than once if a worker dies: it must be idempotent. It returns plain JSON
            data and small (counts, receipts), never documents.
        cpus: CPUs of one task.

    Raises:
        LlmyardError: The error that ``work`` raised.
    """

    def task(row: Row) -> Row:
        # An error of ours is an answer: through Ray Data's own wrapping its class and its remedy would be lost.
        try:
            answer: Row = {"result": work(json.loads(row["unit"]))}
        except LlmyardError as error:
            plain = plain_error(error)
            answer = {"error": [type(plain).__name__, plain.what, plain.remedy]}
        return {"answer": json.dumps(answer)}

    dataset = _from_units(units).map(task, num_cpus=cpus)
    for row in _rows(dataset):
        answer = json.loads(row["answer"])
        if "error" in answer:
            kind, what, remedy = answer["error"]
            raise getattr(errors, kind, LlmyardError)(what, remedy)
        yield answer["result"]


def map_with(units: Sequence[Row], worker: type[Any], arguments: tuple[Any, ...]) -> Iterator[Row]:
    """Like :func:`map_units`, for work that loads a model: a process makes the worker once and keeps it for its units.

    Args:
        units: Plain JSON data.
        worker: A class whose instances are called with a unit and return plain JSON data.
        arguments: Of its constructor.
    """
    key = uuid.uuid4().hex

    def work(unit: Row) -> Row:
        result: Row = _kept(key, worker, arguments)(unit)
        return result

    yield from map_units(units, work)


# The worker of the job this process works for. Ray gives a process the next task of a job, and of the next job too.
_resident: dict[str, Any] = {}


def _kept(key: str, worker: type[Any], arguments: tuple[Any, ...]) -> Any:
    # A function of the module, which tasks import: a nested one would bring a copy of `_resident` with every task.
    if key not in _resident:
        _resident.clear()  # one model at a time
        _resident[key] = worker(*arguments)
    return _resident[key]


def _from_units(units: Sequence[Row]) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # an error is raised too, and told without its traceback
    return ray.data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))


def _rows(dataset: Any) -> Iterable[Row]:
    try:
        yield from dataset.iter_rows()
    except Exception as error:
        raise (cause_of(error) or lost_process(error) or error) from None
