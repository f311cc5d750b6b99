"""Sources mixed by shares that may change during training: closed form, so that any sample is found without the rest.

A phase is cut into rounds. In a round each source has a quota, the difference of its rounded cumulative count at the
round's end and at its start: over time the quotas follow the shares exactly, and no count is ever carried along. The
places of a round are permuted, so that the sources lie mixed in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from math import lcm

from llmyard.core.errors import DataError
from llmyard.core.seeds import mix
from llmyard.tokens.config import Mixture
from llmyard.tokens.order import DataOrder, Order, Permutation, Place

MIN_ROUND = 1024
DOMAIN, GENERAL = "domain", "general"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with constant shares.

    Attributes:
        samples: Its length; None for the last, which has no end.
        shares: How often each source is drawn, relative to each other; 0 leaves a source out.
    """

    samples: int | None
    shares: Mapping[str, float]

    def normalized(self) -> dict[str, float]:
        """Returns the shares as numbers that add up to one."""
        total = sum(self.shares.values())
        return {name: share / total for name, share in self.shares.items()}


class Draws:
    """Which source each global sample is drawn from, and which of that source's own samples it is.

    Counts of a source at the end of any round differ by less than one from its share of the phase so far.

    Args:
        phases: In order; all name the same sources.
        seed: Of the places in a round.
    """

    def __init__(self, phases: Sequence[Phase], seed: int) -> None:
        self.sources = sorted(phases[0].shares)
        self._seed = seed
        self._begins = [0, *accumulate(phase.samples for phase in phases[:-1] if phase.samples is not None)]
        self._rates = [_Rates.of(phase, self.sources) for phase in phases]
        used = [0] * len(self.sources)
        self._before = [used]
        for phase, rates in zip(phases[:-1], self._rates, strict=False):
            assert phase.samples is not None, "only the last phase is endless"
            ends = rates.cumulative(phase.samples)
            used = [count + high - low for count, low, high in zip(used, [0, *ends], ends, strict=False)]
            self._before.append(used)
        self._lengths = [phase.samples for phase in phases]
        self._round = lru_cache(maxsize=8)(self._lay_out)

    def __getitem__(self, sample: int) -> tuple[int, int]:
        """Returns (index in ``sources``, number within that source) of a global sample."""
        phase, index, within = self._find(sample)
        places, edges, firsts = self._round(phase, index)
        slot = places[within]
        source = bisect_right(edges, slot) - 1
        return source, firsts[source] + slot - edges[source]

    def around(self, sample: int) -> list[tuple[int, int]]:
        """Returns for each source its number of samples before the round of ``sample``, and after it."""
        phase, index, _ = self._find(sample)
        places, edges, firsts = self._round(phase, index)
        quotas = [high - low for low, high in pairwise([*edges, len(places)])]
        return [(first, first + quota) for first, quota in zip(firsts, quotas, strict=True)]

    def _find(self, sample: int) -> tuple[int, int, int]:
        """Returns phase, round and place in the round of a global sample."""
        phase = bisect_right(self._begins, sample) - 1
        at, length, size = sample - self._begins[phase], self._lengths[phase], self._rates[phase].round
        # A rest too short for a round of its own belongs to the last one.
        index = at // size if length is None else min(at // size, max(1, length // size) - 1)
        return phase, index, at - index * size

    def _lay_out(self, phase: int, index: int) -> tuple[Permutation, list[int], list[int]]:
        """Returns a round's permutation, where each source's slots begin in it, and the sources' first numbers."""
        rates, length = self._rates[phase], self._lengths[phase]
        start = index * rates.round
        is_last = length is not None and index == max(1, length // rates.round) - 1
        end = length if is_last and length is not None else start + rates.round
        low, high = rates.cumulative(start), rates.cumulative(end)
        edges = [0, *(after - before for before, after in zip(low, high, strict=True))]
        taken = [after - before for before, after in zip([0, *low], low, strict=False)]
        firsts = [one + two for one, two in zip(self._before[phase], taken, strict=True)]
        return Permutation(end - start, mix(self._seed, phase, index)), edges[:-1], firsts


@dataclass(frozen=True, slots=True)
class _Rates:
    """Cumulative shares as exact fractions of one denominator, and the size of a round."""

    numerators: list[int]
    denominator: int
    round: int

    @classmethod
    def of(cls, phase: Phase, sources: Sequence[str]) -> _Rates:
        shares = [Fraction(str(phase.shares[name])) for name in sources]
        total = sum(shares)
        sums = [each / total for each in accumulate(shares)]
        denominator = lcm(*(each.denominator for each in sums))
        # With one sample a round at least for each source, no quota is ever negative.
        rarest = min(share for share in shares if share > 0) / total
        return cls([int(each * denominator) for each in sums], denominator, max(MIN_ROUND, -(-1 // rarest)))

    def cumulative(self, samples: int) -> list[int]:
        """Returns for each source how many of so many samples it and those before it have."""
        return [samples * numerator // self.denominator for numerator in self.numerators]


class DrawnOrder:
    """Maps a global sample number to its place: several endless orders in turn, by draws.

    Args:
        draws: Which order a sample is of.
        orders: By the names of ``draws.sources``; None for one that is never drawn.
        shards: Of each order, the numbers of its shards among all.
        samples_per_epoch: Samples of all shards; in as many draws an order comes more or less often than once.
    """

    def __init__(
        self, draws: Draws, orders: Sequence[Order | None], shards: Sequence[Sequence[int]], samples_per_epoch: int
    ) -> None:
        self._draws, self._orders, self._shards = draws, orders, shards
        self.samples_per_epoch = samples_per_epoch

    def __getitem__(self, sample: int) -> Place:
        source, number = self._draws[sample]
        order = self._orders[source]
        assert order is not None, "a source without samples has no quota"
        place = order[number]
        return Place(place.epoch, self._shards[source][place.shard], place.row)

    def shards_ahead(self, sample: int, count: int) -> list[int]:
        """Returns the shards that ``count`` samples from ``sample`` on are read from, the soonest needed first."""
        ahead: list[list[int]] = []
        begins, ends = self._draws.around(sample), self._draws.around(sample + count)
        for order, shards, (low, _), (_, high) in zip(self._orders, self._shards, begins, ends, strict=True):
            if order is not None and high > low:
                ahead.append([shards[shard] for shard in order.shards_ahead(low, high - low)])
        longest = max(map(len, ahead), default=0)
        return [each[at] for at in range(longest) for each in ahead if at < len(each)]


class MixedOrder(DrawnOrder):
    """Maps a global sample number to its place, sources mixed by shares; each source has an endless order of its own.

    Args:
        rows: Samples in each shard.
        sources: The source of each shard.
        phases: The shares; a source that they do not name is not drawn.
        seed: Of all permutations.
        window: As for :class:`DataOrder`, in samples of one source.
        segment: As for :class:`DataOrder`.

    Raises:
        DataError: A source with a share has no samples.
    """

    def __init__(
        self, rows: Sequence[int], sources: Sequence[str], phases: Sequence[Phase], seed: int,
        window: int = 65_536, segment: int = 4096,
    ) -> None:  # fmt: skip
        draws = Draws(phases, mix(seed, -1))
        every: list[list[int]] = []
        orders: list[DataOrder | None] = []
        for number, name in enumerate(draws.sources):
            shards = [shard for shard, source in enumerate(sources) if source == name]
            own = [rows[shard] for shard in shards]
            if not sum(own) and any(phase.shares[name] > 0 for phase in phases):
                raise DataError(
                    f"source {name!r} has a share, but no samples", "give it the share 0, or prepare more text of it"
                )
            every.append(shards)
            orders.append(DataOrder(own, mix(seed, number), window, segment=segment) if sum(own) else None)
        super().__init__(draws, orders, every, sum(rows))


def replayed(domain: Order, general: Order, shards: tuple[int, int], share: float, seed: int) -> DrawnOrder:
    """Returns an order over the shards of two corpora, those of the domain first.

    Args:
        domain: Order of the domain's samples.
        general: Order of the general ones.
        shards: How many shards the domain has, and how many the general corpus.
        share: How many of all samples are general ones: exactly so over time.
        seed: Of the turns.
    """
    shares = {DOMAIN: float(1 - Fraction(str(share))), GENERAL: share}
    samples = domain.samples_per_epoch + general.samples_per_epoch
    numbers = (range(shards[0]), range(shards[0], sum(shards)))
    return DrawnOrder(Draws([Phase(None, shares)], mix(seed, -2)), (domain, general), numbers, samples)


def phases_of(
    mixture: Mixture | None, sizes: Mapping[str, int], weights: Mapping[str, float], samples: int
) -> tuple[Phase, ...]:
    """Returns a run's phases; none where every source is drawn by its size, which needs no mixture.

    Args:
        mixture: The run's settings.
        sizes: How much of each source there is.
        weights: How many times as often as its size a source is drawn where the mixture gives no shares; 1 by default.
        samples: Of the whole run.
    """
    curriculum = mixture.curriculum if mixture is not None else ()
    shares = mixture.shares if mixture is not None else None
    if shares is None:
        if not curriculum and len({weights.get(name, 1.0) for name in sizes}) <= 1:
            return ()
        shares = {name: weights.get(name, 1.0) * size for name, size in sizes.items()}
    ends = [round(phase.until * samples) for phase in curriculum]
    lengths = [end - begin for begin, end in pairwise([0, *ends])]
    early = [Phase(length, phase.shares) for length, phase in zip(lengths, curriculum, strict=True)]
    return (*early, Phase(None, shares))
