"""An endpoint on a cluster that runs already: it outlives the process that deploys it.

Serve's controller is started by a process that brings nothing along. Replicas would else begin with the code and the
variables of whichever job deployed first; now each version of an endpoint has those of the job that deployed it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.runtime.capacity import capacity
from llmyard.serving.config import Scale, url_of
from llmyard.serving.endpoint import reason_of, require_free
from llmyard.serving.replica import Opening, deployment

# A new replica is started before an old one goes, where one more has room: Serve rounds up to whole replicas.
SURGE_PERCENT = 25
_LOOK_SECONDS = 0.5
_START_SECONDS = 240.0
_NAMESPACE, _PREFIX = "llmyard", "packages/"  # of the actors that keep packages
_START = """
import json, sys, ray
from ray import serve
from ray.serve.config import HTTPOptions
given = json.loads(sys.argv[1])
ray.init(address=given["address"], namespace="serve", log_to_driver=False, logging_level="ERROR")
serve.start(
    http_options=HTTPOptions(host=given["host"], port=given["port"]),
    controller_options={"runtime_env": {"env_vars": given["variables"]}},
)
"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployed:
    """An endpoint that answers.

    Attributes:
        urls: Of the nodes that take requests, the head's first.
        replicas: That run.
    """

    urls: tuple[str, ...]
    replicas: int


def start_serve(host: str, port: int, *, haproxy: bool) -> bool:
    """Starts the cluster's Serve unless it runs; returns whether it did.

    Args:
        host: Where the nodes listen.
        port: The same.
        haproxy: HAProxy stands before the replicas, hardened.

    Raises:
        RequestError: The port is taken on this node, or HAProxy is not here.
        LlmyardError: It does not start.
    """
    import ray

    if _runs():
        return False
    try:
        require_free(host, port)
    except RequestError as taken:
        raise RequestError(taken.what, "give another `port`, or end what listens there") from None
    variables = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
    if haproxy:
        from llmyard.serving.haproxy import environment

        try:
            variables |= environment()
        except RequestError as missing:
            remedy = "set `haproxy: false`, or start the cluster from an image that has it beside its Python"
            raise RequestError(f"{missing.what}, on the node where the driver runs", remedy) from None
    given = {
        "address": ray.get_runtime_context().gcs_address, "host": host, "port": port, "variables": variables,
    }  # fmt: skip
    left_out = {"RAY_JOB_CONFIG_JSON_ENV_VAR", _hook(), "RAY_JOB_ID", "RAY_ADDRESS"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    said = ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        ended = subprocess.run(
            [sys.executable, "-c", _START, json.dumps(given)], env=kept, capture_output=True, text=True, check=False,
            timeout=_START_SECONDS,
        )  # fmt: skip
        said = (ended.stderr.strip().splitlines() or [""])[-1]
    if not _runs():
        raise LlmyardError(f"the cluster's Serve does not start: {said or 'it takes too long'}", "see the head's log")
    return True


def check_room(scale: Scale) -> None:
    """Raises RequestError if the cluster could never hold the fewest replicas."""
    import ray

    if math.isinf(capacity().get("CPU", 0.0)):
        return
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    room, needed = sum(int(cpus // scale.cpus) for cpus in nodes), max(1, scale.least)
    if room < needed:
        raise RequestError(
            f"{needed} replicas of {scale.cpus} CPUs each are asked for, the nodes have room for {room}",
            "ask for less in `scale`, or add nodes",
        )


def deploy(
    name: str, opening: Opening, scale: Scale, version: str, *, seconds: float, tell: Callable[[int, int, str], None]
) -> Deployed:
    """Puts a version behind an endpoint and waits until all of it answers; what has not changed stays as it is.

    Args:
        name: Of the endpoint.
        opening: What each replica opens.
        scale: How many there are.
        version: Equal for what need not be started anew.
        seconds: That it may take.
        tell: Takes how many replicas run, of how many, and what Serve says.

    Raises:
        LlmyardError: It does not come to answer; what was there before goes on as far as its replicas still run.
    """
    from ray.serve.api import RunTarget, _run_many
    from ray.serve.exceptions import RayServeException
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    deadline, environment = time.monotonic() + seconds, _environment()
    surge = SURGE_PERCENT if _has_room_for(scale.cpus) else 0
    if not surge and (there := _replicas(name)):
        _log.warning(
            "no node has %g CPUs free for one replica more: if this version is another one, each new replica takes the "
            "place of an old one that stops first%s",
            scale.cpus,
            ", and nobody answers meanwhile" if there == 1 else "",
        )
    application = deployment(opening, scale, version=version, runtime_env=environment, max_surge_percent=surge)
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    former, kept = _keepers(name), _keep_packages(name, environment)
    try:
        # Serve's own waiting has no end where there is no room, and says nothing meanwhile.
        _run_many([RunTarget(application, name, "/", quiet)], wait_for_applications_running=False)
    except TimeoutError as error:  # of its proxies, which are waited for below
        _log.info("%s", error)
    except RayServeException as error:
        _end([kept] if kept else [])
        raise _refused(name, str(error)) from None
    # Until then, and if it fails, replicas of the former version run and may be started again.
    running = _wait(name, max(scale.least, 0), deadline, tell)
    _end(former)
    return Deployed(_answering(scale.least > 0, deadline), running)


def _wait(name: str, least: int, deadline: float, tell: Callable[[int, int, str], None]) -> int:
    """Returns how many replicas run when the application does."""
    from ray import serve

    while True:
        found = serve.status().applications.get(name)
        deployments = list(found.deployments.values()) if found is not None else []
        said = "; ".join(reason_of(each.message) for each in deployments if each.message)
        running = sum(int(each.replica_states.get("RUNNING", 0)) for each in deployments)
        if found is not None and found.status == "RUNNING":
            return running
        if found is not None and found.status == "DEPLOY_FAILED":
            raise _failed(name, said or reason_of(found.message))
        if time.monotonic() > deadline:
            raise LlmyardError(
                f"the endpoint {name} is not up in time: {said or 'Serve says nothing'}",
                "add nodes or ask for less in `scale`; raise `ready_seconds` if it only needs longer",
            )
        tell(min(running, least), max(1, least), said.partition("\n")[0])
        time.sleep(_LOOK_SECONDS)


def _refused(name: str, said: str) -> LlmyardError:
    other = re.search(r'being used by application "(.+?)"', said)
    if other is None:
        return LlmyardError(f"the endpoint {name} cannot be deployed: {reason_of(said)}", "see the log of Serve")
    return RequestError(
        f"another endpoint of the cluster, {other[1]}, answers already",
        f"set `endpoint: {other[1]}` to take its place: one answers on a cluster, with as many models as you like",
    )


def _failed(name: str, reason: str) -> LlmyardError:
    what, _, remedy = reason.partition("\n  remedy: ")  # a model's own error has one
    return LlmyardError(f"the endpoint {name} did not start: {what}", remedy or "check the checkpoints it shall serve")


def _answering(is_awake: bool, deadline: float) -> tuple[str, ...]:
    """Returns the URLs of the nodes that take requests, when each of them answers."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    is_local = str(options.host) in ("127.0.0.1", "localhost", "::1")
    while True:
        proxies = {node for node, state in serve.status().proxies.items() if str(state.value) == "HEALTHY"}
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in proxies]
        nodes.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
        urls = [url_of(str(options.host) if is_local else node["NodeManagerAddress"], options.port) for node in nodes]
        silent = {url: why for url in urls if is_awake and (why := _why_silent(url))}
        if urls and not silent:
            return tuple(urls)
        if time.monotonic() > deadline:
            said = "; ".join(f"{url}: {why}" for url, why in silent.items()) or "no node has a proxy that is well"
            raise LlmyardError(f"the endpoint runs, but does not answer: {said}", "see the log of Serve's proxies")
        time.sleep(_LOOK_SECONDS)


def _why_silent(url: str) -> str:
    """Returns why an endpoint's health is not told; "" if it is well."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/health", timeout=10) as answer:
            return "" if answer.status == 200 else f"status {answer.status}"
    except OSError as error:
        return str(error)


def _runs() -> bool:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _hook() -> str:
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    return str(WORKER_PROCESS_SETUP_HOOK_ENV_VAR)


def _environment() -> dict[str, Any]:
    """Returns what replicas take from this driver's job: its code, and what sets the variables that came with it. Not
    its working directory nor its submission id, which are others each time, and would replace all replicas.
    """
    import ray

    job: dict[str, Any] = dict(ray.get_runtime_context().runtime_env or {})
    modules, hook = job.get("py_modules"), job.get("env_vars", {}).get(_hook())
    found: dict[str, Any] = {"working_dir": None}  # else Serve gives them the job's
    return found | ({"py_modules": list(modules)} if modules else {}) | ({"env_vars": {_hook(): hook}} if hook else {})


def _replicas(name: str) -> int:
    """Returns how many replicas of an endpoint run."""
    from ray import serve

    found = serve.status().applications.get(name)
    deployments = found.deployments.values() if found is not None else ()
    return sum(int(each.replica_states.get("RUNNING", 0)) for each in deployments)


def _has_room_for(cpus: float) -> bool:
    """Returns whether a replica more can be started now, or by an autoscaler."""
    from ray._private.state import available_resources_per_node

    if math.isinf(capacity().get("CPU", 0.0)):
        return True
    return any(node.get("CPU", 0.0) >= cpus for node in available_resources_per_node().values())


class Keeper:
    """Holds the packages of an endpoint's replicas: Ray removes what nothing that lives was started with, and a replica
    that is started later, after all others were lost, must find them. Ends when the cluster's Serve has ended.
    """

    def __init__(self) -> None:
        threading.Thread(target=self._watch, name="serve-watch", daemon=True).start()

    def _watch(self) -> None:
        import ray

        misses = 0
        while misses < 2:  # one may be a head that comes up again
            time.sleep(_WATCH_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError):  # nobody knows while the head is away
                misses = 0 if _runs() else misses + 1
        ray.kill(ray.get_runtime_context().current_actor)


_WATCH_SECONDS = 15.0


def _keep_packages(name: str, environment: dict[str, Any]) -> str:
    """Starts a keeper for a version, and returns what it is called; "" where the cluster's image has the code."""
    import ray

    if "py_modules" not in environment:
        return ""
    packages = {key: value for key, value in environment.items() if value is not None}
    called = f"{_PREFIX}{name}/{secrets.token_hex(4)}"
    made: Any = ray.remote(num_cpus=0, max_restarts=-1)(Keeper)
    made.options(name=called, namespace=_NAMESPACE, lifetime="detached", runtime_env=packages).remote()
    return called


def _keepers(name: str) -> list[str]:
    import ray

    there = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    return [each for each in there if each.startswith(f"{_PREFIX}{name}/")]


def _end(keepers: Iterable[str]) -> None:
    import ray

    for called in keepers:
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(called, _NAMESPACE))
