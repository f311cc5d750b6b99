"""A job followed to its end: its output as it comes, through lost connections, each line once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from llmyard.core.errors import LlmyardError
from llmyard.core.submission import Submission, Unseen
from llmyard.runtime.submission import Dashboard, Failed, Missing, Unreachable

PATIENCE_SECONDS = 600.0
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
_CONNECT_SECONDS = 20.0
_QUIET_SECONDS = 60.0  # without a word, after which is asked whether the job still runs


def follow(
    dashboard: Dashboard,
    submission_id: str,
    show: Callable[[str], None],
    notice: Callable[[str, bool], None] = lambda why, lost: None,
    patience: float = PATIENCE_SECONDS,
) -> Submission:
    """Shows what a job writes until it has ended, and returns it.

    The dashboard sends the log from its beginning to every new connection; what was shown before is passed over. At the
    end the log is asked for as a whole once more, for the dashboard also closes the connection as if all had been said
    when the node that it reads from is gone.

    Args:
        dashboard: Of its cluster.
        submission_id: Of the job.
        show: Takes the text.
        notice: Told when the connection is lost, with the reason, and when it is back.
        patience: Seconds without an answer after which it is given up.

    Raises:
        RequestError: The token is refused, or the cluster does not know the job.
        LlmyardError: The cluster does not answer any more; the job may still run.
    """
    unseen = Unseen()
    waited = Waiting(dashboard.url, patience, notice)

    def came(text: str) -> None:
        waited.answered()
        show(unseen.take(text))

    while True:
        try:
            unseen.again()
            asyncio.run(_tail(dashboard, submission_id, came))
        except _dropped() as error:
            waited.failed(str(error) or type(error).__name__)
        try:
            state = dashboard.job(submission_id)
            waited.answered()
        except Missing:
            raise LlmyardError(
                f"the cluster at {dashboard.url} does not know {submission_id} any more: its head was started anew",
                "submit the job again: it goes on from what is finished",
            ) from None
        except (Unreachable, Failed) as error:
            waited.failed(error.what.rpartition(": ")[2])
        else:
            if not state.is_alive:
                unseen.again()
                show(unseen.take(_whole(dashboard, submission_id, notice)))
                return state
        waited.pause()


def _whole(dashboard: Dashboard, submission_id: str, notice: Callable[[str, bool], None]) -> str:
    """Returns all that an ended job has written; "" where nobody can tell any more."""
    for pause in _PAUSES:
        try:
            return dashboard.logs(submission_id)
        except (Unreachable, Failed) as error:
            why = error.what
            time.sleep(pause)
    notice(why, True)
    return ""


class Waiting:
    """How long a cluster has not answered, and when it is asked again."""

    def __init__(self, url: str, patience: float, notice: Callable[[str, bool], None]) -> None:
        self._url, self._patience, self._notice = url, patience, notice
        self._since: float | None = None
        self._tries = 0

    def failed(self, why: str) -> None:
        """Takes a failure; raises LlmyardError when there were failures only for too long."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._notice(why, True)
        elif now - self._since > self._patience:
            raise LlmyardError(
                f"the cluster at {self._url} has not answered for {self._patience / 60:.0f} minutes: {why}",
                "the job may still run: see `llmyard jobs status` when it is back",
            )
        self._tries += 1

    def answered(self) -> None:
        """Takes an answer."""
        if self._since is not None:
            self._notice("", False)
        self._since, self._tries = None, 0

    def pause(self) -> None:
        """Waits before the next try, longer after more failures."""
        time.sleep(_PAUSES[min(self._tries, len(_PAUSES) - 1)])


async def _tail(dashboard: Dashboard, submission_id: str, show: Callable[[str], None]) -> None:
    """Shows the log from its beginning until the dashboard closes the connection."""
    import aiohttp

    url = f"{dashboard.url}/api/jobs/{quote(submission_id, safe='')}/logs/tail"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with (
        aiohttp.ClientSession(headers=dashboard.headers(), timeout=timeout, trust_env=True) as session,
        session.ws_connect(url, max_msg_size=0) as connection,
    ):
        _keep_alive(connection.get_extra_info("socket"))
        while True:
            coming = asyncio.ensure_future(connection.receive())
            while not (await asyncio.wait((coming,), timeout=_QUIET_SECONDS))[0]:
                if not (await asyncio.to_thread(dashboard.job, submission_id)).is_alive:
                    return  # a proxy between may hold a connection of which the other end is gone
            message = coming.result()
            if message.type == aiohttp.WSMsgType.TEXT:
                show(message.data)
            elif message.type == aiohttp.WSMsgType.ERROR:
                raise ConnectionError(str(connection.exception()))
            else:
                return


def _keep_alive(connection: Any) -> None:
    """Has the kernel find out that the other end is gone: the dashboard answers no pings of the protocol's own."""
    if connection is not None and hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _dropped() -> tuple[type[BaseException], ...]:
    import aiohttp

    return (aiohttp.ClientError, OSError, TimeoutError)
