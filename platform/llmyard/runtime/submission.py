"""A Ray cluster behind its dashboard's address: the Jobs API, what runs there, and what there is to run on.

Plain HTTP: none of it needs Ray in this process, and each refusal becomes one message that says what to do.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.submission import Submission, packed
from llmyard.runtime.capacity import starts_nodes

PORT = 8265
LEAST_PYTHON = (3, 11)
_TIMEOUT = 30.0
_UPLOAD_TIMEOUT = 600.0
_AWAY = (502, 503, 504)  # of a proxy before the dashboard, or of one that is just coming up
_WORKER = re.compile(r"--python_worker_command=(.+?) \S*setup_worker\.py ")
_START_SECONDS = 60.0  # the dashboard is there before the first node
_STATS_SECONDS = 20.0  # after a node's start until it tells its command line
_SIZE_LIMIT = 100 << 20  # of one request


class Unreachable(RequestError):
    """Nothing answers at the address, or nothing at the moment."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for the address that was given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Node:
    """A node that lives.

    Attributes:
        resources: All that it has, by Ray's names.
    """

    id: str
    is_head: bool
    resources: Mapping[str, float]


class Dashboard:
    """A cluster's dashboard.

    Args:
        address: ``http://HOST:8265``, or the host alone.

    Attributes:
        url: The address with scheme and port.
    """

    def __init__(self, address: str) -> None:
        self.url = normalized(address)
        self._token = token()

    def headers(self) -> dict[str, str]:
        """Returns what every request carries: the token, if there is one."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def check_versions(self) -> None:
        """Raises RequestError if the cluster's Ray or Python is not one that llmyard runs on."""
        ours, theirs = importlib.metadata.version("ray"), str(self.read("/api/version", "ray_version"))
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise RequestError(
                f"the cluster at {self.url} runs Ray {theirs}, this llmyard needs {'.'.join(ours.split('.')[:2])}",
                f"start the cluster with Ray {ours}, or submit with the llmyard that is made for its Ray",
            )
        python = str(self.read("/api/v0/cluster_metadata", "data", "pythonVersion"))
        if tuple(int(part) for part in python.split(".")[:2]) < LEAST_PYTHON:
            least = ".".join(map(str, LEAST_PYTHON))
            raise RequestError(
                f"the cluster at {self.url} runs Python {python}, llmyard needs {least} or later",
                f"start the cluster from an image with Python {least}",
            )

    def nodes(self) -> list[Node]:
        """Returns the nodes that live; of a cluster that is just starting as soon as there is one.

        Raises:
            RequestError: There is still none.
        """
        until = time.monotonic() + _START_SECONDS
        while True:
            rows = self.read("/api/v0/nodes?detail=1&limit=10000", "data", "result", "result")
            found = [
                Node(row["node_id"], bool(row["is_head_node"]), dict(row["resources_total"] or {}))
                for row in rows
                if row["state"] == "ALIVE"
            ]
            if found:
                return found
            if time.monotonic() > until:
                raise Unreachable(f"the cluster at {self.url} has no node yet", "try again when it is up")
            time.sleep(1)

    def is_autoscaled(self) -> bool:
        """Returns whether an autoscaler may start more nodes; how many and which, the dashboard does not tell."""
        report = (self.read("/api/cluster_status", "data").get("clusterStatus") or {}).get("autoscalerReport")
        if report:
            return starts_nodes(report.get("nodeTypeMapping") or {})
        # The autoscaler of the second version reports elsewhere; all nodes that it looks after have a type.
        rows = self.read("/nodes?view=summary", "data", "summary")
        return any((row.get("raylet") or {}).get("nodeTypeName") for row in rows)

    def interpreter(self, nodes: Iterable[Node]) -> str | None:
        """Returns the Python that the head's workers run in; None if the dashboard does not tell.

        A job's driver is a shell command: a plain `python` there is the first one of the head's PATH, which may be
        another than the one that Ray, and llmyard beside it, are installed in. The node's own process was started with
        the path of the right one, and the dashboard shows that process's command line.
        """
        head = next((node.id for node in nodes if node.is_head), "")
        until = time.monotonic() + _STATS_SECONDS
        while head:
            detail = self.read(f"/nodes/{head}", "data").get("detail") or {}
            for part in [*((detail.get("raylet") or {}).get("cmdline") or ()), *(detail.get("cmdline") or ())]:
                found = _WORKER.match(part)
                if found is not None:
                    return found[1]
            if time.monotonic() > until:
                break
            time.sleep(1)
        return None

    def jobs(self) -> list[Submission]:
        """Returns the jobs that were submitted, the newest first."""
        rows = self.read("/api/jobs/")
        found = [Submission.parse(row) for row in rows if row.get("type") == "SUBMISSION"]
        return sorted(found, key=lambda each: each.started, reverse=True)

    def job(self, submission_id: str) -> Submission:
        """Returns a job.

        Raises:
            RequestError: There is none of this id.
        """
        found = Submission.parse(self.read(_path(submission_id)))
        if not found.id:
            raise RequestError(f"{submission_id} was not submitted: it is a driver's own", "see `llmyard jobs list`")
        return found

    def find(self, given: str) -> Submission:
        """Returns the job of an id, or the only one whose id begins so; of several the only one that runs.

        Raises:
            RequestError: There is none, or there are several.
        """
        there = self.jobs()
        found = [each for each in there if each.id == given] or [each for each in there if each.id.startswith(given)]
        found = [each for each in found if each.is_alive] if len(found) > 1 else found
        if len(found) != 1:
            known = ", ".join(each.id for each in there[:8]) or "none"
            what = (
                "is the beginning of several jobs" if any(each.id.startswith(given) for each in there) else "is no job"
            )
            raise RequestError(f"{given!r} {what} of {self.url}", f"there are: {known}")
        return found[0]

    def logs(self, submission_id: str) -> str:
        """Returns all that a job's driver has written."""
        return str(self.read(_path(submission_id, "/logs"), "logs"))

    def submit(self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Any) -> bool:
        """Submits a job; returns False if there is one of this id already (which Ray answers with an error 500)."""
        asked = {"submission_id": submission_id, "entrypoint": entrypoint, "metadata": metadata}
        body = json.dumps({**asked, "runtime_env": runtime_env}).encode()
        try:
            self.ask("POST", "/api/jobs/", body)
        except Failed as failed:
            if "already exists" in failed.body:
                return False
            raise
        return True

    def stop(self, submission_id: str) -> None:
        """Asks a job to stop; it gets some time to save where it is."""
        self.ask("POST", _path(submission_id, "/stop"))

    def delete(self, submission_id: str) -> None:
        """Removes an ended job from the list."""
        self.ask("DELETE", _path(submission_id))

    def upload(self, files: Mapping[str, bytes]) -> str:
        """Sends files unless the cluster has them already, and returns their address for a runtime environment."""
        data = packed(files)
        if len(data) > _SIZE_LIMIT:
            raise RequestError(
                f"what the job takes along has {len(data) / 1e6:.0f} MB, a cluster takes {_SIZE_LIMIT / 1e6:.0f}",
                "install large packages in the cluster's image",
            )
        name = f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip"
        try:
            self.ask("GET", f"/api/packages/gcs/{name}")
        except Missing:
            self.ask("PUT", f"/api/packages/gcs/{name}", data, timeout=_UPLOAD_TIMEOUT)
        return f"gcs://{name}"

    def read(self, path: str, *keys: str) -> Any:
        """Returns the JSON that the cluster answers with, or what stands there under the keys."""
        try:
            found = json.loads(self.ask("GET", path))
            for key in keys:
                found = found[key]
            return found
        except (ValueError, KeyError, TypeError):
            raise self._no_dashboard(f"{path} answers with something else") from None

    def ask(self, method: str, path: str, body: bytes | None = None, timeout: float = _TIMEOUT) -> bytes:
        """Returns what the cluster answers a request with.

        Raises:
            Unreachable: Nothing answers.
            RequestError: The token is refused, there is no such thing, or it is no dashboard.
            Failed: The cluster could not do it.
        """
        headers = self.headers() | ({"Content-Type": "application/json"} if method == "POST" else {})
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with _opener.open(request, timeout=timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error, path) from None
        except (OSError, http.client.HTTPException) as error:
            # A connection that was closed without an answer is one of these too, and may do better the next time.
            if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
                raise self._no_dashboard("it does not speak HTTP") from None
            raise Unreachable(
                f"no Ray cluster answers at {self.url}: {_why(error)}",
                f"give the dashboard's address, http://HEAD:{PORT}; is the cluster up, and the port reachable or "
                "forwarded from here?",
            ) from None

    def _refusal(self, error: urllib.error.HTTPError, path: str) -> LlmyardError:
        said = error.read().decode("utf-8", "replace")
        if error.code == 401:
            return RequestError(
                f"the cluster at {self.url} asks for a token"
                + (", and does not know the one that was sent" if self._token else ", and none was found here"),
                "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to the file that holds it; who runs the cluster has it",
            )
        if error.code == 403:
            return RequestError(
                f"the cluster at {self.url} refuses the token from {token_source()}: {_first_line(said)}",
                "it is another cluster's token, an old one, or has no right to this namespace: ask who runs the "
                "cluster",
            )
        if error.code in _AWAY:
            return Unreachable(f"the cluster at {self.url} is not there yet: {error.code} {error.reason}", "try again")
        if error.code == 404 and path.startswith("/api/jobs/") and "does not exist" in said:
            return Missing(f"{self.url} knows no job {path.split('/')[3]}", "see `llmyard jobs list`")
        if error.code == 404 and path.startswith("/api/packages/"):
            return Missing(_first_line(said))
        if error.code == 404 or 300 <= error.code < 400:
            return self._no_dashboard(f"{path} gives {error.code} {error.reason}")
        return Failed(f"the cluster at {self.url} failed at {path}: {error.code} {_last_line(said)}", said)

    def _no_dashboard(self, why: str) -> RequestError:
        return RequestError(
            f"{self.url} is no dashboard of Ray: {why}", f"give the dashboard's address, such as http://HEAD:{PORT}"
        )


def _path(submission_id: str, end: str = "") -> str:
    return f"/api/jobs/{quote(submission_id, safe='')}{end}"


class Missing(RequestError):
    """The cluster has no such job or file."""


class Failed(LlmyardError):
    """The cluster could not do what it was asked."""

    def __init__(self, what: str, body: str = "") -> None:
        super().__init__(what, "see the cluster's dashboard and its head's log")
        self.body = body


def normalized(address: str) -> str:
    """Returns a dashboard's address with scheme and port, without a path.

    Raises:
        RequestError: It is another kind of address.
    """
    given = address if "://" in address else f"http://{address}"
    parts = urlsplit(given)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or "@" in parts.netloc:
        raise RequestError(
            f"--address {address.rpartition('@')[2]!r} is not a dashboard's address",
            f"give http://HEAD:{PORT}, or https:// of a proxy, without a password",
        )
    host = parts.netloc if port or "://" in address else f"{parts.netloc}:{PORT}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def token() -> str:
    """Returns the token for Ray's clusters, from where Ray itself takes it; "" if there is none.

    Raises:
        RequestError: The file that should hold it cannot be read.
    """
    source = token_source()
    if source is None:
        return ""
    if source == "RAY_AUTH_TOKEN":
        return os.environ[source].strip()
    path = _token_path()
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the token's file {path} cannot be read: {_why(error)}", f"check {source}") from None
    if not found:
        raise RequestError(f"the token's file {path} is empty", f"check {source}")
    return found


def token_source() -> str | None:
    """Returns what names the token; None if there is none."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return "~/.ray/auth_token" if _token_path().exists() else None


def _token_path() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _why(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "it takes too long"
    if isinstance(cause, socket.gaierror):
        return "there is no such host"
    if isinstance(cause, http.client.RemoteDisconnected):
        return "it closes the connection"
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "it says nothing")[:200]


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))
