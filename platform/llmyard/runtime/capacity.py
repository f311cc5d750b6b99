"""What a cluster has at most, where an autoscaler may bring more than is there now."""

from __future__ import annotations

import json
import math


def capacity() -> dict[str, float]:
    """Returns the most that there can be of each resource; of CPUs and GPUs any number under an autoscaler, for nothing
    in Ray tells what it may start.
    """
    import ray

    there: dict[str, float] = dict(ray.cluster_resources())
    return there | (dict.fromkeys(("CPU", "GPU"), math.inf) if _is_autoscaled() else {})


def _is_autoscaled() -> bool:
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        return True
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    return starts_nodes((status.get("autoscaler_report") or {}).get("node_type_mapping") or {})


def starts_nodes(types: dict[str, str]) -> bool:
    """Returns whether an autoscaler's report is of one that starts nodes, by the types of nodes: the one that runs on
    every head, and only counts, has a type for each node, which is made of the node's id.
    """
    return any(kind != f"node_{node}" for node, kind in types.items())
