"""What a cluster's Serve runs, told and ended through its dashboard: plain HTTP, without Ray in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.runtime.submission import Dashboard, Failed, Unreachable
from llmyard.serving.config import url_of

_APPLICATIONS = "/api/serve/applications/"
_END_SECONDS = 180.0  # replicas first answer what they have begun


@dataclass(frozen=True)
class Running:
    """An application of a cluster's Serve.

    Attributes:
        name: Of the endpoint.
        status: As Serve has it: ``DEPLOYING``, ``RUNNING``, ``UNHEALTHY``, ``DEPLOY_FAILED``, ``DELETING``.
        replicas: That run.
        wanted: Replicas that there are to be now.
        urls: Of the nodes that take requests.
        deployed: When it was deployed, in seconds since 1970.
        said: What Serve says of it; "" if nothing.
    """

    name: str
    status: str
    replicas: int
    wanted: int
    urls: tuple[str, ...]
    deployed: float
    said: str


def running(dashboard: Dashboard) -> list[Running]:
    """Returns what the cluster's Serve runs; nothing if there is no Serve.

    Raises:
        RequestError: As of `Dashboard.read`.
    """
    return _running(dashboard, dashboard.read(_APPLICATIONS))


def _running(dashboard: Dashboard, found: Any) -> list[Running]:
    try:
        urls = _urls(found)
        return [
            Running(
                name=name,
                status=str(each["status"]),
                replicas=sum(_count(part) for part in each["deployments"].values()),
                wanted=sum(int(part["target_num_replicas"]) for part in each["deployments"].values()),
                urls=urls,
                deployed=float(each["last_deployed_time_s"]),
                said=str(each["message"] or ""),
            )
            for name, each in sorted(found["applications"].items())
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"{dashboard.url} tells of its Serve what llmyard does not understand: {error!r}",
            "is it a dashboard of Ray 2.60?",
        ) from None


def _urls(found: dict[str, Any]) -> tuple[str, ...]:
    options = found.get("http_options") or {}
    host, port = options.get("host"), options.get("port")
    if port is None:
        return ()
    nodes = [node["node_ip"] for node in (found.get("proxies") or {}).values() if node["status"] == "HEALTHY"]
    is_local = host in ("127.0.0.1", "localhost", "::1")
    return tuple(dict.fromkeys(url_of(str(host) if is_local else node, int(port)) for node in nodes))


def _count(part: dict[str, Any]) -> int:
    return sum(replica["state"] == "RUNNING" for replica in part["replicas"])


def end(dashboard: Dashboard, name: str, tell: Callable[[int], None]) -> None:
    """Ends an endpoint, and with it the cluster's Serve: the next `deploy` starts both. What it has begun to answer is
    answered first.

    Args:
        dashboard: The cluster's.
        name: Of the endpoint.
        tell: Takes how many replicas still run, each time that it has become less.

    Raises:
        RequestError: There is none of this name, or the cluster's Serve runs something else too.
        LlmyardError: It does not end in time.
    """
    there = running(dashboard)
    if name not in [each.name for each in there]:
        known = ", ".join(each.name for each in there)
        raise RequestError(
            f"the cluster at {dashboard.url} has no endpoint {name!r}",
            f"there is: {known}" if known else "nothing is deployed there",
        )
    others = [each.name for each in there if each.name != name]
    if others:
        # Ray's dashboard ends all or nothing.
        raise RequestError(
            f"the cluster's Serve runs {', '.join(others)} too, which would end with {name}",
            f"in a program that is connected to the cluster: from ray import serve; serve.delete({name!r})",
        )
    until, last = time.monotonic() + _END_SECONDS, -1
    with contextlib.suppress(Failed, Unreachable):  # it waits for a while, and tells of a Serve that is gone as a fault
        dashboard.ask("DELETE", _APPLICATIONS, timeout=_END_SECONDS)
    while time.monotonic() < until:
        with contextlib.suppress(Failed, Unreachable):
            found = dashboard.read(_APPLICATIONS)
            left = sum(each.replicas for each in _running(dashboard, found))
            # Its proxies end last: a `deploy` before that would be ended with them.
            if not found["applications"] and not found.get("proxies"):
                return
            if left != last:
                tell(left)
            last = left
        time.sleep(1)
    raise LlmyardError(f"{name} has not ended after {_END_SECONDS:.0f} s", "see the log of Serve, and call this again")
