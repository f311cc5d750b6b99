"""How surprising a text is to a small n-gram model: word salad and gibberish surprise it more than good texts do.

The model counts n-grams of units (``units.py``: characters in Chinese, words in English) in tables of fixed size, so
the counts of portions add up and memory is flat. Longer n-grams are smoothed by shorter ones in a hierarchy of
Dirichlet priors (MacKay and Peto 1995): P(w|h) = (c(hw) + a P(w|h')) / (c(h) + a), which needs sums only. Kneser-Ney
would need numbers of different neighbours, and those of portions do not add up. The weights ``a`` come from the counts
(Good 1953): new n-grams are as frequent as those that were seen once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmyard.core.compiled import F64, I64, U32, U64, Number, compiled
from llmyard.core.errors import DataError, RequestError
from llmyard.text.config import Perplexity
from llmyard.text.units import Units, mix, units_of

FORMAT = 1
# A unit never seen is one of so many: languages have about a million word forms.
_UNSEEN = 1 << 20
_BINS, _BINS_A_BIT = 1280, 32


@dataclass(frozen=True)
class Model:
    """Counts of n-grams, and how surprising the texts were that it was measured on.

    Attributes:
        counts: For n = 1, 2 ... a row of counters, each of which n-grams of equal hash share.
        units: How many units were counted.
        measured: Language to a histogram of texts over log2 of the perplexity, 32 bins a bit.
    """

    counts: U32
    units: int
    measured: Mapping[str, I64] = field(default_factory=dict)

    def __add__(self, other: Model) -> Model:
        """Returns the model of both portions.

        Raises:
            RequestError: Their tables differ in shape.
        """
        if self.counts.shape != other.counts.shape:
            shapes = f"{self.counts.shape} and {other.counts.shape}"
            raise RequestError(f"n-gram models of {shapes} cannot be added", "train both with the same order and bits")
        both = self.counts + other.counts
        both[both < self.counts] = np.iinfo(np.uint32).max
        return Model(both, self.units + other.units, _added(self.measured, other.measured))

    @cached_property
    def filled(self) -> float:
        """Share of the counters of the longest n-grams that are in use; above a half, many n-grams are confused."""
        return float(np.count_nonzero(self.counts[-1]) / self.counts.shape[1])

    @cached_property
    def weights(self) -> F64:
        """The weight ``a`` of the shorter n-gram, for every length; for single units that of all unseen ones."""
        once = [int(np.count_nonzero(row == 1)) for row in self.counts]
        contexts = [np.unique(row[row > 0], return_counts=True) for row in self.counts[:-1]]
        return np.array(
            [max(once[0], 1.0), *(_weight(*pair, seen) for pair, seen in zip(contexts, once[1:], strict=True))]
        )

    def measure(self, units: Units, languages: Any) -> Model:
        """Returns the model with the perplexity of texts *it was trained on* added to its histograms.

        A text is measured with its own n-grams taken out of the counts. Histograms of portions add up, too, as long as
        all are measured by the whole model.

        Args:
            units: Of the texts.
            languages: Arrow column of their languages.
        """
        values = _perplexity(units, self, leave_out=True)
        bins = _bin(values)
        names = np.asarray(languages.to_pylist(), object)
        found = {
            str(name): np.bincount(bins[(names == name) & np.isfinite(values)], minlength=_BINS).astype(np.int64)
            for name in sorted(set(names.tolist()))
        }
        return replace(self, measured=_added(self.measured, found))

    def quantile(self, language: str, share: float) -> float:
        """Returns the perplexity that a share of the measured texts of a language does not exceed.

        Raises:
            DataError: No text of the language was measured.
        """
        histogram = self.measured.get(language, np.zeros(0, np.int64))
        if not histogram.sum():
            known = ", ".join(sorted(name for name, counts in self.measured.items() if counts.sum())) or "none"
            raise DataError(
                f"the perplexity of no text in {language!r} was measured; measured languages: {known}",
                "give reference texts in that language, or name an absolute limit",
            )
        place = int(np.searchsorted(np.cumsum(histogram), share * histogram.sum()))
        return float(2.0 ** ((place + 1) / _BINS_A_BIT))

    def save(self, file: str | Path) -> None:
        """Writes the model as a numpy archive."""
        languages = sorted(self.measured)
        histograms = [self.measured[name] for name in languages]
        np.savez_compressed(
            file, format_version=FORMAT, counts=self.counts, units=self.units, languages=np.array(languages, "U16"),
            histograms=np.array(histograms, np.int64).reshape(len(languages), _BINS),
        )  # fmt: skip

    @classmethod
    def load(cls, file: str | Path) -> Model:
        """Returns the model that :meth:`save` wrote.

        Raises:
            DataError: It is of another format.
        """
        with np.load(file, allow_pickle=False) as data:
            if int(data["format_version"]) != FORMAT:
                raise DataError(
                    f"{file} has format {data['format_version']}, this version reads {FORMAT}", "train the model anew"
                )
            measured = dict(zip(data["languages"].tolist(), data["histograms"], strict=True))
            return cls(data["counts"], int(data["units"]), measured)


def train(units: Units, config: Perplexity) -> Model:
    """Returns the counts of texts; those of several portions are added with ``+``."""
    return _counted(units, config.order, config.bits)


def _counted(units: Units, order: int, bits: int) -> Model:
    counts = np.zeros((order, 1 << bits), np.uint32)
    _count(units.hashes, units.offsets, counts, bits)
    return Model(counts, len(units.hashes))


def model_of(config: Perplexity) -> Model:
    """Returns the model of the reference texts, measured on themselves; that of a process stays in memory.

    Raises:
        RequestError: A file cannot be read.
    """
    return _trained(config.reference, config.order, config.bits)


@cache
def _trained(reference: tuple[str, ...], order: int, bits: int) -> Model:
    from llmyard.text.examples import texts_of
    from llmyard.text.language import identify

    texts = texts_of(reference)
    units = units_of(texts)
    return _counted(units, order, bits).measure(units, identify(texts).language)


def perplexity(units: Units, model: Model) -> F64:
    """Returns the perplexity of each text, a unit; NaN for one without units."""
    return _perplexity(units, model, leave_out=False)


def judge_perplexity(units: Units, languages: Any, model: Model, config: Perplexity) -> Any:
    """Returns for each text ``high_perplexity``, or null; texts of languages without a limit stay.

    Args:
        units: Of the texts.
        languages: Arrow column of their languages.
        model: Measured, where the config names quantiles.
        config: The limits.

    Raises:
        DataError: No text of a language was measured for which a quantile is given.
    """
    limits = {**config.max_perplexity}
    limits |= {language: model.quantile(language, share) for language, share in config.max_quantile.items()}
    names = languages.to_pylist()
    limit = np.array([limits.get(name, np.inf) for name in names], np.float64)
    with np.errstate(invalid="ignore"):
        failed = perplexity(units, model) > limit
    return pa.array(np.where(failed, "high_perplexity", ""), pa.string(), mask=~failed)


def _added(first: Mapping[str, I64], second: Mapping[str, I64]) -> dict[str, I64]:
    nothing = np.zeros(_BINS, np.int64)
    return {name: first.get(name, nothing) + second.get(name, nothing) for name in sorted({*first, *second})}


def _bin(values: F64) -> npt.NDArray[np.int64]:
    bits = np.log2(np.where(np.isfinite(values), values, 1.0))
    return np.clip((bits * _BINS_A_BIT).astype(np.int64), 0, _BINS - 1)


def _weight(contexts: U32, times: I64, once: int) -> float:
    """Returns the ``a`` with which new n-grams are expected as often as there are n-grams that were seen once.

    Args:
        contexts: Different counts of the shorter n-grams.
        times: How many of them have each count.
        once: N-grams that were seen once.
    """
    counts = contexts.astype(np.float64)
    low, high = 1e-3, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = float((times * counts * middle / (counts + middle)).sum())
        low, high = (middle, high) if expected < once else (low, middle)
    return low


def _perplexity(units: Units, model: Model, leave_out: bool) -> F64:
    counts = model.counts.copy() if leave_out else model.counts
    bits = counts.shape[1].bit_length() - 1
    return _surprise(units.hashes, units.offsets, counts, bits, model.weights, float(model.units), leave_out)


@compiled
def _extended(value: Number, unit: Number) -> Number:
    """Returns the hash of an n-gram with one more unit before it."""
    return mix(value * np.uint64(0x9E3779B97F4A7C15) + unit)


@compiled
def _count(hashes: U64, offsets: I64, counts: U32, bits: int) -> None:
    shift = np.uint64(64 - bits)
    for text in range(len(offsets) - 1):
        _add(hashes, offsets[text], offsets[text + 1], counts, shift, np.uint32(1))


@compiled
def _add(hashes: U64, low: Number, high: Number, counts: U32, shift: Number, step: Number) -> None:
    for at in range(low, high):
        value = np.uint64(0)
        for order in range(min(len(counts), at - low + 1)):
            value = _extended(value, hashes[at - order])
            counts[order, value >> shift] += step


@compiled
def _surprise(hashes: U64, offsets: I64, counts: U32, bits: int, weights: F64, units: float, leave_out: bool) -> F64:
    shift = np.uint64(64 - bits)
    orders = len(counts)
    result = np.full(len(offsets) - 1, np.nan)
    context = np.zeros(orders + 1, np.float64)
    for text in range(len(offsets) - 1):
        low, high = offsets[text], offsets[text + 1]
        if low == high:
            continue
        total = units
        if leave_out:
            total -= high - low
            _add(hashes, low, high, counts, shift, np.uint32(0xFFFFFFFF))  # minus one, in 32 bits
        surprise = 0.0
        context[:] = 0.0
        for at in range(low, high):
            value = np.uint64(0)
            chance, most = 1.0 / _UNSEEN, total
            context[0] = total
            before = context[0]
            for order in range(min(orders, at - low + 1)):
                if before == 0.0:  # so are all longer ones, and the shorter n-grams decide
                    break
                value = _extended(value, hashes[at - order])
                # Counters are shared. An n-gram is no more frequent than what it begins and ends with, which tells
                # most of those that never came, and without a look at the table.
                if most > 0.0:
                    most = min(most, before, np.float64(counts[order, value >> shift]))
                chance = (most + weights[order] * chance) / (before + weights[order])
                before = context[order + 1]
                context[order + 1] = most
            surprise -= np.log(chance)
        if leave_out:
            _add(hashes, low, high, counts, shift, np.uint32(1))
        result[text] = np.exp(surprise / (high - low))
    return result
