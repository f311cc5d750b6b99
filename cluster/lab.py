"""A Ray cluster of several nodes on this machine, whose nodes can be killed, drained and cut off.

    bash cluster/local lab up [--nodes 3] [--cpus 1]     # until Ctrl-C
    bash cluster/local lab exec client COMMAND …         # beside the cluster, as a user would be
    bash cluster/local lab status | add | kill NODE | drain NODE | cut NODE | mend NODE

Each node has a network namespace of its own, with its own address behind a switch, and its own /tmp by a bind mount.
Nothing of this machine's network is touched. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A node that leaves three looks without an answer is dead. Ray's own settings (3 s, 10 s, 5 looks) leave a training
# hanging for a minute. Measured by `chaos cluster`: see cluster/README.md.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}
# Of a range that is kept for tests: pasted outside of the lab, an address leads to nobody.
NET, CLIENT, SWITCH = "198.18.0", "client", "switch"
HINTS = {"LLMYARD_COMMAND": "bash cluster/local lab exec client llmyard"}  # what messages tell the user to type
PORTS = {"gcs": 6379, "dashboard": 8265, "serve": 8000}
PATIENCE = 240.0  # seconds that a node may take to come up: the machine may be busy
STATE = Path("/run/llmyard-lab.json")  # of the lab that `up` keeps running
# The bind mount lives in the command's own mount namespace, which `ip netns exec` has made.
_ENTER = 'mount --bind "$1" /tmp && shift && exec "$@"'


@dataclass
class Node:
    """One node.

    Attributes:
        name: ``node0`` is the head.
        number: Its address ends in it.
        pid: Of its ``ray start``; 0 for the client.
        process: The same, in the process that started it.
    """

    name: str
    number: int
    pid: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its address, behind the switch."""
        return f"{NET}.{self.number}"


@dataclass
class Lab:
    """The cluster; as a context it is started and, with all its processes and namespaces, removed.

    Args:
        count: Number of nodes, the head among them.
        cpus: Of each node.
        prefix: Of its namespaces' names.

    Attributes:
        nodes: By name, those that were killed included; the client, which is no node of Ray, is apart.
        folder: Which all nodes see, as they would a network share.
    """

    count: int = 3
    cpus: int = 1
    prefix: str = field(default_factory=lambda: f"ly{secrets.token_hex(2)}")
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = Node(CLIENT, 250)
        self.folder = Path("/var/tmp", f"{self.prefix}-lab")  # not below /tmp, of which each node has its own

    @property
    def head(self) -> Node:
        """The node with the GCS, the dashboard and the Jobs API."""
        return self.nodes["node0"]

    @property
    def url(self) -> str:
        """Address of the dashboard."""
        return f"http://{NET}.1:{PORTS['dashboard']}"

    @property
    def gcs(self) -> str:
        """Address that drivers and nodes connect to."""
        return f"{NET}.1:{PORTS['gcs']}"

    @property
    def environment(self) -> dict[str, str]:
        """What nodes and clients have in their environment besides this process' own."""
        dropped = ("RAY_ADDRESS", "RAY_TMPDIR", "MLFLOW_TRACKING_URI", "LLMYARD_STORAGE")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return kept | token | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"} | HEALTH

    def __enter__(self) -> Lab:
        missing = why_not()
        if missing:
            raise SystemExit(f"error: {missing}\n  remedy: run it as root on Linux, with iproute2 installed")
        self.folder.mkdir(mode=0o700)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        try:
            self._make_switch()
            self._plug(self.client)
            for _ in range(self.count):
                self.add()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def add(self) -> Node:
        """Starts one more node, and waits until Ray knows it."""
        number = len(self.nodes)
        node = Node(f"node{number}", number + 1)
        self._plug(node)
        self.nodes[node.name] = node
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={self.cpus}",
                   f"--node-ip-address={node.address}", "--object-store-memory=100000000"]  # fmt: skip
        if number == 0:
            command += ["--head", f"--port={PORTS['gcs']}", f"--dashboard-host={node.address}",
                        f"--dashboard-port={PORTS['dashboard']}", "--disable-usage-stats"]  # fmt: skip
        else:
            command += [f"--address={self.gcs}"]
        with open(self.folder / f"{node.name}.log", "wb") as log:
            process = self.run(node, command, stdout=log, stderr=log, start_new_session=True)
        node.process, node.pid = process, process.pid
        deadline = time.monotonic() + PATIENCE
        while node.address not in (self.alive() or ()):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / f"{node.name}.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"{node.name} does not come up: {said[-2000:]}")
            time.sleep(0.3)
        return node

    def alive(self) -> list[str] | None:
        """Returns the addresses of the nodes that Ray takes for alive; None while nobody answers."""
        try:
            found = json.loads(self.output(self.client, ["curl", "--silent", "--fail", "--max-time", "5", "--header",
                f"Authorization: Bearer {(self.folder / 'token').read_text(encoding='utf-8')}",
                f"{self.url}/api/v0/nodes"]))  # fmt: skip
        except (subprocess.CalledProcessError, json.JSONDecodeError):
            return None
        return [each["node_ip"] for each in found["data"]["result"]["result"] if each["state"] == "ALIVE"]

    def run(self, node: Node, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Starts a command on a node, or beside the cluster on the client; returns its Popen.

        Args:
            node: Where; its network and its /tmp are the command's.
            command: Its words.
            env: Added to the environment.
            options: Of Popen.
        """
        words = [*_ip("netns", "exec", self._namespace(node)), "bash", "-c", _ENTER, "bash", str(self._tmp(node))]
        return subprocess.Popen([*words, *command], env=self.environment | dict(env or {}), **options)

    def output(self, node: Node, command: Sequence[str]) -> str:
        """Returns what a command on a node prints.

        Raises:
            subprocess.CalledProcessError: It ended with another code than 0.
        """
        process = self.run(node, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, error = process.communicate()
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, list(command), out, error)
        return str(out)

    def pids(self, node: Node) -> list[int]:
        """Returns the ids of all processes on a node."""
        found = subprocess.run(_ip("netns", "pids", self._namespace(node)), capture_output=True, text=True, check=False)
        return [int(each) for each in found.stdout.split()]

    def kill(self, node: Node) -> None:
        """Kills all processes of a node at once, as a loss of power would, and takes it off the network."""
        self.cut(node)
        for pid in self.pids(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if node.process is not None:
            node.process.wait()

    def drain(self, node: Node) -> None:
        """Has a node hand over what it does and end, as Kubernetes and clouds do: by SIGTERM to ``ray start``."""
        if node.pid in self.pids(node):  # else it may be another's by now
            os.kill(node.pid, signal.SIGTERM)

    def cut(self, node: Node) -> None:
        """Cuts a node off: packets go nowhere, and nobody is told."""
        self._in_switch("link", "set", self._port(node), "down")

    def mend(self, node: Node) -> None:
        """Lets a node that was cut off back on the network."""
        self._in_switch("link", "set", self._port(node), "up")

    def keep(self) -> None:
        """Notes what there is, for commands beside the process that keeps it."""
        nodes = [(node.name, node.number, node.pid) for node in self.nodes.values()]
        STATE.write_text(json.dumps({"prefix": self.prefix, "cpus": self.cpus, "nodes": nodes}), encoding="utf-8")

    @classmethod
    def kept(cls) -> Lab:
        """Returns the lab that `up` keeps running."""
        if not STATE.exists():
            raise SystemExit("error: no lab runs on this machine\n  remedy: bash cluster/local lab up")
        found = json.loads(STATE.read_text(encoding="utf-8"))
        nodes = {name: Node(name, number, pid) for name, number, pid in found["nodes"]}
        return cls(len(nodes), found["cpus"], found["prefix"], nodes)

    def remove(self) -> None:
        """Ends all processes, and removes the namespaces and the folder."""
        everyone = [*reversed(self.nodes.values()), self.client]
        for node in everyone:
            self.drain(node)
        for node in everyone:
            deadline = time.monotonic() + 20
            while node is not self.client and self.pids(node) and time.monotonic() < deadline:
                time.sleep(0.1)
            for pid in self.pids(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if node.process is not None:
                node.process.wait()
        # All that there are: an `add` that was interrupted has left one that nobody noted.
        for name in [path.name for path in Path("/run/netns").glob(f"{self.prefix}-*")]:
            left = subprocess.run(_ip("netns", "pids", name), capture_output=True, text=True, check=False)
            for pid in left.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(_ip("netns", "delete", name), stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_switch(self) -> None:
        _do("netns", "add", f"{self.prefix}-{SWITCH}")
        self._in_switch("link", "add", "bridge", "type", "bridge")
        self._in_switch("link", "set", "bridge", "up")

    def _plug(self, node: Node) -> None:
        """Makes a node's namespace, and its line to the switch."""
        self._tmp(node).mkdir(mode=0o1777)
        namespace, port = self._namespace(node), self._port(node)
        _do("netns", "add", namespace)
        self._in_switch("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._in_switch("link", "set", port, "master", "bridge", "up")
        inside = ("netns", "exec", namespace, "ip")
        _do(*inside, "address", "add", f"{node.address}/24", "dev", "eth0")
        _do(*inside, "link", "set", "eth0", "up")
        _do(*inside, "link", "set", "lo", "up")

    def _in_switch(self, *words: str) -> None:
        _do("netns", "exec", f"{self.prefix}-{SWITCH}", "ip", *words)

    def _namespace(self, node: Node) -> str:
        return f"{self.prefix}-{node.name}"

    def _port(self, node: Node) -> str:
        return f"to-{node.name}"

    def _tmp(self, node: Node) -> Path:
        return self.folder / f"{node.name}-tmp"


def why_not() -> str | None:
    """Returns what is missing for a lab on this machine."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a lab needs root on Linux: it makes network namespaces"
    for program in ("ip", "curl", "mount"):
        if shutil.which(program) is None:
            return f"a lab needs {program}, which is not installed"
    name = f"lytry-{secrets.token_hex(2)}"
    tried = subprocess.run(_ip("netns", "add", name), capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"this machine lets nobody make a network namespace: {tried.stderr.strip()}"
    _do("netns", "delete", name)
    return None


def _ip(*words: str) -> list[str]:
    return ["ip", *words]


def _do(*words: str) -> None:
    done = subprocess.run(_ip(*words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def main(words: Sequence[str] | None = None) -> int:
    """Runs one of the commands above; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="bash cluster/local lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it, and keep it until Ctrl-C")
    up.add_argument("--nodes", type=int, default=3, help="the head among them")
    up.add_argument("--cpus", type=int, default=1, help="of each node")
    commands.add_parser("status", help="which nodes there are, and which of them Ray takes for alive")
    commands.add_parser("add", help="start one more node")
    for name, told in (("kill", "kill all its processes"), ("drain", "have it hand over and end"),
                       ("cut", "cut it off the network"),
                       ("mend", "let it back on the network, before Ray has given it up")):  # fmt: skip
        commands.add_parser(name, help=told).add_argument("node")
    run = commands.add_parser("exec", help="run a command on a node, or on `client` beside the cluster")
    run.add_argument("node")
    run.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    if given.command == "up":
        if min(given.nodes, given.cpus) < 1:
            parser.error("a lab has one node of one CPU at least")
        return _up(Lab(given.nodes, given.cpus))
    lab = Lab.kept()
    if given.command == "status":
        alive = lab.alive() or []
        for node in lab.nodes.values():
            print(f"{node.name:8}{node.address:12}{'alive' if node.address in alive else 'dead'}")
        return 0
    if given.command == "add":
        node = lab.add()
        lab.keep()
        print(f"{node.name} {node.address}")
        return 0
    everyone = lab.nodes | {CLIENT: lab.client}
    if given.node not in everyone:
        parser.error(f"there is no node {given.node!r}; one of: {', '.join(everyone)}")
    node = everyone[given.node]
    if given.command == "exec":
        return int(lab.run(node, given.words or ["bash"], env={"RAY_API_SERVER_ADDRESS": lab.url, **HINTS}).wait())
    getattr(lab, given.command)(node)
    return 0


def _up(lab: Lab) -> int:
    if STATE.exists():
        found = Lab.kept()
        if any(found.pids(node) for node in found.nodes.values()):
            raise SystemExit("error: a lab runs on this machine\n  remedy: end its `up` by Ctrl-C")
        found.remove()  # of an `up` that was killed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    with lab:
        lab.keep()
        try:
            shared = lab.folder / "shared"
            shared.mkdir()
            print(f"{len(lab.nodes)} nodes; dashboard and Jobs API: {lab.url}; all nodes see {shared}")
            print(f"  bash cluster/local lab exec client llmyard submit JOB --storage {shared}/store --shared-paths")
            print(
                f"  (a job file anywhere but in /tmp, of which each node and the client have their own, or in {shared})"
            )
            print(f"  bash cluster/local lab kill {[*lab.nodes][-1]}      Ctrl-C ends the lab", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            lab.nodes |= {name: node for name, node in Lab.kept().nodes.items() if name not in lab.nodes}  # by `add`
            STATE.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
