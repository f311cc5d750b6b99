"""A Ray cluster of several nodes on this machine, whose nodes can be killed, drained and cut off.

    bash cluster/local lab up [--nodes 3] [--cpus 1]     # until Ctrl-C, or `lab down` in another terminal
    bash cluster/local lab exec client COMMAND …         # beside the cluster, as a user would be
    bash cluster/local lab status | add | kill NODE | drain NODE | cut NODE | mend NODE | down

The lab is noted in /run/llmyard-lab.json. With another file in LLMYARD_LAB_STATE a second one runs beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import CLIENT, DRAINED, FAILED, KILLED, PATIENCE, STARTING, UP, Lab, LabError, Node, why_not
from lab_record import COMMAND, ENDING, Record, changing, kept, locked, noted, started_at

INTERRUPTED = 130
ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # to end: Ctrl-C, `down`, a closed terminal


class Signals:
    """Makes KeyboardInterrupt of the first signal that asks to end, and nothing of the others.

    What must not be left half-done holds them up: all, until `let` is first called. Who ignored them when this process
    began, as `nohup` does, goes on ignoring them; SIGTERM always counts.
    """

    def __init__(self) -> None:
        self._is_held, self._has_come = True, False
        for number in ASKED:
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._come)

    def _come(self, *_: object) -> None:
        if not self._has_come:
            self._has_come = True
            if not self._is_held:
                raise KeyboardInterrupt

    def let(self) -> None:
        """Lets them through; raises if one has come."""
        self._is_held = False
        if self._has_come:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds them up until the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self.let()

    def ignore(self) -> None:
        """Makes nothing of all that come from now on, to the very end of this process."""
        self._has_come = True
        for number in ASKED:
            signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(text, flush=True)


def _up(count: int, cpus: int) -> int:
    if not (1 <= count <= 200 and cpus >= 1):
        raise LabError(f"no lab has {count} nodes of {cpus} CPUs", "1 to 200 nodes, of 1 CPU at least", code=2)
    if missing := why_not():
        raise LabError(
            missing, "run it as root on Linux, with iproute2 and curl; a container has to be privileged", code=2
        )
    signals, lab, is_up = Signals(), Lab(count, cpus), False
    _claim(lab)
    try:
        try:
            signals.let()
            _start(lab, signals)
            is_up = True
            while True:
                signal.pause()
        finally:
            signals.ignore()
    except KeyboardInterrupt:
        return 0 if is_up else INTERRUPTED
    finally:
        _remove(lab)


def _claim(lab: Lab) -> None:
    """Notes a new lab as this process' own; removes first what an `up` that was killed has left."""
    with locked():
        left = Record.read()
        if left is not None and left.is_kept():
            doing = {STARTING: "is starting", ENDING: "is being removed"}.get(left.phase, "runs")
            raise LabError(
                f"a lab {doing} on this machine already: process {left.keeper}",
                f"{COMMAND} status shows it, {COMMAND} down ends it",
                code=2,
            )
        Record.mine(lab if left is None else left.lab, STARTING if left is None else ENDING).write()
    if left is not None:
        _say(f"removing what an `up` that was killed (process {left.keeper}) has left …")
        left.lab.remove()
        Record.mine(lab, STARTING).write()


def _start(lab: Lab, signals: Signals) -> None:
    nodes = f"{lab.count} nodes" if lab.count > 1 else "1 node"
    _say(f"starting {nodes}, one after another; logs: {lab.folder}/NODE.log; Ctrl-C removes all")
    with signals.held():
        lab.make()
    for number in range(1, lab.count + 1):
        with signals.held(), changing() as record:
            node = record.lab.start()
        _wait(record.lab, node)
        with changing() as record:
            record.lab.nodes[node.name].phase = UP
            record.phase = UP if number == lab.count else STARTING
        _say(f"{node.name} {node.address} is up ({number} of {lab.count})")
    _say(f"{nodes}; dashboard and Jobs API: {lab.url}; all nodes see {lab.shared}")
    _say(f"  {COMMAND} exec client llmyard submit JOB --storage {lab.shared}/store --shared-paths")
    _say(f"  (a job file anywhere but in /tmp, of which each node and the client have their own, or in {lab.shared})")
    _say(f"  {COMMAND} kill node{lab.count - 1}      Ctrl-C, or {COMMAND} down, ends the lab")


def _wait(lab: Lab, node: Node) -> None:
    """Waits for a node; what it and its Ray have logged is kept if it does not come up."""
    try:
        lab.wait(node)
    except LabError as error:
        try:
            kept()
        except LabError:
            raise LabError(f"the lab was ended before {node.name} was up", f"{COMMAND} up") from None
        raise LabError(error.what, f"all that it and its Ray have logged lies in {_keep_logs(lab, node)}") from None


def _keep_logs(lab: Lab, node: Node) -> Path:
    """Copies what a node and its Ray have logged to a new folder in /tmp, and returns that: the lab will be removed."""
    folder = Path(tempfile.mkdtemp(prefix=f"llmyard-lab-{node.name}-"))
    (folder / "ray-start.log").write_text(lab.said_by(node), encoding="utf-8")
    for logs in lab.tmp_of(node).glob("ray/session_2*/logs"):
        with contextlib.suppress(shutil.Error, OSError):  # what the node still moves about
            shutil.copytree(logs, folder / logs.parent.name, symlinks=True)
    return folder


def _remove(lab: Lab) -> None:
    """Removes a lab, with what other commands have added to it."""
    _say("removing the lab …")
    with locked():
        try:
            record = Record.read()
        except LabError:  # nobody can read it: what this process knows is removed nevertheless
            record = None
        is_noted = record is None or record.lab.prefix == lab.prefix
        if is_noted:
            lab = lab if record is None else record.lab
            Record.mine(lab, ENDING).write()
    lab.remove()
    if is_noted:
        Record.forget()


def _down() -> int:
    record = noted()
    if record.is_kept():
        _say(f"ending the lab of process {record.keeper} …")
        if record.phase != ENDING:
            os.kill(record.keeper, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while (now := Record.read()) and now.lab.prefix == record.lab.prefix and now.is_kept():
            if time.monotonic() > deadline:
                raise LabError(
                    f"process {record.keeper} has not removed its lab in {PATIENCE:.0f} s",
                    f"kill -9 {record.keeper}, then {COMMAND} down",
                )
            time.sleep(0.1)
    signals = Signals()
    with locked():
        left = Record.read()
        if left is not None and (left.lab.prefix != record.lab.prefix or left.is_kept()):
            left = None  # a new lab
        if left is not None:
            Record.mine(left.lab, ENDING).write()
    if left is not None:
        _remove(left.lab)
    _say("nothing is left of the lab")
    signals.let()
    return 0


def _status(as_json: bool) -> int:
    record = noted()
    lab = record.lab
    alive = lab.alive()
    states = [(node, _state(lab, node, alive)) for node in lab.nodes.values()]
    phase = record.phase if record.is_kept() else "abandoned"
    if as_json:
        nodes = [{"name": node.name, "address": node.address, "state": state} for node, state in states]
        print(json.dumps({"phase": phase, "url": lab.url, "shared": str(lab.shared), "nodes": nodes}))
        return 0
    up = sum(state == "alive" for _, state in states)
    print({
        STARTING: f"the lab is starting: {up} of {lab.count} nodes are up",
        UP: f"the lab is up; dashboard and Jobs API: {lab.url}; all nodes see {lab.shared}",
        ENDING: "the lab is being removed",
        "abandoned": f"the lab's process {record.keeper} was killed; {COMMAND} down removes what it has left",
    }[phase])  # fmt: skip
    for node, state in states:
        print(f"{node.name:8}{node.address:14}{state}")
    return 0


def _state(lab: Lab, node: Node, alive: Sequence[str] | None) -> str:
    """Returns how a node is, in a few words."""
    if node.phase in (KILLED, FAILED):
        return node.phase
    if not lab.pids(node):
        if node.phase == STARTING and started_at(node.pid) is not None:
            return STARTING  # not in its namespace as yet
        return DRAINED if node.phase == DRAINED else "ended by itself"
    is_known = node.address in (alive or ())
    if _is_cut(lab, node):
        return "cut off, " + ("Ray takes it for alive as yet" if is_known else "and Ray has given it up")
    if node.phase == STARTING and not is_known:
        return STARTING
    if alive is None:
        return "running; the head does not answer"
    if node.phase == DRAINED:
        return "draining"
    return "alive" if is_known else "given up by Ray"


def _is_cut(lab: Lab, node: Node) -> bool:
    try:
        return lab.is_cut(node)
    except LabError:  # its line is just being made or removed
        return False


def _add() -> int:
    signals = Signals()
    with changing() as record:
        if not record.is_kept():
            raise LabError(f"the lab's process {record.keeper} was killed", f"{COMMAND} down removes the rest", code=2)
        if record.phase == STARTING:
            raise LabError("the lab is still starting", f"wait until {COMMAND} status says that it is up", code=2)
        node = record.lab.start()
    try:
        signals.let()
        _wait(record.lab, node)
        with changing() as record:
            record.lab.nodes[node.name].phase = UP
    except BaseException:
        signals.ignore()
        with contextlib.suppress(LabError, LookupError), changing() as record:  # unless the lab has ended
            found = record.lab.nodes[node.name]
            record.lab.kill(found)
            found.phase = FAILED
        raise
    print(f"{node.name} {node.address} is up")
    return 0


def _node(lab: Lab, name: str) -> Node:
    everyone = lab.nodes | {CLIENT: lab.client}
    if name not in everyone:
        raise LabError(f"there is no node {name!r}", f"one of: {', '.join(everyone)}", code=2)
    if not lab.is_made(everyone[name]):
        raise LabError(f"{name} has not been started yet", f"{COMMAND} status shows the nodes", code=2)
    return everyone[name]


def _exec(name: str, words: Sequence[str]) -> int:
    lab = kept().lab
    words = lab.words(_node(lab, name), [*words[words[:1] == ["--"] :]] or ["bash"])
    # What messages tell the user to type works where they are read.
    hints = {"RAY_API_SERVER_ADDRESS": lab.url, "LLMYARD_COMMAND": f"{COMMAND} exec client llmyard"}
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would
    os.execvpe(words[0], words, lab.environment | hints)


def _act(action: str, name: str) -> int:
    with changing() as record:
        lab, node = record.lab, _node(record.lab, name)
        _refuse(action, lab, node)
        getattr(lab, action)(node)
    done = {"kill": "was killed", "drain": "is draining", "cut": "is cut off", "mend": "is back on the network"}[action]
    if action == "mend" and node is not lab.client and node.address not in (lab.alive() or (node.address,)):
        done += ", but Ray has given it up: its processes will end"
    print(f"{name} {done}")
    return 0


def _refuse(action: str, lab: Lab, node: Node) -> None:
    """Raises where an action makes no sense."""
    if node is lab.client:
        if action in ("kill", "drain"):
            raise LabError(f"{CLIENT} is no node of the cluster", f"one of: {', '.join(lab.nodes)}", code=2)
    elif not lab.pids(node):
        raise LabError(
            f"{node.name} does not run: {_state(lab, node, None)}", f"{COMMAND} add starts another node", code=2
        )
    if action == "drain" and node.phase == DRAINED:
        raise LabError(f"{node.name} is draining already", f"{COMMAND} kill {node.name} ends it at once", code=2)
    is_cut = lab.is_cut(node)
    if action == "cut" and is_cut:
        raise LabError(f"{node.name} is cut off already", f"{COMMAND} mend {node.name}", code=2)
    if action == "mend" and not is_cut:
        raise LabError(f"{node.name} is not cut off", f"{COMMAND} status shows how the nodes are", code=2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it, and keep it until Ctrl-C or `down`")
    up.add_argument("--nodes", type=int, default=3, help="the head among them")
    up.add_argument("--cpus", type=int, default=1, help="of each node")
    commands.add_parser("down", help="end it, and wait until nothing is left")
    status = commands.add_parser("status", help="which nodes there are, and how they are")
    status.add_argument("--json", action="store_true", help="one JSON object")
    commands.add_parser("add", help="start one more node")
    for name, told in (("kill", "kill all its processes"), ("drain", "have it hand over and end"),
                       ("cut", "cut it off the network"),
                       ("mend", "let it back on the network, before Ray has given it up")):  # fmt: skip
        commands.add_parser(name, help=told).add_argument("node")
    run = commands.add_parser("exec", help="run a command on a node, or on `client` beside the cluster")
    run.add_argument("node")
    run.add_argument("words", nargs=argparse.REMAINDER)
    return parser


def _run(given: argparse.Namespace) -> int:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise LabError("a lab needs root on Linux: it makes network namespaces", "run it with sudo", code=2)
    if given.command == "up":
        return _up(given.nodes, given.cpus)
    if given.command == "down":
        return _down()
    if given.command == "status":
        return _status(given.json)
    if given.command == "add":
        return _add()
    return _exec(given.node, given.words) if given.command == "exec" else _act(given.command, given.node)


def main(words: Sequence[str] | None = None) -> int:
    """Runs one of the commands above; returns its exit code: 2 for what is refused, 130 for what is interrupted."""
    given = _parser().parse_args(words)
    try:
        return _run(given)
    except LabError as error:
        told, code = f"error: {error}", error.code
    except OSError as error:
        told, code = f"error: {error}\n  remedy: see to what it names, then run the same command again", 1
    except KeyboardInterrupt:
        told, code = "interrupted", INTERRUPTED
    with contextlib.suppress(OSError):
        print(told, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
