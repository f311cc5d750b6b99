"""Finding passages by the words of a question: BM25 over an inverted index that lies in files.

A few million passages fit one machine: an index is five arrays that are mapped into memory, so it opens at once, and
all processes of a machine share one copy. Terms are 64-bit hashes (two of ten million collide with a chance of 3e-6),
so there is no vocabulary to be held.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmyard.core.compiled import F64, I32, I64, U8, U64, Number, compiled
from llmyard.core.errors import DataError
from llmyard.text.units import Units, units_of

FORMAT = 1
K1, B = 1.2, 0.75
BATCH = 20_000  # passages
_BATCH_CHARACTERS = 5_000_000  # a batch of long passages is cut before; Chinese ones are counted in 0.6 GB
_PARTS = 64  # of the range of hashes; one at a time is merged
_MOST = 255  # a term is counted up to it in a passage; its weight has long stopped growing
_ARRAYS = ("terms", "offsets", "passages", "counts", "lengths")
_MARK = "index.json"


@dataclass(frozen=True)
class Index:
    """Passages by the terms that they hold.

    Terms are lower-cased words; of scripts without spaces, such as Chinese, characters and pairs of neighbours.

    Attributes:
        ids: Of the passages, an Arrow array of strings.
        terms: (terms,) hashes, sorted.
        offsets: (terms + 1,) where each term's postings begin.
        passages: (postings,) places of passages, rising for each term.
        counts: (postings,) how often the term is in the passage, at most 255.
        lengths: (passages,) terms of each.
        k1: How slowly repeated terms stop counting, 0 or more.
        b: How much long passages are held back, 0 to 1.
    """

    ids: Any
    terms: U64
    offsets: I64
    passages: I32
    counts: U8
    lengths: I32
    k1: float = K1
    b: float = B

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """Returns the ids and scores of the best passages, best first, of equal ones the earlier first.

        BM25 (Robertson and Zaragoza 2009, equation 3.15): the sum over the query's terms, repeated ones again, of
        ``idf * tf / (tf + k1 * (1 - b + b * length / mean length))``, where ``idf`` is
        ``ln(1 + (N - df + 0.5) / (df + 0.5))``, which is never negative.

        Args:
            query: A question or some words.
            k: How many at most; passages without any term of the query are no results.

        Raises:
            DataError: k is below 1.
        """
        return next(self._search([query], k))

    def search_many(self, queries: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """Returns what :meth:`search` does, for each query.

        Raises:
            DataError: No queries, or k is below 1.
        """
        if not queries:
            raise DataError("there are no queries to search for", "give one or more")
        return list(self._search(queries, k))

    @cached_property
    def _norms(self) -> F64:
        """What is added to a term's count below the line, for each passage."""
        return np.asarray(self.k1 * (1 - self.b + self.b * self.lengths / self.lengths.mean()))

    def _search(self, queries: Sequence[str], k: int) -> Iterator[list[tuple[str, float]]]:
        if k < 1:
            raise DataError(f"the best {k} passages", "ask for one or more")
        count = len(self.lengths)
        scores = np.zeros(count)
        hashes, owners = _terms_of(pa.array(queries, pa.large_string()))
        for query in range(len(queries)):
            asked, times = np.unique(hashes[owners == query], return_counts=True)
            places = np.minimum(np.searchsorted(self.terms, asked), len(self.terms) - 1)
            known = self.terms[places] == asked
            scores.fill(0)
            for place, repeated in zip(places[known].tolist(), times[known].tolist(), strict=True):
                low, high = int(self.offsets[place]), int(self.offsets[place + 1])
                weight = repeated * np.log(1 + (count - (high - low) + 0.5) / (high - low + 0.5))
                _add(self.passages, self.counts, low, high, weight, self._norms, scores)
            yield [(str(self.ids[place]), float(scores[place])) for place in _best(scores, k)]


def build_index(
    passages: Iterable[tuple[str, str]], folder: str | Path, *, k1: float = K1, b: float = B, batch: int = BATCH
) -> Index:
    """Writes the index of passages into a folder, and returns it.

    Memory: up to 0.6 GB for a batch of passages, then a 64th of the postings at a time. Disk: 5 bytes a posting (a
    different term in a passage), twice that while it is made. A million English passages of 100 words have some 80
    million postings, as many Chinese ones of 300 characters 340 million; a core indexes some 8 and 2 MB of text a
    second, and finds the best of 100,000 passages in 2 ms.

    Args:
        passages: Ids and texts, read once.
        folder: Is made; what is in it already is replaced.
        k1: As in :class:`Index`.
        b: As in :class:`Index`.
        batch: Passages that are counted at a time.

    Raises:
        DataError: No passages, none with words, an id twice, or a k1 or b that cannot be.
    """
    if k1 < 0 or not 0 <= b <= 1:
        raise DataError(f"BM25 with k1 {k1} and b {b}", "give a k1 of 0 or more, and a b from 0 to 1")
    home = Path(folder)
    (home / _MARK).unlink(missing_ok=True)
    spool = home / "making"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    lengths: list[I32] = []
    runs: list[_Run] = []
    with pq.ParquetWriter(home / "ids.parquet", pa.schema([("id", pa.large_string())])) as writer:
        for ids, texts in _batches(passages, batch):
            writer.write_table(pa.table({"id": pa.array(ids, pa.large_string())}))
            run, sizes = _spool(texts, sum(map(len, lengths)), spool / str(len(runs)))
            runs.append(run)
            lengths.append(sizes)
    if not lengths or not sum(int(each.sum()) for each in lengths):
        raise DataError(f"{sum(map(len, lengths))} passages hold no words", "check where the passages come from")
    ids = pq.read_table(home / "ids.parquet")["id"]
    if (different := pc.count_distinct(ids).as_py()) < len(ids):
        raise DataError(f"{len(ids) - different} passages have the id of another", "give each an id of its own")
    np.save(home / "lengths.npy", np.concatenate(lengths))
    _merge(runs, home)
    shutil.rmtree(spool)
    # Written last: a folder without it holds no whole index.
    (home / _MARK).write_text(json.dumps({"format_version": FORMAT, "k1": k1, "b": b, "passages": len(ids)}))
    return load_index(home)


def load_index(folder: str | Path, *, mapped: bool = True) -> Index:
    """Returns the index that :func:`build_index` wrote into a folder.

    Args:
        folder: On this machine.
        mapped: Whether pages of the files are read when a query needs them; otherwise all are read now.

    Raises:
        DataError: There is no whole index, or it is of another format.
    """
    home = Path(folder)
    try:
        about = json.loads((home / _MARK).read_text())
    except FileNotFoundError:
        raise DataError(f"{home} holds no whole index", "build it (again) with build_index") from None
    if about["format_version"] != FORMAT:
        raise DataError(
            f"the index in {home} has format {about['format_version']}, this version reads {FORMAT}", "build it anew"
        )
    mode: Literal["r"] | None = "r" if mapped else None
    arrays = {name: np.load(home / f"{name}.npy", mmap_mode=mode, allow_pickle=False) for name in _ARRAYS}
    ids = pq.read_table(home / "ids.parquet")["id"].combine_chunks()
    return Index(ids, k1=about["k1"], b=about["b"], **arrays)


@dataclass(frozen=True, slots=True)
class _Run:
    """The postings of a batch, sorted by term, in files of plain numbers.

    Attributes:
        stem: Of the files' names.
        terms: (parts + 1,) where the terms of each part of the range of hashes begin.
        postings: (parts + 1,) where their postings begin.
    """

    stem: Path
    terms: I64
    postings: I64

    def read(self, name: str, kind: type, part: int) -> npt.NDArray[Any]:
        """Returns a part of a file; no file stays open, for there may be hundreds of runs."""
        cuts = self.terms if name in ("terms", "sizes") else self.postings
        low, high = int(cuts[part]), int(cuts[part + 1])
        return np.fromfile(f"{self.stem}.{name}", kind, high - low, offset=low * np.dtype(kind).itemsize)


def _batches(passages: Iterable[tuple[str, str]], size: int) -> Iterator[tuple[list[str], list[str]]]:
    ids: list[str] = []
    texts: list[str] = []
    characters = 0
    for name, text in passages:
        ids.append(name)
        texts.append(text)
        characters += len(text)
        if len(ids) >= size or characters >= _BATCH_CHARACTERS:
            yield ids, texts
            ids, texts, characters = [], [], 0
    if ids:
        yield ids, texts


def _terms_of(texts: Any) -> tuple[U64, I64]:
    """Returns the terms of an Arrow array of texts, and the place of the text that each is of, rising."""
    units = units_of(pc.utf8_normalize(texts, "NFKC"))  # full-width letters and digits become usual ones
    owners = np.repeat(np.arange(len(texts)), np.diff(units.offsets))
    pairs, pair_owners = _pairs(units, owners)
    order = np.argsort(np.concatenate([owners, pair_owners]), kind="stable")
    return np.concatenate([units.hashes, pairs])[order], np.concatenate([owners, pair_owners])[order]


def _pairs(units: Units, owners: I64) -> tuple[U64, I64]:
    """Returns the pairs of neighbours that are single characters: words of one letter are few enough to join in."""
    single = units.characters == 1
    joined = np.flatnonzero(single[:-1] & single[1:] & (owners[:-1] == owners[1:]))
    mixed = units.hashes[joined] * np.uint64(0x9E3779B97F4A7C15) + units.hashes[joined + 1]
    return (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9), owners[joined]


def _spool(texts: Sequence[str], first: int, stem: Path) -> tuple[_Run, I32]:
    """Writes a batch's postings, and returns them with its passages' lengths."""
    hashes, owners = _terms_of(pa.array(texts, pa.large_string()))
    order = np.argsort(hashes, kind="stable")  # owners stay in rising order within a term
    hashes, places = hashes[order], owners[order]
    new_term = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    new_posting = np.append(True, (hashes[1:] != hashes[:-1]) | (places[1:] != places[:-1]))[: len(hashes)]
    starts = np.flatnonzero(new_posting)
    term_starts = np.searchsorted(starts, np.flatnonzero(new_term))
    terms, sizes = hashes[new_term], np.diff(np.append(term_starts, len(starts)))
    terms.tofile(f"{stem}.terms")
    sizes.astype(np.int64).tofile(f"{stem}.sizes")
    (places[starts] + first).astype(np.int32).tofile(f"{stem}.passages")
    np.minimum(np.diff(np.append(starts, len(hashes))), _MOST).astype(np.uint8).tofile(f"{stem}.counts")
    edges = np.arange(_PARTS, dtype=np.uint64) << np.uint64(64 - _PARTS.bit_length() + 1)
    cuts = np.append(np.searchsorted(terms, edges), len(terms))
    run = _Run(stem, cuts, np.append(0, np.cumsum(sizes))[cuts])
    return run, np.bincount(owners, minlength=len(texts)).astype(np.int32)


def _merge(runs: Sequence[_Run], home: Path) -> None:
    """Writes one inverted index of all runs, part by part of the range of hashes."""
    total = sum(int(run.postings[-1]) for run in runs)
    passages = np.lib.format.open_memmap(home / "passages.npy", "w+", np.int32, (total,))
    counts = np.lib.format.open_memmap(home / "counts.npy", "w+", np.uint8, (total,))
    all_terms, all_sizes, at = [], [], 0
    for part in range(_PARTS):
        terms = np.concatenate([run.read("terms", np.uint64, part) for run in runs])
        sizes = np.concatenate([run.read("sizes", np.int64, part) for run in runs])
        if not len(terms):
            continue
        # Stable: of equal terms those of earlier runs come first, so passages stay in rising order.
        order = np.argsort(terms, kind="stable")
        begins = np.append(0, np.cumsum(sizes))[:-1][order]
        terms, sizes = terms[order], sizes[order]
        shifts = begins - np.append(0, np.cumsum(sizes))[:-1]
        taken = np.arange(int(sizes.sum())) + np.repeat(shifts, sizes)
        end = at + len(taken)
        passages[at:end] = np.concatenate([run.read("passages", np.int32, part) for run in runs])[taken]
        counts[at:end] = np.concatenate([run.read("counts", np.uint8, part) for run in runs])[taken]
        at = end
        new = np.flatnonzero(np.append(True, terms[1:] != terms[:-1]))
        all_terms.append(terms[new])
        all_sizes.append(np.add.reduceat(sizes, new))
    passages.flush()
    counts.flush()
    np.save(home / "terms.npy", np.concatenate(all_terms))
    np.save(home / "offsets.npy", np.append(0, np.cumsum(np.concatenate(all_sizes))))


def _best(scores: F64, k: int) -> list[int]:
    """Returns the places of the k highest scores above 0, of equal ones the earlier first."""
    found = np.flatnonzero(scores)
    if len(found) > k:
        least = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= least]
    return heapq.nsmallest(k, found.tolist(), key=lambda place: (-scores[place], place))


@compiled
def _add(passages: I32, counts: U8, low: int, high: int, weight: float, norms: F64, scores: F64) -> Number:
    for at in range(low, high):
        passage, times = passages[at], np.float64(counts[at])
        scores[passage] += weight * times / (times + norms[passage])
