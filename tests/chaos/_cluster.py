"""A small Ray cluster on this machine, whose nodes can be killed: a head without CPUs and nodes of one CPU each."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from typing import Any

NODES = 3  # two work, one is spare
# A node that answers none of three looks, a second apart, is dead: for one machine or a quiet network.
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_timeout_ms": 1000,
          "health_check_failure_threshold": 3}  # fmt: skip


class LocalCluster:
    """The cluster, and this process as one of its clients.

    Args:
        marker: Stands in the environment of all its processes.
        nodes: How many it begins with.

    Attributes:
        address: Of its head.
    """

    def __init__(self, marker: str, nodes: int = NODES) -> None:
        import ray
        from _commands import MARKER
        from ray.cluster_utils import Cluster

        self._folder = tempfile.mkdtemp(prefix="yc", dir="/tmp")
        os.environ |= {MARKER: marker, "RAY_TMPDIR": self._folder}
        os.makedirs(f"{self._folder}/ray")  # where Ray notes the address of the newest cluster
        head = {"num_cpus": 0, "object_store_memory": 200 << 20, "_system_config": HEALTH,
                "include_dashboard": False, "temp_dir": self._folder}  # fmt: skip
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._added() for _ in range(nodes)]
        self.address: str = self._cluster.address
        ray.init(address=self.address, logging_level="ERROR", log_to_driver=False)
        self._killed: Any = None
        self._alive = 0

    def _added(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=100 << 20)

    def pick(self, chance: random.Random) -> int:
        """Returns the process id of the raylet of a node that trains."""
        import psutil

        def trains(node: Any) -> bool:
            children = psutil.Process(_raylet(node)).children(recursive=True)
            with contextlib.suppress(psutil.Error):
                return any("RayTrainWorker" in " ".join(each.cmdline()) for each in children)
            return False

        self._killed = chance.choice([node for node in self._nodes if trains(node)])
        self._alive = self._living()
        return _raylet(self._killed)

    def join(self) -> None:
        """Adds a node."""
        self._nodes.append(self._added())

    def leave(self) -> None:
        """Kills the newest node."""
        import psutil

        psutil.Process(_raylet(self._nodes.pop())).kill()

    def lost(self) -> bool:
        """Returns whether Ray knows that the node is dead."""
        return self._living() < self._alive

    def replace(self) -> None:
        """Adds a node for the one that was killed."""
        with contextlib.suppress(Exception):
            self._cluster.remove_node(self._killed, allow_graceful=False)
        self._nodes = [node for node in self._nodes if node is not self._killed] + [self._added()]

    def stop(self) -> None:
        """Ends all of it."""
        import ray
        from _commands import MARKER

        ray.shutdown()
        self._cluster.shutdown()
        for name in (MARKER, "RAY_TMPDIR"):
            os.environ.pop(name, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _living(self) -> int:
        import ray

        return sum(node["Alive"] for node in ray.nodes())


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
