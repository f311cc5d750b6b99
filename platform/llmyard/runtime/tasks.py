"""One function run in a process of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.runtime.session import cause_of, lost_process


def run_task(work: Callable[[Any], Any], argument: Any, cpus: float, gpus: float) -> Any:
    """Returns what ``work(argument)`` gives, run where there is room for it.

    Args:
        work: An importable function.
        argument: Picklable.
        cpus: That it holds.
        gpus: The same.

    Raises:
        RequestError: The cluster has not as many.
        LlmyardError: What the function raised, or that its process was lost.
    """
    import ray

    there = ray.cluster_resources()
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > there.get(name, 0.0):
            raise RequestError(f"{needed:g} {name}s are asked for, Ray has {there.get(name, 0.0):g}", "ask for less")
    task = ray.remote(work).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
    try:
        return ray.get(task.remote(argument))
    except ray.exceptions.RayError as error:
        cause = cause_of(error) or lost_process(error)
        if cause is None:
            raise
        raise cause from None
