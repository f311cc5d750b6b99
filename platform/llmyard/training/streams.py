"""What a run's micro-batches are made of: one objective over one view, or several in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmyard.tokens.mixture import Draws, Phase
from llmyard.tokens.order import Order
from llmyard.tokens.views import View
from llmyard.training import config
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

    def micro_batches(self, step: int, batch: config.Batch, peers: Peers) -> list[MicroBatch]:
        """Returns a worker's micro-batches of a step: every ``world``-th.

        Within a global batch of one stream the samples are sorted by length before they are divided: less padding, the
        same for any number of workers, and the mean over the global batch is untouched.
        """
        count = batch.size // batch.micro_batch
        mine = range(peers.rank, count, peers.world)
        if self._draws is None:
            (stream,) = self.streams
            places = [stream.order[sample] for sample in range(step * batch.size, (step + 1) * batch.size)]
            places.sort(key=lambda place: stream.view.length(place.shard, place.row))
            size = batch.micro_batch
            return [
                MicroBatch(step * count + at, stream.objective, stream.batch(places[at * size : (at + 1) * size]))
                for at in mine
            ]
        made = []
        for at in mine:
            number, size = step * count + at, batch.micro_batch
            turn, index = self._draws[number]
            stream = self.streams[turn]
            places = [stream.order[sample] for sample in range(index * size, (index + 1) * size)]
            made.append(MicroBatch(number, stream.objective, stream.batch(places)))
        return made

    def state(self, peers: Peers) -> list[dict[str, Any]]:
        """Returns what the objectives of all workers remember; a collective call."""
        merged: list[dict[str, Any]] = []
        for stream in self.streams:
            own = stream.objective.state()
            everyone = peers.gather(own) if stream.objective.remembers else [own]
            merged.append({key: value for each in everyone for key, value in each.items()})
        return merged

    def load(self, state: Sequence[dict[str, Any]]) -> None:
        """Takes over what was remembered."""
        for stream, remembered in zip(self.streams, state, strict=True):
            stream.objective.load(remembered)
