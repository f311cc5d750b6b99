"""Training states that a resumed run can trust: the mark, with the checksum, is written last."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import torch

from llmyard.core.storage import Storage

KEEP = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in ``folder`` of a storage.

    Attributes:
        fence: The lease's fencing number; it stands in every file name, so that a late former owner overwrites nothing.
    """

    storage: Storage
    folder: str
    fence: int

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state reached after ``step`` steps, then its mark; older ones but the last two are removed.

        Args:
            step: Steps done.
            state: Tensors, numbers, strings and containers of them.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        name = f"{step:09d}-f{self.fence}"
        self.storage.write(f"{self.folder}/{name}.pt", data)
        mark = {"step": step, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.storage.write(f"{self.folder}/{name}.json", json.dumps(mark).encode())
        for old in self._marks()[:-KEEP]:
            self.storage.delete(f"{self.folder}/{old}")
            self.storage.delete(f"{self.folder}/{old.removesuffix('json')}pt")

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns (steps done, state) of the newest checkpoint that is whole; None if there is none.

        A checkpoint without mark, or that does not match its checksum, is passed over for the one before.
        """
        for name in reversed(self._marks()):
            mark = _read_mark(self.storage.read(f"{self.folder}/{name}") or b"{}")
            data = self.storage.read(f"{self.folder}/{name.removesuffix('json')}pt")
            if data is not None and mark and hashlib.sha256(data).hexdigest() == mark.get("sha256"):
                state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                return int(mark["step"]), state
        return None

    def _marks(self) -> list[str]:
        return [item.path for item in self.storage.list(self.folder) if item.path.endswith(".json")]


def _read_mark(data: bytes) -> dict[str, Any]:
    """Returns a mark's content; {} if it is not whole."""
    try:
        mark = json.loads(data)
    except ValueError:
        return {}
    return mark if isinstance(mark, dict) and isinstance(mark.get("step"), int) else {}
