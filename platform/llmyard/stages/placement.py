"""Whether a cluster can ever run a job: what its stages hold at once, and what the nodes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmyard.stages.carrying import Place, configs
from llmyard.stages.command_config import Command
from llmyard.stages.config import AnyJob, Sweep, stages_of
from llmyard.stages.deploy_config import Deploy
from llmyard.training.config import Training


@dataclass(frozen=True)
class Demand:
    """What a part of a job must hold at one time.

    Attributes:
        place: In the job file.
        stage: Kind and output of the stage.
        count: How many processes; each fits on one node or nowhere.
        each: What each of them holds, by Ray's names.
        most: As many there may come to be where there is room.
    """

    place: Place
    stage: str
    count: int
    each: Mapping[str, float]
    most: int = 0


def demands(job: AnyJob) -> list[Demand]:
    """Returns what a job's stages hold: its trainings' workers and its endpoint's replicas at their least, its
    programs, and a CPU for the rest.
    """
    found: list[Demand] = []
    for number, stage in enumerate(stages_of(job)):
        at: Place = ("stages", number) if stage is not job else ()
        name = f"{stage.kind} {stage.output}"
        own = []
        for place, config in configs(stage, at):
            if isinstance(config, Training):
                needs = config.resources
                each = {"CPU": needs.cpus_per_worker, "GPU": needs.gpus_per_worker}
                own.append(Demand((*place, "resources"), name, needs.least, each, needs.most))
            elif isinstance(config, Command):
                held = {"CPU": config.resources.cpus, "GPU": config.resources.gpus}
                own.append(Demand((*place, "resources"), name, 1, held))
            elif isinstance(config, Deploy):
                replica = {"CPU": float(config.scale.cpus)}
                own.append(Demand((*place, "scale"), name, max(1, config.scale.least), replica, config.scale.most))
        if isinstance(stage, Sweep) or not own:
            own.append(Demand(at, name, 1, {"CPU": 1.0}))
        found += own
    return found


def shortfall(demand: Demand, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Returns what is missing for a demand ever to be met, with the resource's name; None if nothing is.

    Args:
        demand: Of a part of a job.
        nodes: What each node has, by Ray's names.
    """
    each = {name: amount for name, amount in demand.each.items() if amount > 0}
    who = f"{demand.count} workers need" if demand.count > 1 else "it needs"
    for name, amount in each.items():
        total = sum(node.get(name, 0.0) for node in nodes)
        if demand.count * amount > total:
            return f"{who} {demand.count * amount:g} {name}s, the cluster has {total:g}"
    room = sum(_fitting(each, node) for node in nodes)
    if room >= demand.count:
        return None
    for name, amount in each.items():
        largest = max(node.get(name, 0.0) for node in nodes)
        if amount > largest:
            return f"each worker needs {amount:g} {name}s on one node, the largest node has {largest:g}"
    together = " and ".join(f"{amount:g} {name}s" for name, amount in each.items())
    return f"{who} {together} each, the nodes have room for {room}"


def _fitting(each: Mapping[str, float], node: Mapping[str, float]) -> int:
    """Returns how many processes of one size a node has room for. Ray counts in ten-thousandths: 0.1 goes ten times
    into 1.
    """
    return min(round(node.get(name, 0.0) * 1e4) // round(amount * 1e4) for name, amount in each.items())
