"""Learns the pieces of a unigram tokenizer from counted words (Kudo 2018, section 3.2), the same ones every time.

Frequent runs of characters are the first pieces; expectation maximisation gives them probabilities; the quarter whose
loss costs least goes; and so on until few enough are left. The trainer of ``tokenizers`` does the same from documents,
but its result depends on the order in which a hash table is walked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmyard.core.compiled import F64, I32, I64, U64, Bools, Number, compiled
from llmyard.tokens.characters import Words

LONGEST = 16  # characters of a piece
_SEEDS = 1_000_000
_SHRINK = 0.75
_ITERATIONS = 2
_MIN_COUNT = 0.5  # expected occurrences below which a piece is dropped at once, as SentencePiece does
# Products of probabilities are not taken as logarithms: 32 characters at 1e-9 each still fit into a float.
_SPAN = 32


@dataclass
class Lattice:
    """Where pieces stand in the words.

    Attributes:
        starts: For each character, where its edges begin (one more than characters).
        lengths: Of each edge, in characters; edges of one character ascend.
        pieces: Of each edge.
    """

    starts: I64
    lengths: I32
    pieces: I32

    def keep(self, keep: Bools) -> Lattice:
        """Returns the lattice of the chosen pieces, which are numbered anew."""
        number = np.cumsum(keep, dtype=np.int32) - 1
        chosen = keep[self.pieces]
        before = np.append(0, np.cumsum(chosen, dtype=np.int64))
        return Lattice(before[self.starts], self.lengths[chosen], number[self.pieces[chosen]].astype(np.int32))


def learn_pieces(words: Words, size: int) -> list[tuple[str, float]]:
    """Returns at most ``size`` pieces with the logarithms of their probabilities, the likeliest first.

    Every character of the words is a piece. The work grows with the different words, not with the corpus.

    Args:
        words: Different words with their counts.
        size: At least the number of different characters.
    """
    spans = _spans(words)
    lattice, first, lengths, counts = _seeds(spans, size)
    single = lengths == 1
    weights = spans.counts.astype(np.float64)
    scores = np.log(counts / counts.sum())
    wanted = int(1.1 * size)
    while True:
        for _ in range(_ITERATIONS):
            expected = _expectations(spans.offsets, weights, lattice.starts, lattice.lengths, lattice.pieces,
                                     np.exp(scores))  # fmt: skip
            keep = single | (expected >= _MIN_COUNT)
            lattice, first, lengths, single = lattice.keep(keep), first[keep], lengths[keep], single[keep]
            scores = _sharpened(np.maximum(expected[keep], 1e-3))
        if len(scores) <= wanted:
            break
        losses = _losses(spans.offsets, weights, lattice.starts, lattice.lengths, lattice.pieces, scores, first,
                         lengths)  # fmt: skip
        losses[single] = np.inf
        target = max(wanted, int(_SHRINK * len(scores)), int(single.sum()))
        keep = np.zeros(len(scores), bool)
        keep[np.lexsort((np.arange(len(scores)), -losses))[:target]] = True
        lattice, first, lengths, single = lattice.keep(keep), first[keep], lengths[keep], single[keep]
        scores = scores[keep]
        if target == single.sum():
            break
    text = spans.points.tobytes().decode("utf-32-le")
    order = np.lexsort((first, -scores, ~single))[:size]
    pieces = [(text[first[at] : first[at] + lengths[at]], round(float(scores[at]), 6)) for at in order.tolist()]
    return sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def _spans(words: Words) -> Words:
    """Returns the words with long ones cut."""
    lengths = np.diff(words.offsets)
    parts = -(-lengths // _SPAN)
    numbers = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = np.repeat(words.offsets[:-1], parts) + numbers * _SPAN
    return Words(words.points, np.append(begins, len(words.points)), np.repeat(words.counts, parts))


def _seeds(words: Words, size: int) -> tuple[Lattice, I64, I32, F64]:
    """Returns the lattice of the first pieces; where each first stands, its length, how often it comes.

    A run of n characters can only be frequent if both runs of n - 1 in it are, so runs are counted length by length.
    """
    characters = len(words.points)
    weights = np.repeat(words.counts, np.diff(words.offsets))
    # How many characters of its span are left from each on.
    room = np.repeat(words.offsets[1:], np.diff(words.offsets)) - np.arange(characters)
    level = np.unique(words.points, return_inverse=True)[1].astype(np.int64)
    places, ids, first, lengths, counts = [], [], [], [], []
    known = 0
    for length in range(1, LONGEST + 1):
        if length > 1:
            fits = np.flatnonzero((room[:-1] >= length) & (level[:-1] >= 0) & (level[1:] >= 0))
            keys = (level[fits].astype(np.uint64) << np.uint64(32)) | level[fits + 1].astype(np.uint64)
        else:
            fits, keys = np.arange(characters), level.astype(np.uint64)
        if not len(fits):
            break
        numbers, begin, total = _number(keys, weights[fits])
        frequent = (total >= 2) | (length == 1)
        again = np.where(frequent, np.cumsum(frequent) - 1, -1)[numbers]
        level = np.full(characters, -1, np.int64)
        level[fits] = again
        stands = fits[again >= 0]
        places.append(stands)
        ids.append(level[stands] + known)
        first.append(fits[begin[frequent]])
        counts.append(total[frequent].astype(np.float64))
        lengths.append(np.full(int(frequent.sum()), length, np.int32))
        known += int(frequent.sum())
    starts, edge_lengths, pieces = _edges(characters, places, ids)
    every, length_of, count_of = np.concatenate(first), np.concatenate(lengths), np.concatenate(counts)
    worth = np.where(length_of == 1, np.inf, count_of * length_of)
    keep = np.zeros(known, bool)
    keep[np.lexsort((np.arange(known), -worth))[: max(min(_SEEDS, 20 * size), int((length_of == 1).sum()))]] = True
    return Lattice(starts, edge_lengths, pieces).keep(keep), every[keep], length_of[keep], count_of[keep]


def _edges(characters: int, places: list[I64], ids: list[I64]) -> tuple[I64, I32, I32]:
    """Returns the edges of all lengths, character by character."""
    numbers = np.zeros(characters + 1, np.int64)
    for stands in places:
        numbers[stands + 1] += 1
    starts = np.cumsum(numbers)
    lengths, pieces = np.empty(int(starts[-1]), np.int32), np.empty(int(starts[-1]), np.int32)
    filled = starts[:-1].copy()
    for index, (stands, named) in enumerate(zip(places, ids, strict=True)):
        lengths[filled[stands]], pieces[filled[stands]] = index + 1, named
        filled[stands] += 1
    return starts, lengths, pieces


def _sharpened(expected: F64) -> F64:
    """Returns log probabilities that make rare pieces rarer: exp(digamma) of a Dirichlet prior near 0."""
    total = float(expected.sum())
    return _digamma(expected) - (math.log(total) - 0.5 / total)


def _digamma(values: F64) -> F64:
    """Returns the derivative of log gamma: recurrence to 7 and the asymptotic series, exact to 1e-9."""
    values, result = values.copy(), np.zeros(len(values))
    for _ in range(7):
        low = values < 7
        result[low] -= 1 / values[low]
        values[low] += 1
    square = 1 / (values * values)
    series: F64 = np.log(values) - 0.5 / values - square * (1 / 12 - square * (1 / 120 - square / 252))
    return result + series


@compiled
def _number(keys: U64, weights: I64) -> tuple[I64, I64, I64]:
    """Returns for each key the number of its kind, and for each kind where it first stands and its weight."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    mask = np.uint64(size - 1)
    table = np.full(size, -1, np.int64)
    numbers, first, total = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64), np.zeros(len(keys), np.int64)
    kinds = 0
    for index in range(len(keys)):
        mixed = keys[index] * np.uint64(0x9E3779B97F4A7C15)
        slot = (mixed ^ (mixed >> np.uint64(29))) & mask
        while table[slot] >= 0 and keys[first[table[slot]]] != keys[index]:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] < 0:
            table[slot], first[kinds] = kinds, index
            kinds += 1
        numbers[index] = table[slot]
        total[table[slot]] += weights[index]
    return numbers, first[:kinds].copy(), total[:kinds].copy()


@compiled
def _expectations(offsets: I64, weights: F64, starts: I64, lengths: I32, pieces: I32, chances: F64) -> F64:
    """Returns how often each piece is used over all ways to cut the words (forward and backward sums)."""
    expected = np.zeros(len(chances), np.float64)
    ahead, behind = np.empty(_SPAN + 1, np.float64), np.empty(_SPAN + 1, np.float64)
    for word in range(len(weights)):
        low, size = offsets[word], offsets[word + 1] - offsets[word]
        ahead[: size + 1], behind[: size + 1] = 0.0, 0.0
        ahead[0], behind[size] = 1.0, 1.0
        for at in range(size):
            for edge in range(starts[low + at], starts[low + at + 1]):
                ahead[at + lengths[edge]] += ahead[at] * chances[pieces[edge]]
        if ahead[size] <= 0.0:
            continue
        for at in range(size - 1, -1, -1):
            for edge in range(starts[low + at], starts[low + at + 1]):
                through = chances[pieces[edge]] * behind[at + lengths[edge]]
                behind[at] += through
                expected[pieces[edge]] += weights[word] * ahead[at] * through / ahead[size]
    return expected


@compiled
def _best_cut(
    low: Number, size: Number, starts: I64, lengths: I32, pieces: I32, scores: F64, barred: Number, best: F64, back: I64
) -> Number:
    """Fills ``back`` with the edge that ends at each place of the likeliest cut without the piece ``barred``."""
    best[: size + 1] = -np.inf
    best[0] = 0.0
    for at in range(size):
        if best[at] == -np.inf:
            continue
        for edge in range(starts[low + at], starts[low + at + 1]):
            end = at + lengths[edge]
            if end > size:
                break
            score = best[at] + scores[pieces[edge]]
            if pieces[edge] != barred and score > best[end]:
                best[end], back[end] = score, edge
    return best[size] > -np.inf


@compiled
def _losses(
    offsets: I64, weights: F64, starts: I64, lengths: I32, pieces: I32, scores: F64, first: I64, sizes: I32
) -> F64:
    """Returns how much less likely the words get without each piece, as SentencePiece estimates it: the piece is
    replaced by the best cut of itself, and its uses go to those pieces.
    """
    best, back = np.empty(_SPAN + 1, np.float64), np.empty(_SPAN + 1, np.int64)
    used = np.zeros(len(scores), np.float64)
    for word in range(len(weights)):
        low, size = offsets[word], offsets[word + 1] - offsets[word]
        if not _best_cut(low, size, starts, lengths, pieces, scores, -1, best, back):
            continue
        at = size
        while at > 0:
            used[pieces[back[at]]] += weights[word]
            at -= lengths[back[at]]
    total = used.sum()
    losses = np.zeros(len(scores), np.float64)
    for piece in range(len(scores)):
        if used[piece] == 0.0:
            continue
        if not _best_cut(first[piece], sizes[piece], starts, lengths, pieces, scores, piece, best, back):
            losses[piece] = np.inf
            continue
        parts, at = 0, np.int64(sizes[piece])
        while at > 0:
            parts += 1
            at -= lengths[back[at]]
        whole = math.log(total + used[piece] * (parts - 1))
        instead, at = 0.0, np.int64(sizes[piece])
        while at > 0:
            instead += math.log(used[pieces[back[at]]] + used[piece]) - whole
            at -= lengths[back[at]]
        losses[piece] = used[piece] / total * (math.log(used[piece]) - math.log(total) - instead)
    return losses
