"""The text that a job reads: its own corpus, and where it asks for that, general text beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmyard.core.errors import DataError
from llmyard.stages.config import Pretrain
from llmyard.tokens.mixture import DOMAIN, GENERAL, DrawnOrder, MixedOrder, Phase, replayed
from llmyard.tokens.order import DataOrder, Order
from llmyard.tokens.prefetch import prefetching
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.views import View

if TYPE_CHECKING:
    from llmyard.stages.training import TrainJob
    from llmyard.tokens.stored import Readable


@dataclass(frozen=True)
class Corpora:
    """One split of a job's corpus, and of the general one.

    Attributes:
        all: All shards, those of the job's own corpus first.
        own: How many of them are its own.
    """

    all: ShardSet
    own: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many shards are the job's own, and how many general ones."""
        return self.own, len(self.all.shards) - self.own

    def parts(self) -> dict[str, ShardSet]:
        """Returns what is judged apart: the domain and the general text, and the sources of either where several."""
        shards = self.all.shards
        if self.own == len(shards):
            return self._sources(shards, "")
        found: dict[str, ShardSet] = {}
        for name, some in ((DOMAIN, shards[: self.own]), (GENERAL, shards[self.own :])):
            found |= {name: ShardSet("", self.all.split, shards=some), **self._sources(some, f"{name}/")}
        return found

    def _sources(self, shards: Sequence[Readable], prefix: str) -> dict[str, ShardSet]:
        names = sorted({shard.source for shard in shards if shard.source})
        return {
            f"{prefix}{name}": ShardSet("", self.all.split, shards=[each for each in shards if each.source == name])
            for name in (names if len(names) > 1 else ())
        }


def joined(job: TrainJob, split: str) -> Corpora:
    """Returns the shards of a split."""
    own = ShardSet.of(job.shards, split)
    if job.replay is None:
        return Corpora(own, len(own.shards))
    general = ShardSet.of(job.replay, split)
    return Corpora(ShardSet("", split, shards=[*own.shards, *general.shards]), len(own.shards))


def order_of(job: TrainJob, corpora: Corpora, view: View, shards: ShardSet) -> Order:
    """Returns the order of a job's samples; shards on remote storage are fetched ahead of it."""
    sources, own, seed = [shard.source for shard in shards.shards], corpora.own, job.config.seed
    order = _order(view.rows[:own], sources[:own], job.phases, seed)
    if job.replay is not None:
        _refuse_empty(job, corpora, view)
        general = _order(view.rows[own:], sources[own:], job.replay_phases, seed)
        order = _mixed(job, corpora, order, general)
    return prefetching(order, shards)


def order_as_stored(job: TrainJob, corpora: Corpora, view: View, shards: ShardSet) -> Order:
    """Returns the order in which samples are stored; with general ones among them as in training."""
    if job.replay is None:
        return DataOrder(view.rows, 0, shuffle=False)
    _refuse_empty(job, corpora, view)
    own, general = (DataOrder(rows, 0, shuffle=False) for rows in (view.rows[: corpora.own], view.rows[corpora.own :]))
    return _mixed(job, corpora, own, general)


def _order(rows: Sequence[int], sources: Sequence[str], phases: Sequence[Phase], seed: int) -> Order:
    return MixedOrder(rows, sources, phases, seed) if phases else DataOrder(rows, seed)


def _mixed(job: TrainJob, corpora: Corpora, own: Order, general: Order) -> DrawnOrder:
    assert isinstance(job.config, Pretrain)
    assert job.config.replay is not None
    return replayed(own, general, corpora.counts, job.config.replay.share, job.config.seed)


def _refuse_empty(job: TrainJob, corpora: Corpora, view: View) -> None:
    """Raises DataError if one of the two corpora has no sample: its share could not be drawn."""
    assert job.replay is not None
    parts = ((job.shards, view.rows[: corpora.own]), (job.replay, view.rows[corpora.own :]))
    for artifact, rows in parts:
        if not sum(rows):
            raise DataError(
                f"split {corpora.all.split!r} of {artifact.reference} has no shard of one sequence",
                "prepare more text, or set a smaller sequence_length",
            )
