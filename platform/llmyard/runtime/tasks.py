"""Functions and objects in processes of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.runtime.capacity import capacity
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

    there = capacity()
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > there.get(name, 0.0):
            raise RequestError(f"{needed:g} {name}s are asked for, Ray has {there.get(name, 0.0):g}", "ask for less")
    task = ray.remote(work).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
    return _given(task.remote(argument))


class Held:
    """An object in a process of its own."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the object gives.

        Raises:
            LlmyardError: What it raised, or that its process was lost.
        """
        return _given(getattr(self._actor, method).remote(*arguments))


@contextmanager
def held(kind: type, arguments: Sequence[Any]) -> Iterator[list[Held]]:
    """Yields an object of a class for each argument, each in a process of its own on one machine.

    They hold no CPUs, since they are asked one after the other.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote = ray.remote(kind).options(num_cpus=0, scheduling_strategy=here)
    actors = [remote.remote(each) for each in arguments]
    try:
        yield [Held(actor) for actor in actors]
    finally:
        for actor in actors:
            ray.kill(actor)


def _given(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = cause_of(error) or lost_process(error)
        if cause is None:
            raise
        raise cause from None
