"""Figures of a model on what it was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmyard.training.config import Training
from llmyard.training.layout import Layout
from llmyard.training.streams import Stream


@torch.no_grad()
def validate(
    layout: Layout, stream: Stream, config: Training, limit: int, beat: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Returns the mean figures over (at most ``limit``) samples, each worker taking its share.

    They are spread over all of the stream, whose first ones may be of one kind, such as the first file's. A stream that
    remembers is read from its beginning, and by one worker: what comes before decides what it says of the next.
    ``beat`` is called after each batch: a validation may take long.
    """
    model, readers = layout.model, layout.readers
    model.eval()
    there = stream.order.samples_per_epoch
    count = min(there, limit)
    samples = range(count) if stream.objective.remembers else [at * there // count for at in range(count)]
    size = config.batch.micro_batch
    rank, world = (readers.rank, readers.world) if not stream.objective.remembers else (0, 1)
    sums: dict[str, tuple[float, float]] = {}
    for turn in range(0, count, world * size):
        at = turn + rank * size
        if at >= count and not layout.is_even:
            break
        # Workers that share weights make the same number of passes; what is beyond the end is read for nothing.
        first = at if at < count else 0
        batch = stream.batch([stream.order[sample] for sample in samples[first : first + size]])
        found = stream.objective.measures(model, {name: tensor.to(layout.device) for name, tensor in batch.items()})
        beat()
        for name, (value, weight) in found.items() if at < count else ():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + value, before[1] + weight)
    if world > 1:
        everyone = readers.gather(sums)
        names = dict.fromkeys(name for each in everyone for name in each)
        sums = {
            name: tuple(map(sum, zip(*(each[name] for each in everyone if name in each), strict=True)))  # type: ignore[misc]
            for name in names
        }
    return {name: value / max(1.0, weight) for name, (value, weight) in sums.items()}
