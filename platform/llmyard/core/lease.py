"""A lease on work: one live owner at a time, on any filesystem, with fencing against a late former owner.

A claim is a file ``{fence:06d}-{token}.json``. The highest fence holds the lease. A claimant writes the next fence and
lists again: if it sees another claim of the same fence it withdraws and tries again, so two claimants that see each
other both withdraw and one that came late never wins; this needs listing after writing to be consistent and nothing
else (no locks, no conditional writes).
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from types import TracebackType

from llmyard.core.errors import Busy, LlmyardError
from llmyard.core.owner import is_alive, this_process
from llmyard.core.storage import Storage

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0


@dataclass(slots=True)
class Lease:
    """A held lease; a thread keeps it alive until :meth:`release`.

    Attributes:
        fence: Grows with each owner; what an owner with a smaller one writes is ignored.
        value: What the lease stands for (the version being made); kept from the former owner on a takeover.
        taken_over: Whether a dead owner held it before.
    """

    storage: Storage
    folder: str
    fence: int
    token: str
    value: str
    taken_over: bool
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def _claim(self) -> str:
        return f"{self.fence:06d}-{self.token}.json"

    def _beat(self) -> None:
        record = {"owner": this_process(), "value": self.value, "time": time.time()}
        self.storage.write(f"{self.folder}/{self._claim}", json.dumps(record).encode())

    def _keep_alive(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                if self._claim in _claims(self.storage, self.folder):  # else released by who took over
                    self._beat()
            except (LlmyardError, OSError):
                continue  # a full disk shall not end the owner; the commit checks the fence

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises Busy if another owner has taken the lease over."""
        claims = _claims(self.storage, self.folder)
        if not claims or claims[-1] != self._claim:
            raise Busy(
                f"another run has taken over {self.folder}", "this run's late result is dropped; use the other's"
            )

    def release(self) -> None:
        """Gives the lease back; the work is done or given up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for claim in _claims(self.storage, self.folder):
            if int(claim[:6]) <= self.fence:
                self.storage.delete(f"{self.folder}/{claim}")

    def abandon(self) -> None:
        """Stops the heartbeat and leaves the claim, so that the next run continues the work at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._claim not in _claims(self.storage, self.folder)[-1:]:
            return  # taken over: the claim that counts is another's
        record = {"owner": "", "value": self.value, "time": 0.0}
        self.storage.write(f"{self.folder}/{self._claim}", json.dumps(record).encode())

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def acquire(storage: Storage, folder: str, new_value: str, tries: int = 5) -> Lease:
    """Returns the lease on ``folder``, taking over what a dead owner left.

    Args:
        storage: Where the lease lives.
        folder: Its folder.
        new_value: What the lease shall stand for if nobody held it before.
        tries: How often to try again when two claimants meet.

    Raises:
        Busy: A live owner holds it.
    """
    for _ in range(tries):
        claims = _claims(storage, folder)
        value, former = new_value, claims[-1] if claims else None
        if former is not None:
            record = _read(storage, f"{folder}/{former}")
            if record is not None:
                if _lives(record):
                    raise Busy(
                        f"another run (process {record['owner']}) is making {folder.partition('/_making')[0]}",
                        "wait for it or stop it; if it is dead, it is taken over after "
                        f"{DEAD_AFTER_SECONDS:.0f} s without a sign of life",
                    )
                value = str(record["value"])
        fence = int(former[:6]) + 1 if former else 1
        lease = Lease(storage, folder, fence, uuid.uuid4().hex[:8], value, taken_over=former is not None)
        lease._beat()
        rivals = [claim for claim in _claims(storage, folder) if int(claim[:6]) >= fence]
        if rivals == [lease._claim]:
            lease.start()
            return lease
        storage.delete(f"{folder}/{lease._claim}")
        time.sleep(random.uniform(0.05, 0.3))
    raise Busy(f"several runs claim {folder} at once", "run the command again")


def claimed(storage: Storage, folder: str) -> str | None:
    """Returns what the lease stands for that somebody holds or died with; None if there is none."""
    claims = _claims(storage, folder)
    record = _read(storage, f"{folder}/{claims[-1]}") if claims else None
    return str(record["value"]) if record else None


def _claims(storage: Storage, folder: str) -> list[str]:
    return [item.path for item in storage.list(folder) if item.path.endswith(".json") and item.path[:6].isdigit()]


def _read(storage: Storage, path: str) -> dict[str, str | float] | None:
    data = storage.read(path)
    if data is None:
        return None
    try:
        record: dict[str, str | float] = json.loads(data)
    except ValueError:
        return None  # not whole: its owner is gone
    return record if isinstance(record, dict) and {"owner", "value", "time"} <= set(record) else None


def _lives(record: dict[str, str | float]) -> bool:
    if not record["owner"]:
        return False
    alive = is_alive(str(record["owner"]))
    return time.time() - float(record["time"]) < DEAD_AFTER_SECONDS if alive is None else alive
