"""Large corpora for benchmarks: every document is new, and the vocabulary grows with the text as in real sets.

A word is drawn by rank: mostly from a core of frequent words (Zipf's law), else from an endless tail whose new words
grow like N^0.6 (Heaps' law). A word is spelled from its rank alone, so any number of documents needs no table of words.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Language = Literal["en", "zh"]
Ranks = npt.NDArray[np.int64]

CORE = 8000
TAIL_SHARE = {"en": 0.06, "zh": 0.04}
HEAPS = 0.6
SPOILT = 0.08  # of the documents, for the quality rules to find
MEAN_WORDS = {"en": 400, "zh": 500}

_WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an "
    "they which one you were all her she there would their we him been has when who will no more if out so up "
    "said what its about than into them can only other time new some could these two may first then do any "
    "like my now over such our man me even most made after also well did many before must years back through "
    "down where much your way "
)
FREQUENT_EN = _WORDS.split()
FREQUENT_ZH = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多"
    "经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知"
    "全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门"
)
_CLUSTERS = "b c d f g h j k l m n p r s t v w br cl dr fl gr pl pr st str th tr sh ch"
_ONSETS = _CLUSTERS.split()
_NUCLEI = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "ie", "oa", "oo", "ou"]
_CODAS = ["", "", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ng", "ck"]


def write_corpus(path: Path, language: Language, megabytes: float, seed: int = 1, file_megabytes: int = 128) -> int:
    """Writes JSON lines of about so many megabytes; returns the number of bytes."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.Generator(np.random.Philox(key=[seed, language == "zh"]))
    written = 0
    number = 0
    while written < megabytes * 1e6:
        size = 0
        with open(path / f"{language}-{number:04d}.jsonl", "wb") as file:
            while size < min(file_megabytes, megabytes) * 1e6 and written + size < megabytes * 1e6:
                lines = [
                    json.dumps({"id": f"{language}-{number}-{size}-{at}", "text": text}, ensure_ascii=False)
                    for at, text in enumerate(documents(language, 2000, random))
                ]
                data = "".join(line + "\n" for line in lines).encode()
                file.write(data)
                size += len(data)
        written += size
        number += 1
    return written


def documents(language: Language, count: int, random: np.random.Generator) -> list[str]:
    """Returns new documents."""
    lengths = np.maximum(60, random.lognormal(np.log(MEAN_WORDS[language]), 0.6, count).astype(np.int64))
    words = _words(language, _draw(language, int(lengths.sum()), random))
    marks = random.random(len(words))
    ends = np.cumsum(lengths)
    if language == "en":
        separators = np.select([marks < 0.012, marks < 0.06, marks < 0.11], [".\n", ". ", ", "], " ").astype(object)
    else:
        separators = np.select([marks < 0.012, marks < 0.06, marks < 0.13], ["。\n", "。", "，"], "").astype(object)
    separators[ends - 1] = "." if language == "en" else "。"
    pieces = pc.binary_join_element_wise(words, pa.array(separators, pa.string()), "")
    offsets = pa.array(np.append(0, ends), pa.int32())
    texts: list[str] = pc.binary_join(pa.ListArray.from_arrays(offsets, pieces), "").to_pylist()
    for place in np.flatnonzero(random.random(count) < SPOILT).tolist():
        texts[place] = spoilt(texts[place], language, random)
    return texts


def spoilt(text: str, language: Language, random: np.random.Generator) -> str:
    """Returns what is left of a document after one of the faults that quality rules look for."""
    space = " " if language == "en" else ""
    words = text.split(" ") if language == "en" else list(text)
    kind = int(random.integers(6))
    if kind == 0:
        return space.join(words[: int(random.integers(5, 45))])
    if kind == 1:
        return "\n".join([space.join(words[:12])] * int(random.integers(4, 30)))
    if kind == 2:
        return "\n".join("- " + space.join(words[at : at + 6]) for at in range(0, len(words), 6))
    if kind == 3:
        return (space + "#").join(words)
    if kind == 4:
        return text[: len(text) // 4] + (space + space.join(words[3:7])) * (len(words) // 4)
    return "\n".join(space.join(words[at : at + 9]) + "..." for at in range(0, len(words), 9))


def edited(text: str, language: Language, share: float, random: np.random.Generator) -> str:
    """Returns a near copy: about that share of the words, or Chinese characters, replaced by other ones."""
    units = text.split(" ") if language == "en" else list(text)
    places = np.flatnonzero(random.random(len(units)) < share)
    for place in places.tolist():
        units[place] = f"x{place}" if language == "en" else chr(0x4E00 + (place * 37) % 20000)
    return (" " if language == "en" else "").join(units)


def _draw(language: Language, count: int, random: np.random.Generator) -> Ranks:
    core = np.searchsorted(_cumulated(), random.random(count))
    tail = CORE + (CORE * (random.random(count) ** (-1 / HEAPS) - 1)).clip(0, 2**52).astype(np.int64)
    return np.where(random.random(count) < TAIL_SHARE[language], tail, core)


@lru_cache(maxsize=1)
def _cumulated() -> npt.NDArray[np.float64]:
    weights = 1.0 / (np.arange(CORE) + 2.7)
    return np.cumsum(weights) / weights.sum()


def _words(language: Language, ranks: Ranks) -> pa.Array:
    unique, inverse = np.unique(ranks, return_inverse=True)
    spell = _english if language == "en" else _chinese
    return pa.array([spell(rank) for rank in unique.tolist()], pa.string()).take(pa.array(inverse))


def _mixed(value: int) -> int:
    value = (value ^ (value >> 31)) * 0x7FB5D329728EA185 % 2**64
    value = (value ^ (value >> 27)) * 0x81DADEF4BC2DD44D % 2**64
    return value ^ (value >> 33)


@lru_cache(maxsize=200_000)
def _english(rank: int) -> str:
    if rank < len(FREQUENT_EN):
        return FREQUENT_EN[rank]
    value, word = _mixed(rank), ""
    for _ in range(1 + (rank > 300) + (rank > CORE) + (rank > 10**6)):
        value, onset = divmod(value, len(_ONSETS))
        value, nucleus = divmod(value, len(_NUCLEI))
        value, coda = divmod(value, len(_CODAS))
        word += _ONSETS[onset] + _NUCLEI[nucleus] + _CODAS[coda]
    return word


@lru_cache(maxsize=200_000)
def _chinese(rank: int) -> str:
    if rank < len(FREQUENT_ZH):
        return FREQUENT_ZH[rank]
    value, word = _mixed(rank), ""
    for _ in range(2 + (rank > 4 * CORE)):
        value, place = divmod(value, 1 << 16)
        # Squaring favours the frequent characters, of which every text has many.
        word += _characters()[int((place / 65536) ** 2 * 4000)]
    return word


@lru_cache(maxsize=1)
def _characters() -> str:
    rest = "".join(chr(0x4E00 + (at * 7919) % 20900) for at in range(4200))
    return FREQUENT_ZH + rest
