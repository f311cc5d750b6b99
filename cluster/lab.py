"""A Ray cluster of several nodes on this machine, whose nodes can be killed, drained and cut off.

Each node has a network namespace of its own, with its own address behind a switch, and its own /tmp by a bind mount.
Nothing of this machine's network is touched. Needs Linux, root, iproute2 and curl. lab_command.py is its command line.
"""

from __future__ import annotations

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
PORTS = {"gcs": 6379, "dashboard": 8265, "serve": 8000}
# Of Ray's agents, fixed, as each node has a network of its own: a raylet waits 15 s for ports that its agents choose,
# then dies (ray-project/ray#65983); a busy machine needs longer.
AGENTS = {"dashboard-agent-listen": 8201, "dashboard-agent-grpc": 8202, "metrics-export": 8203,
          "runtime-env-agent": 8204}  # fmt: skip
PATIENCE = 240.0  # seconds that a node may take to come up: the machine may be busy
MOST = 240  # nodes that were ever started: the client's address follows
TAIL = 15  # lines of a log that an error shows
# What was done to a node last; whether it lives is asked of its processes and of Ray.
STARTING, UP, KILLED, DRAINED, FAILED = "starting", "up", "killed", "drained", "failed"
NAMESPACES = Path("/run/netns")
# The bind mount lives in the command's own mount namespace, which `ip netns exec` has made.
_ENTER = 'mount --bind "$1" /tmp && shift && exec "$@"'


class LabError(RuntimeError):
    """What happened, with the value, and what to do about it.

    Args:
        what: A sentence without a full stop.
        remedy: The same.
        code: Exit code of a command: 1 for what failed, 2 for what is refused.
    """

    def __init__(self, what: str, remedy: str, code: int = 1) -> None:
        super().__init__(what, remedy, code)
        self.what, self.remedy, self.code = what, remedy, code

    def __str__(self) -> str:
        return f"{self.what}\n  remedy: {self.remedy}"


@dataclass
class Node:
    """One node.

    Attributes:
        name: ``node0`` is the head.
        number: Its address ends in it.
        pid: Of its ``ray start``; 0 for the client.
        phase: What was done to it last, by this process or, in a lab that was noted, by any.
        process: The one of `pid`, in the process that started it.
    """

    name: str
    number: int
    pid: int = 0
    phase: str = STARTING
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
        folder: Which all nodes see, as they would a network share; `shared` in it is the user's.
    """

    count: int = 3
    cpus: int = 1
    prefix: str = field(default_factory=lambda: f"ly{secrets.token_hex(2)}")
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = Node(CLIENT, 250)
        self.folder = Path("/var/tmp", f"{self.prefix}-lab")  # not below /tmp, of which each node has its own
        self.shared = self.folder / "shared"

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
        dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "MLFLOW_TRACKING_URI", "LLMYARD_STORAGE")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return kept | token | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"} | HEALTH

    def __enter__(self) -> Lab:
        missing = why_not()
        if missing:
            raise SystemExit(f"error: {missing}\n  remedy: run it as root on Linux, with iproute2 and curl installed")
        try:
            self.make()
            for _ in range(self.count):
                self.add()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def make(self) -> None:
        """Makes what nodes need: the folder, the token, the switch and the client."""
        self.folder.mkdir(mode=0o700)
        self.shared.mkdir()
        token = secrets.token_hex(32)
        (self.folder / "token").write_text(token, encoding="utf-8")
        (self.folder / "header").write_text(f"Authorization: Bearer {token}\n", encoding="utf-8")
        _do("netns", "add", f"{self.prefix}-{SWITCH}")
        self._in_switch("link", "add", "bridge", "type", "bridge")
        self._in_switch("link", "set", "bridge", "up")
        self._plug(self.client)

    def add(self) -> Node:
        """Starts one more node, and waits until Ray knows it."""
        node = self.start()
        self.wait(node)
        return node

    def start(self) -> Node:
        """Starts one more node, and does not wait for it."""
        number = len(self.nodes)
        if number >= MOST:
            raise LabError(f"a lab has addresses for {MOST} nodes", "end it, and start it anew", code=2)
        node = self.nodes[f"node{number}"] = Node(f"node{number}", number + 1)
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={self.cpus}",
                   f"--node-ip-address={node.address}", "--object-store-memory=100000000",
                   *(f"--{name}-port={port}" for name, port in AGENTS.items())]  # fmt: skip
        if number == 0:
            command += ["--head", f"--port={PORTS['gcs']}", f"--dashboard-host={node.address}",
                        f"--dashboard-port={PORTS['dashboard']}", "--disable-usage-stats"]  # fmt: skip
        else:
            command += [f"--address={self.gcs}"]
        try:
            self._plug(node)
            with open(self._log(node), "wb") as log:
                node.process = self.run(node, command, stdout=log, stderr=log, start_new_session=True)
        except (LabError, OSError):
            node.phase = FAILED
            raise
        node.pid = node.process.pid
        return node

    def wait(self, node: Node) -> None:
        """Waits until Ray knows a node that this process started, and its agent, which starts jobs, answers.

        Raises:
            LabError: Its `ray start` has ended, or it takes too long.
        """
        assert node.process is not None
        deadline = time.monotonic() + PATIENCE
        while not (node.address in (self.alive() or ()) and self._agent_answers(node)):
            code = node.process.poll()
            if code is not None or time.monotonic() > deadline:
                why = f"nothing of it after {PATIENCE:.0f} s" if code is None else f"its `ray start` ended with {code}"
                lines = self.said_by(node).splitlines()[-TAIL:]
                told = "".join(f"\n  | {line}" for line in lines) or " and said nothing"
                raise LabError(f"{node.name} does not come up: {why}{told}", "read what it says above")
            time.sleep(0.3)
        node.phase = UP

    def _agent_answers(self, node: Node) -> bool:
        asked = f"http://{node.address}:{AGENTS['dashboard-agent-listen']}"
        return bool(self.run(node, ["curl", "--silent", "--max-time", "5", "--output", "/dev/null", asked]).wait() == 0)

    def alive(self) -> list[str] | None:
        """Returns the addresses of the nodes that Ray takes for alive; None while nobody answers.

        The head itself asks: its link, or the client's, may be cut.
        """
        try:
            found = json.loads(self.output(self.head, ["curl", "--silent", "--fail", "-m", "5", "--noproxy", "*",
                "--header", f"@{self.folder}/header", f"{self.url}/api/v0/nodes?limit=10000"]))  # fmt: skip
            return [each["node_ip"] for each in found["data"]["result"]["result"] if each["state"] == "ALIVE"]
        except (subprocess.CalledProcessError, json.JSONDecodeError, LookupError, TypeError, FileNotFoundError):
            return None

    def run(self, node: Node, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Starts a command on a node, or beside the cluster on the client; returns its Popen.

        Args:
            node: Where; its network and its /tmp are the command's.
            command: Its words.
            env: Added to the environment.
            options: Of Popen.
        """
        return subprocess.Popen(self.words(node, command), env=self.environment | dict(env or {}), **options)

    def words(self, node: Node, command: Sequence[str]) -> list[str]:
        """Returns what this machine runs to have a command run on a node."""
        enter = ["ip", "netns", "exec", self._namespace(node), "bash", "-c", _ENTER, "bash", str(self.tmp_of(node))]
        return [*enter, *command]

    def output(self, node: Node, command: Sequence[str]) -> str:
        """Returns what a command on a node prints.

        Raises:
            subprocess.CalledProcessError: It ended with another code than 0.
        """
        process = self.run(node, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           start_new_session=True)  # fmt: skip
        out, error = process.communicate()
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, list(command), out, error)
        return str(out)

    def pids(self, node: Node) -> list[int]:
        """Returns the ids of all processes on a node."""
        return _pids(self._namespace(node))

    def is_made(self, node: Node) -> bool:
        """Whether a node, or the client, has its namespace."""
        return (NAMESPACES / self._namespace(node)).exists()

    def kill(self, node: Node) -> None:
        """Kills all processes of a node at once, as a loss of power would, and takes it off the network."""
        self.cut(node)
        _kill_all(self._namespace(node))
        if node.process is not None:
            node.process.wait()
        node.phase = KILLED

    def drain(self, node: Node) -> None:
        """Has a node hand over what it does and end, as Kubernetes and clouds do: by SIGTERM to ``ray start``."""
        if node.pid in self.pids(node):  # else it may be another's by now
            os.kill(node.pid, signal.SIGTERM)
        node.phase = DRAINED

    def cut(self, node: Node) -> None:
        """Cuts a node off: packets go nowhere, and nobody is told."""
        self._in_switch("link", "set", self._port(node), "down")

    def mend(self, node: Node) -> None:
        """Lets a node that was cut off back on the network."""
        self._in_switch("link", "set", self._port(node), "up")

    def is_cut(self, node: Node) -> bool:
        """Whether a node is cut off."""
        (port,) = json.loads(self._in_switch("-json", "link", "show", self._port(node)))
        return "UP" not in port["flags"]

    def remove(self) -> None:
        """Ends all processes, and removes the namespaces and the folder.

        Raises:
            LabError: Something of it stays.
        """
        for node in reversed(self.nodes.values()):
            self.drain(node)
        for node in reversed(self.nodes.values()):
            deadline = time.monotonic() + 20
            while node.pid in self.pids(node) and time.monotonic() < deadline:
                time.sleep(0.1)
        # All that there are: an `add` that was killed has left one that nobody noted.
        for path in NAMESPACES.glob(f"{self.prefix}-*"):
            _kill_all(path.name)
            _ip("netns", "delete", path.name)
        for node in self.nodes.values():
            if node.process is not None:
                node.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        left = [*map(str, NAMESPACES.glob(f"{self.prefix}-*")), *([str(self.folder)] if self.folder.exists() else [])]
        if left:
            raise LabError(
                f"this stays of the lab: {' '.join(left)}", "end who uses it (`fuser FOLDER`), then `lab down`"
            )

    def _plug(self, node: Node) -> None:
        """Makes a node's namespace, and its line to the switch."""
        self.tmp_of(node).mkdir(mode=0o1777)
        namespace, port = self._namespace(node), self._port(node)
        _do("netns", "add", namespace)
        self._in_switch("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._in_switch("link", "set", port, "master", "bridge", "up")
        inside = ("netns", "exec", namespace, "ip")
        _do(*inside, "address", "add", f"{node.address}/24", "dev", "eth0")
        _do(*inside, "link", "set", "eth0", "up")
        _do(*inside, "link", "set", "lo", "up")

    def _in_switch(self, *words: str) -> str:
        return _do("netns", "exec", f"{self.prefix}-{SWITCH}", "ip", *words)

    def _namespace(self, node: Node) -> str:
        return f"{self.prefix}-{node.name}"

    def _port(self, node: Node) -> str:
        return f"to-{node.name}"

    def tmp_of(self, node: Node) -> Path:
        """Returns the folder that is a node's /tmp."""
        return self.folder / f"{node.name}-tmp"

    def _log(self, node: Node) -> Path:
        return self.folder / f"{node.name}.log"

    def said_by(self, node: Node) -> str:
        """Returns what a node's `ray start` has printed."""
        try:
            return self._log(node).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # the lab has been removed meanwhile
            return ""


def why_not() -> str | None:
    """Returns what is missing for a lab on this machine."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a lab needs root on Linux: it makes network namespaces"
    for program in ("ip", "curl", "mount"):
        if shutil.which(program) is None:
            return f"a lab needs {program}, which is not installed"
    name = f"lytry-{secrets.token_hex(2)}"
    try:
        _do("netns", "add", name)
        _do("-netns", name, "link", "add", "bridge", "type", "bridge")
        _do("-netns", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
    except LabError as error:
        return f"this machine does not let a lab be made: {error.what}"
    finally:
        _ip("netns", "delete", name)
    return None


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    # In a session of its own: a Ctrl-C is for the command, which decides what is still done.
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False, start_new_session=True)


def _do(*words: str) -> str:
    done = _ip(*words)
    if done.returncode != 0:
        raise LabError(
            f"ip {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}",
            "the kernel must let root make network namespaces, bridges and veth pairs (a container needs --privileged)",
        )
    return done.stdout


def _pids(namespace: str) -> list[int]:
    return [int(each) for each in _ip("netns", "pids", namespace).stdout.split()]


def _kill_all(namespace: str) -> None:
    """Kills what runs in a namespace, and what that has started meanwhile."""
    deadline = time.monotonic() + 10
    while (pids := _pids(namespace)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
