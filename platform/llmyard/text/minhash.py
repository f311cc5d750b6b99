"""MinHash signatures and their bands: texts that share a band are near duplicates, with a probability that rises
steeply around the target similarity (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3).
"""

from __future__ import annotations

import numpy as np

from llmyard.core.compiled import I64, U32, U64, compiled
from llmyard.text.units import Units, mix

_BASE = np.uint64(0x9E3779B97F4A7C15)


def bands_for(similarity: float, hashes: int = 112) -> tuple[int, int]:
    """Returns (bands, rows) that divide about ``hashes`` functions for pairs of that Jaccard similarity.

    Of the divisions whose chance at ``similarity`` is at least 0.9, the one with the most rows: it lets the fewest
    dissimilar pairs through.
    """
    for rows in range(32, 0, -1):
        bands = hashes // rows
        if bands and 1 - (1 - similarity**rows) ** bands >= 0.9:
            return bands, rows
    return hashes, 1


def band_keys(units: Units, bands: int, rows: int, shingle: int = 5, seed: int = 1) -> U64:
    """Returns the band keys of every text, shape (texts, bands); 0 everywhere for a text without units.

    Args:
        units: The texts.
        bands: Bands of a signature.
        rows: Hash functions in a band.
        shingle: Units in a row that are compared as one; a shorter text is one shingle.
        seed: Of the hash functions.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    factors = random.integers(0, 1 << 32, bands * rows, dtype=np.uint32) | np.uint32(1)
    terms = random.integers(0, 1 << 32, bands * rows, dtype=np.uint32)
    return _band_keys(units.hashes, units.offsets, factors, terms, bands, rows, shingle)


def shingles_of(units: Units, text: int, shingle: int = 5) -> set[int]:
    """Returns the shingles of one text, for an exact comparison."""
    found = _shingles(units.hashes[units.offsets[text] : units.offsets[text + 1]], shingle)
    return set(found.tolist())


@compiled
def _shingles(hashes: U64, width: int) -> U64:
    count = len(hashes)
    if count == 0:
        return np.empty(0, np.uint64)
    width = min(width, count)
    high = np.uint64(1)
    for _ in range(width):
        high *= _BASE
    result = np.empty(count - width + 1, np.uint64)
    rolling = np.uint64(0)
    for at in range(count):
        rolling = rolling * _BASE + hashes[at]
        if at >= width:
            rolling -= hashes[at - width] * high
        if at >= width - 1:
            result[at - width + 1] = mix(rolling)
    return result


@compiled
def _band_keys(hashes: U64, offsets: I64, factors: U32, terms: U32, bands: int, rows: int, width: int) -> U64:
    texts = len(offsets) - 1
    keys = np.zeros((texts, bands), np.uint64)
    least = np.empty(len(factors), np.uint32)
    for text in range(texts):
        shingles = _shingles(hashes[offsets[text] : offsets[text + 1]], width)
        if len(shingles) == 0:
            continue
        least[:] = np.uint32(0xFFFFFFFF)
        for shingle in shingles:
            low = np.uint32(shingle)
            for function in range(len(factors)):
                least[function] = min(least[function], np.uint32(low * factors[function] + terms[function]))
        for band in range(bands):
            key = np.uint64(band + 1)
            for row in range(rows):
                key = mix(key * _BASE + np.uint64(least[band * rows + row]))
            keys[text, band] = key
    return keys
