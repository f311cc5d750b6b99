"""An endpoint on Ray Serve: one tier, the replica that speaks HTTP is the one that computes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.runtime.session import owned
from llmyard.serving.config import Endpoint, url_of
from llmyard.serving.replica import APPLICATION, Opening, deployment


def set_environment(*, haproxy: bool = False) -> None:
    """Sets what Serve's processes read from their environment, which they inherit from Ray: before it starts.

    Args:
        haproxy: HAProxy stands before the replicas, hardened.

    Raises:
        RequestError: It is not here.
    """
    # On a slow machine the proxy needs longer than Serve's default to answer its first check.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    if haproxy:
        from llmyard.serving.haproxy import FOLDER, environment

        os.environ |= (found := environment())
        owned(found[FOLDER])
        atexit.register(shutil.rmtree, found[FOLDER], ignore_errors=True)


@contextlib.contextmanager
def serving(config: Endpoint, opening: Opening) -> Iterator[str]:
    """Runs an endpoint for the time of the block and yields its URL; Ray must be running.

    Args:
        config: Where it listens, and how many replicas it has.
        opening: What each replica opens.

    Raises:
        RequestError: The port is taken.
        LlmyardError: A model does not load.
    """
    require_free(config.host, config.port)
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options=HTTPOptions(host=config.host, port=config.port))
    try:
        quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
        try:
            serve.run(deployment(opening, config.scale), name=APPLICATION, route_prefix="/", logging_config=quiet)
        except RuntimeError:
            said = serve.status().applications[APPLICATION].deployments
            reason = "; ".join(reason_of(each.message) for each in said.values())
            what, _, remedy = reason.partition("\n  remedy: ")  # a model's own error has one
            raise LlmyardError(
                f"the endpoint did not start: {what}", remedy or "check the checkpoints it shall serve"
            ) from None
        yield url_of(config.host, config.port)
    finally:
        _shut_down()


def reason_of(message: str) -> str:
    """Returns the last error of a trace in a message of Ray Serve, without the trace."""
    lines = message.strip().splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith(("  File ", "    "))), default=-1)
    said = "\n".join(lines[last + 1 :]) or message
    return re.sub(r"^llmyard\.[\w.]+: ", "", said)


def _shut_down(timeout_seconds: float = 30.0) -> None:
    """Stops Serve; requests under way are answered first.

    ``serve.shutdown`` waits for a call to the controller that never returns, and Ray prints its failure on the user's
    terminal when the controller ends. So it is asked to end without waiting, and is looked for until it is gone.
    """
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # what is raised when it is gone
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.remote(False), timeout=timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
            time.sleep(0.05)
    serve.shutdown()  # clears what this process remembers of it


def require_free(host: str, port: int) -> None:
    """Raises RequestError if nothing can listen at host:port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RequestError(f"cannot listen at {host}:{port}: {error.strerror}", "give another --port") from None
