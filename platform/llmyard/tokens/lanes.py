"""Contiguous lanes: each place of a batch goes on where it was a step before, for models with a memory.

Transformer-XL (Dai et al. 2019) carries hidden states from segment to segment; lane *b* of *B* therefore reads its own
stretch of the whole token stream, segment after segment, epoch after epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError
from llmyard.tokens.order import Place
from llmyard.tokens.shards import ShardSet


@dataclass(frozen=True, slots=True)
class LanePlace:
    """Where a segment begins.

    Attributes:
        epoch: How often the lane was read before.
        shard: The shard of its first token; the segment may go on in the next one.
        start: Its first token there.
        fresh: Whether it begins a new stream: memories of the segment before must be dropped.
    """

    epoch: int
    shard: int
    start: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class LaneSegment:
    """One segment of a lane.

    Attributes:
        tokens: ``segment_length + 1`` ids: inputs and, one further, their targets.
        lane: Whose memory it goes on from.
        fresh: Whether it begins a new stream: the lane's memory must be dropped.
    """

    tokens: npt.NDArray[Any]
    lane: int
    fresh: bool


class LaneView:
    """Segments addressed by lane and number; in the terms of :class:`View`, a lane is a shard.

    All lanes have as many tokens, so they begin anew at the same step; fewer than ``lanes`` tokens at the stream's end
    and less than a segment at each lane's end are not read.

    Args:
        shards: The stream, shard after shard.
        lanes: The global batch size.
        segment_length: Tokens of a segment.

    Attributes:
        steps_per_epoch: Segments of a lane.

    Raises:
        DataError: A lane would not hold one segment.
    """

    def __init__(self, shards: ShardSet, lanes: int, segment_length: int) -> None:
        self._shards, self.lanes, self._length = shards, lanes, segment_length
        self._ends = np.cumsum([shard.tokens for shard in shards.shards])
        self._stretch = shards.tokens // lanes
        self.steps_per_epoch = max(0, self._stretch - 1) // segment_length
        if not self.steps_per_epoch:
            raise DataError(
                f"split {shards.split!r} has {shards.tokens} tokens, too few for {lanes} lanes of one segment of "
                f"{segment_length}",
                "prepare more text, or set a smaller batch or segment length",
            )
        self.rows = [self.steps_per_epoch] * lanes

    def place(self, step: int, lane: int) -> LanePlace:
        """Returns where a lane's segment of a step begins."""
        epoch, row = divmod(step, self.steps_per_epoch)
        at = lane * self._stretch + row * self._length
        shard = self.shard_at(at)
        return LanePlace(epoch, shard, at - self._before(shard), row == 0)

    def shard_at(self, token: int) -> int:
        """Returns the shard that holds a token of the stream."""
        return int(np.searchsorted(self._ends, token, side="right"))

    def tokens_of(self, lane: int, low: int, high: int) -> tuple[int, int]:
        """Returns the first and last token of the stream that a lane reads in segments ``low`` to ``high - 1``."""
        return lane * self._stretch + low * self._length, lane * self._stretch + high * self._length

    def __call__(self, shard: int, row: int, epoch: int = 0) -> LaneSegment:
        where = self.place(row, shard)
        parts, wanted = [], self._length + 1
        number, start = where.shard, where.start
        while wanted:
            reader = self._shards.shards[number]
            taken = min(wanted, reader.tokens - start)
            if taken:
                parts.append(reader.read(start, taken))
            wanted, number, start = wanted - taken, number + 1, 0
        return LaneSegment(parts[0] if len(parts) == 1 else np.concatenate(parts), shard, where.fresh)

    def length(self, shard: int, row: int) -> int:
        """Returns the segment length, the same for all."""
        return self._length

    def _before(self, shard: int) -> int:
        return int(self._ends[shard - 1]) if shard else 0


class LaneOrder:
    """The order of a :class:`LaneView`: sample ``step * lanes + lane`` is that step's segment of that lane.

    With a global batch of as many samples as lanes, a lane stays in the same place of every batch, and so on the same
    worker as long as their number stays.
    """

    def __init__(self, view: LaneView) -> None:
        self._view = view

    @property
    def samples_per_epoch(self) -> int:
        """Segments of all lanes."""
        return self._view.lanes * self._view.steps_per_epoch

    def __getitem__(self, sample: int) -> Place:
        step, lane = divmod(sample, self._view.lanes)
        epoch, row = divmod(step, self._view.steps_per_epoch)
        return Place(epoch, lane, row)

    def shards_ahead(self, sample: int, count: int) -> list[int]:
        """Returns the shards that ``count`` samples from ``sample`` on are read from, the soonest needed first."""
        view = self._view
        step, end = sample // view.lanes, -(-(sample + count) // view.lanes)
        found: dict[int, None] = {}
        while step < end:
            row = step % view.steps_per_epoch
            rows = min(end - step, view.steps_per_epoch - row)
            spans = [view.tokens_of(lane, row, row + rows) for lane in range(view.lanes)]
            ranges = [range(view.shard_at(first), view.shard_at(last) + 1) for first, last in spans]
            for at in range(max(map(len, ranges))):
                found.update(dict.fromkeys(each[at] for each in ranges if at < len(each)))
            step += rows
        return list(found)
