"""What a run's micro-batches are made of: one objective over one view, or several in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmyard.tokens.mixture import Draws, Phase
from llmyard.tokens.order import Order
from llmyard.tokens.views import View
from llmyard.training.objectives import Batch, Objective
from llmyard.training.peers import Peers


@dataclass(frozen=True)
class Stream:
    """Samples in their order, and what is learned from them."""

    objective: Objective
    view: View
    order: Order

    def batch(self, places: Iterable[Any]) -> Batch:
        """Returns the samples of some places as a batch."""
        return self.objective.collate([self.view(place.shard, place.row, place.epoch) for place in places])


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass.

    Attributes:
        number: Among all micro-batches of the run; its random seed is made of it.
        objective: What is learned from it.
        batch: Its tensors.
    """

    number: int
    objective: Objective
    batch: Batch

    @property
    def targets(self) -> int:
        """What its loss sums over."""
        return self.objective.targets(self.batch)

    @property
    def tokens(self) -> int:
        """What the model reads, and writes where that is not the same."""
        read = self.batch["source"].numel() if "source" in self.batch else 0
        return read + self.objective.labels(self.batch).numel()


class Streams:
    """One or several streams; each micro-batch is of one, by weights that hold exactly over time.

    Args:
        streams: At least one.
        weights: How often a micro-batch is of each.
        seed: Of the turns they take.
    """

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float] = (1.0,), seed: int = 0) -> None:
        self.streams = tuple(streams)
        shares = {f"{number:04d}": weight for number, weight in enumerate(weights)}
        self._draws = Draws([Phase(None, shares)], seed) if len(self.streams) > 1 else None

    def micro_batches(self, first: int, count: int, size: int, peers: Peers) -> list[MicroBatch]:
        """Returns a worker's micro-batches of a step: every ``world``-th.

        Within a global batch of one stream the samples are sorted by length before they are divided: less padding, the
        same for any number of workers, and the mean over the global batch is untouched.

        Args:
            first: Number of the step's first micro-batch among all of the run.
            count: Micro-batches of the step.
            size: Samples of a micro-batch.
            peers: Who divides them.
        """
        mine = range(peers.rank, count, peers.world)
        if self._draws is None:
            (stream,) = self.streams
            places = [stream.order[sample] for sample in range(first * size, (first + count) * size)]
            places.sort(key=lambda place: stream.view.length(place.shard, place.row))
            return [
                MicroBatch(first + at, stream.objective, stream.batch(places[at * size : (at + 1) * size]))
                for at in mine
            ]
        made = []
        for at in mine:
            number = first + at
            turn, index = self._draws[number]
            stream = self.streams[turn]
            places = [stream.order[sample] for sample in range(index * size, (index + 1) * size)]
            made.append(MicroBatch(number, stream.objective, stream.batch(places)))
        return made

    def state(self) -> dict[str, Tensor]:
        """Returns what the objectives of this worker remember, by names that no other worker has."""
        return {
            f"{number}/{key}/{place}": tensor
            for number, stream in enumerate(self.streams)
            for key, tensors in stream.objective.state().items()
            for place, tensor in enumerate(tensors)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what all workers remembered."""
        for number, stream in enumerate(self.streams):
            if not stream.objective.remembers:
                continue
            remembered: dict[str, list[Tensor]] = {}
            for name in sorted(state, key=lambda name: [int(part) for part in name.split("/")]):
                at, key, _ = name.split("/")
                if int(at) == number:
                    remembered.setdefault(key, []).append(state[name])
            stream.objective.load(remembered)
