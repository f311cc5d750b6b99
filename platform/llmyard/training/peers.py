"""The workers of one training run, seen from one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Peers:
    """A worker's rank among ``world``; collective calls do nothing when it is alone.

    Attributes:
        group: torch's process group; None for that of all workers.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @classmethod
    def current(cls) -> Peers:
        """Returns the place among all workers, if torch's process group was started."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @classmethod
    def of(cls, group: Any) -> Peers:
        """Returns the place in a process group."""
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def apart(self) -> Peers:
        """Returns all workers in a new group whose calls do not mix with others, on the CPU; a collective call.

        Messages of a background thread in the training's own group would meet those of training itself.
        """
        return Peers.of(dist.new_group(backend="gloo")) if self.world > 1 else self

    def sum(self, *values: float) -> list[float]:
        """Returns the sums of the values over all workers."""
        if self.world == 1:
            return list(values)
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, group=self.group)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all workers, by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.group)
        return found

    def sum_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Adds up tensors of all workers in place, in one message."""
        if self.world == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=self.group)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, parts, strict=True):
            tensor.copy_(summed.view_as(tensor))
