"""Training states that a resumed run can trust: sharded, written in the background, the mark with checksums last.

The format is torch's distributed checkpoint in safetensors files: no pickles, and a state that some workers wrote is
read by any other number of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmyard.core.errors import TrainingError
from llmyard.core.storage import Storage, write_failed
from llmyard.training.peers import Peers

FORMAT_VERSION = 2
_PIECE = 1 << 22
# torch says so whenever one worker trains alone.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
_log = logging.getLogger("llmyard")


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files match their checksums.

    Attributes:
        step: Steps done.
        facts: What was saved beside the tensors.
        folder: Where its files lie on this machine.
        peers: The workers that read it together.
        lifetime: Keeps a copy from remote storage as long as this is held.
    """

    step: int
    facts: dict[str, Any]
    folder: Path
    peers: Peers
    lifetime: Any = field(default=None, repr=False)

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Returns the whole shape and the type of every tensor."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        written = HuggingFaceStorageReader(str(self.folder)).read_metadata().state_dict_metadata
        return {name: (each.size, each.properties.dtype) for name, each in written.items()}  # type: ignore[union-attr]

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Fills tensors, whole or divided, by their names; a collective call of ``peers``."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        reader = HuggingFaceStorageReader(str(self.folder))
        load(dict(into), storage_reader=reader, process_group=self.peers.group, no_dist=self.peers.world == 1)


class Checkpoints:
    """The checkpoints of one run, in ``folder`` of a storage; all calls but :meth:`collect` are collective.

    Args:
        storage: One that all workers see.
        folder: In it.
        fence: The lease's fencing number; it stands in every name, so that a late former owner overwrites nothing.
        peers: All workers; writing goes on in the background, in a process group of its own.
        keep: How many are kept, beside the best.

    Attributes:
        marked_at: When the last one got its mark, by ``time.monotonic``; before the first, when this was made.
    """

    def __init__(self, storage: Storage, folder: str, fence: int, peers: Peers | None = None, keep: int = 2) -> None:
        self._storage, self._folder, self._fence, self._keep = storage, folder, fence, keep
        self._peers = (peers or Peers()).apart()
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None
        self.marked_at = time.monotonic()

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], is_best: bool = False) -> None:
        """Copies the state reached after ``step`` steps, and writes it, then its mark, while training goes on.

        Waits for the one before it first. Older ones are removed when this one is marked.

        Args:
            step: Steps done.
            tensors: This worker's; those that all have in common are written once.
            facts: What JSON holds; rank 0's are kept.
            is_best: Keep it until there is a better one.

        Raises:
            LlmyardError: The one before could not be written.
        """
        self.wait()
        copied = _copied(tensors)
        self._writing = threading.Thread(
            target=self._try, args=(step, copied, dict(facts), is_best), name="checkpoint", daemon=True
        )
        self._writing.start()

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            LlmyardError: The last one could not be written.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def latest(self, best: bool = False) -> Saved | None:
        """Returns the newest checkpoint that is whole, or the best; None if there is none.

        One without mark does not exist; one that does not match its checksums is passed over for the one before, with a
        warning.
        """
        self.wait()
        names = self._peers.gather(self._marks() if self._peers.rank == 0 else None)[0]
        for name in reversed(names):
            mark = _read_mark(self._storage.read(f"{self._folder}/{name}") or b"") if self._peers.rank == 0 else None
            mark = self._peers.gather(mark)[0]
            if best and mark is not None and not mark["is_best"]:
                continue
            found = self._open(name.removesuffix(".json"), mark) if mark is not None else None
            if found is not None:
                return found
            if self._peers.rank == 0:
                _log.warning("checkpoint %s does not match its checksums: going on from the one before", name)
        return None

    def latest_alone(self, best: bool = False) -> Saved:
        """Returns what :meth:`latest` does for one worker that calls and reads it without the others.

        Raises:
            TrainingError: There is none.
        """
        alone = Checkpoints(self._storage, self._folder, self._fence)
        found = alone.latest(best)
        if found is None:
            raise TrainingError("the last checkpoint is gone", "run the same command again")
        return found

    def collect(self) -> None:
        """Removes what has no mark: a killed run leaves it. For one worker, before anything is written."""
        marked = {name.removesuffix(".json") for name in self._marks()}
        for name in self._storage.folders(self._folder):
            if name not in marked:
                self._storage.delete_folder(f"{self._folder}/{name}")

    def _open(self, name: str, mark: dict[str, Any]) -> Saved | None:
        peers, lifetime = self._peers, None
        if self._storage.is_local:
            folder = self._storage.local(self._folder, name)
            mine = sorted(mark["files"])[peers.rank :: peers.world]  # each worker looks at its share
        else:
            lifetime = tempfile.TemporaryDirectory(prefix="ly-checkpoint-")
            folder, mine = Path(lifetime.name), sorted(mark["files"])
            for each in mine:
                (folder / each).write_bytes(self._storage.read(f"{self._folder}/{name}/{each}") or b"")
        good = all(_facts_of(folder / each) == mark["files"][each] for each in mine)
        if not all(peers.gather(good)):
            return None
        return Saved(int(mark["step"]), dict(mark["facts"]), folder, peers, lifetime)

    def _try(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:
            self._error = self._told(error)

    def _told(self, error: BaseException) -> BaseException:
        """Returns what to tell of a failed write: torch packs every worker's error into one."""
        failures = getattr(error, "failures", None) or {}
        for cause in [error, *(each[0] for each in failures.values())]:
            if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
                return write_failed(f"{self._storage.uri}/{self._folder}", cause)
        return error

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], is_best: bool) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        peers = self._peers
        # A folder of its own each time: files of an earlier try, by more workers, would be read as parts of this one.
        name = f"{step:09d}-f{self._fence}-{peers.gather(uuid.uuid4().hex[:6])[0]}"
        with tempfile.TemporaryDirectory(prefix="ly-checkpoint-") as staging:
            if self._storage.is_local:
                folder = self._storage.local(self._folder, name)
                folder.mkdir(parents=True, exist_ok=True)
            else:
                folder = Path(staging)
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            save(tensors, storage_writer=writer, process_group=peers.group, no_dist=peers.world == 1)
            own = {file.name: _facts_of(file) for file in folder.glob(f"shard-{peers.rank + 1:05d}-*")}
            if not self._storage.is_local:
                for file in own:
                    self._storage.copy_in(folder / file, f"{self._folder}/{name}/{file}")
            files = {file: each for written in peers.gather(own) for file, each in written.items()}
        if peers.rank == 0:
            mark = {
                "format_version": FORMAT_VERSION, "step": step, "facts": facts, "is_best": is_best, "files": files,
            }  # fmt: skip
            body = json.dumps(mark, sort_keys=True)
            digest = hashlib.sha256(body.encode()).hexdigest()
            self._storage.write(f"{self._folder}/{name}.json", f"{digest}\n{body}".encode())
            self.marked_at = time.monotonic()
            self._prune()

    def _prune(self) -> None:
        """Removes all but the last ones and the newest best one, the marks first."""
        names = self._marks()
        marks = {name: _read_mark(self._storage.read(f"{self._folder}/{name}") or b"") for name in names}
        best = [name for name, mark in marks.items() if mark is not None and mark["is_best"]]
        for name in names[: -self._keep]:
            if name not in best[-1:]:
                self._storage.delete(f"{self._folder}/{name}")
                self._storage.delete_folder(f"{self._folder}/{name.removesuffix('.json')}")

    def _marks(self) -> list[str]:
        return [item.path for item in self._storage.list(self._folder) if item.path.endswith(".json")]


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies in this machine's memory, which training does not change any more."""
    from torch.distributed._state_dict_utils import _copy_state_dict, _create_cpu_state_dict

    there: dict[str, Any] = dict(tensors)
    copies = _create_cpu_state_dict(there)
    copied: dict[str, Tensor] = _copy_state_dict(there, copies, non_blocking=False)
    return copied


def _facts_of(file: Path) -> dict[str, Any] | None:
    """Returns a file's size and SHA-256; None if it is not there."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(file, "rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return None
    return {"size": size, "sha256": digest.hexdigest()}


def _read_mark(data: bytes) -> dict[str, Any] | None:
    """Returns a mark's content; None if it is not whole.

    Raises:
        TrainingError: It is whole, but of another format.
    """
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    mark: dict[str, Any] = json.loads(body)
    if mark["format_version"] != FORMAT_VERSION:
        raise TrainingError(
            f"a checkpoint has format {mark['format_version']}, this version reads {FORMAT_VERSION}",
            "go on with the version that wrote it, or run with --force to begin anew",
        )
    return mark
