"""Which language a text is in: by script first, and by the n-grams of py3langid where languages share a script.

The model (BSD-3-Clause, comes with the package py3langid) is an automaton over bytes and a table of log
probabilities. Its own Python loop reads 2-3 MB/s; the loops here are compiled, look at two bounded windows of a text,
and consider only the languages of the script at hand. On lingua's test sentences that is as accurate as
lingua-language-detector in its exact mode (0.05-0.7 MB/s).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.columns import buffers_of
from llmyard.core.compiled import compiled
from llmyard.text.config import Language
from llmyard.text.lines import Lines
from llmyard.text.tables import table
from llmyard.text.units import decode

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

WINDOW = 400  # bytes: 400 English letters, 133 Chinese characters; from the beginning and from the middle
STEPS = 24  # of a unit of log probability: 255 of them are the model's whole range
_KANA_SHARE = 0.1  # of Han and kana; Japanese sentences have about half, Chinese ones a decorative の


@dataclass(frozen=True, slots=True)
class Languages:
    """Columns, one value a text.

    Attributes:
        language: ISO 639-1 code; "" where there are no letters to tell by.
        confidence: 0 to 1: the script's share of the text times the model's probability within the script.
        second: The language of the text's second script, "" where there is one script only.
        second_share: That script's share of the bytes of all letters.
    """

    language: Any
    confidence: Any
    second: Any
    second_share: Any


@dataclass(frozen=True, slots=True)
class Kept:
    """Attributes:
    texts: The column without the lines of other languages.
    dropped: How many lines were dropped.
    """

    texts: Any
    dropped: int


def identify(texts: pa.ChunkedArray | pa.Array) -> Languages:
    """Returns the language of each text of a string column without nulls."""
    model = _model()
    data, offsets = buffers_of(texts)
    count = len(offsets) - 1
    winners, shares, sure = (
        np.full((count, 2), -1, np.int64),
        np.zeros((count, 2), np.float32),
        np.zeros((count, 2), np.float32),
    )
    _identify(data, offsets, model.scripts, model.groups, model.starts, model.row, model.moves, model.feature,
              model.weights, model.priors, winners, shares, sure)  # fmt: skip
    names = pa.array([*model.languages, ""])
    winners[winners < 0] = len(model.languages)
    return Languages(
        names.take(pa.array(winners[:, 0])),
        pa.array(shares[:, 0] * sure[:, 0]),
        names.take(pa.array(winners[:, 1])),
        pa.array(shares[:, 1]),
    )


def judge_language(found: Languages, config: Language) -> Any:
    """Returns for each text the reason to drop it, or null: ``other_language``, ``unsure_language``.

    A text that mixes in enough of a wanted language stays, and so does one without letters.
    """
    wanted = pa.array(config.wanted)
    mixed = pc.and_(
        pc.is_in(found.second, wanted),
        pc.greater_equal(found.second_share, pa.scalar(config.mixed_share, pa.float32())),
    )
    kept = pc.or_(pc.or_(pc.is_in(found.language, wanted), mixed), pc.equal(found.language, ""))
    unsure = pc.and_(
        pc.less(found.confidence, pa.scalar(config.min_confidence, pa.float32())), pc.not_equal(found.language, "")
    )
    return pc.case_when(
        pc.make_struct(pc.invert(kept), pc.and_(unsure, pc.invert(mixed))), "other_language", "unsure_language"
    )


def keep_lines(texts: pa.ChunkedArray | pa.Array, config: Language) -> Kept:
    """Returns the texts without the lines that are surely in another language.

    A line stays if it is short (``line_letters``), if its language is wanted or uncertain, or if it mixes in
    enough of a wanted one.
    """
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    lines = Lines.of(whole)
    found = identify(lines.content)
    other = pc.fill_null(pc.equal(judge_language(found, config), "other_language"), False)
    sure = pc.greater_equal(found.confidence, pa.scalar(config.line_confidence, pa.float32()))
    long = pc.greater_equal(pc.count_substring_regex(lines.content, r"\p{L}"), config.line_letters)
    drop = pc.and_(pc.and_(other, sure), long).to_numpy(zero_copy_only=False)
    return Kept(lines.without(whole, drop) if drop.any() else texts, int(drop.sum()))


class _Model(NamedTuple):
    """scripts: code point to script (255: none). groups: script to group of languages. starts: group to the slice of
    languages that share it. row, moves, feature: the automaton. weights: feature x language.
    """

    languages: list[str]
    scripts: U8
    groups: U8
    starts: I64
    row: U32
    moves: U32
    feature: I32
    weights: U8
    priors: F32


@cache
def _model() -> _Model:
    """Takes 1.5 s and 90 MB, once a process."""
    from py3langid.langid import MODEL_DIR, MODEL_FILE
    from py3langid.modelio import load_model

    data = table("language")
    names = list(data["scripts"])
    groups, starts, languages = [], [0], list[str]()
    seen: dict[str, int] = {}
    for name in names:
        members = data["scripts"][name]
        if members[0] not in seen:
            seen[members[0]] = len(starts) - 1
            languages += members
            starts.append(len(languages))
        groups.append(seen[members[0]])
    logs, base, classes, moves, row, feature = load_model(MODEL_DIR / MODEL_FILE)
    columns = [classes.index(language) if language in classes else -1 for language in languages]
    weights = _penalties(np.asarray(logs[:, columns], np.float32), starts)
    priors = np.array(
        [base[c] + data["priors"].get(name, 0.0) for c, name in zip(columns, languages, strict=True)], np.float32
    )
    return _Model(
        languages, _scripts(names), np.array(groups, np.uint8), np.array(starts, np.int64),
        np.asarray(row).astype(np.uint32), np.asarray(moves).astype(np.uint32), np.array(feature, np.int32),
        weights, priors,
    )  # fmt: skip


def _penalties(logs: F32, starts: list[int]) -> U8:
    """How much less likely a feature is in each language than in the likeliest of its group, in steps of 1/STEPS.

    A byte each makes a row one cache line: twice as fast as 32-bit floats, and the same languages are found.
    """
    best = np.concatenate([logs[:, a:b].max(1, keepdims=True).repeat(b - a, 1) for a, b in pairwise(starts)], 1)
    return np.minimum(np.rint((best - logs) * STEPS), 255).astype(np.uint8)


def _scripts(names: list[str]) -> U8:
    """The script of every code point that is a letter."""
    points = np.array([point for point in range(0x40000) if not 0xD800 <= point < 0xE000])
    characters = pa.array([chr(point) for point in points.tolist()])
    letters = pc.match_substring_regex(characters, r"[\p{L}\p{M}]").to_numpy(zero_copy_only=False)
    result = np.full(0x110000, 255, np.uint8)
    for number, name in enumerate(names):
        marks = pc.match_substring_regex(characters, rf"\p{{{name}}}").to_numpy(zero_copy_only=False)
        result[points[marks & letters]] = number
    return result


@compiled
def _identify(
    data: U8, offsets: I64, scripts: U8, groups: U8, starts: I64, row: U32, moves: U32,
    feature: I32, weights: U8, priors: F32, winners: I64, shares: F32, sure: F32,
) -> None:  # fmt: skip
    """Fills, for the two largest groups of scripts of each text: language, share of the bytes, probability."""
    group_count = len(starts) - 1
    counts = np.zeros(len(weights), np.int32)
    visited = np.empty(4 * WINDOW, np.int64)
    size = np.zeros(group_count, np.int64)
    scores = np.zeros(len(priors), np.float32)
    # Groups that are told apart by kana: found from the scripts of "中" and "の".
    han, kana = np.int64(groups[scripts[0x4E2D]]), np.int64(groups[scripts[0x306E]])
    for text in range(len(offsets) - 1):
        begin, end = offsets[text], offsets[text + 1]
        first_end = min(begin + WINDOW, end)
        second = max(first_end, (begin + end) // 2)
        second_end = min(second + WINDOW, end)
        while second < second_end and data[second] & 0xC0 == 0x80:
            second += 1
        size[:] = 0
        for window in range(2):
            at, stop = (begin, first_end) if window == 0 else (second, second_end)
            while at < stop:
                point, length = decode(data, at, end)
                at += length
                script = scripts[point]
                if script != 255:
                    size[groups[script]] += length
        total = size.sum()
        if total == 0:
            continue
        if size[kana] > _KANA_SHARE * (size[kana] + size[han]):
            size[kana] += size[han]
            size[han] = 0
        else:
            size[han] += size[kana]
            size[kana] = 0
        for rank in range(2):
            best = np.int64(np.argmax(size))
            if size[best] == 0:
                break
            shares[text, rank] = size[best] / total
            size[best] = 0
            low, high = starts[best], starts[best + 1]
            if high == low + 1:
                winners[text, rank], sure[text, rank] = low, np.float32(1.0)
                continue
            seen, read = _walk(data, begin, first_end, second, second_end, scripts, groups, best, row, moves, feature,
                               counts, visited)  # fmt: skip
            part = scores[low:high]
            part[:] = priors[low:high]
            for index in range(seen):
                weight = np.float32(np.log1p(np.float32(counts[visited[index]])) / STEPS)
                counts[visited[index]] = 0
                _subtract(part, weights[visited[index], low:high], weight)
            winner = low + np.argmax(part)
            heat, mass = np.float32(1.0 / np.sqrt(max(read, 1))), np.float32(0.0)
            for language in range(low, high):
                mass += np.exp((scores[language] - scores[winner]) * heat)
            winners[text, rank], sure[text, rank] = winner, np.float32(1.0) / mass


@compiled
def _subtract(scores: F32, penalties: U8, weight: np.float32) -> None:
    for language in range(len(scores)):
        scores[language] -= weight * np.float32(penalties[language])


@compiled
def _walk(
    data: U8, begin: int, first_end: int, second: int, second_end: int, scripts: U8, groups: U8, group: np.int64,
    row: U32, moves: U32, feature: I32, counts: I32, visited: I64,
) -> tuple[int, int]:  # fmt: skip
    """Counts the features of the characters of one group of scripts, and of what no script owns.

    Returns how many different features were seen, and the bytes read.
    """
    lower = False
    for window in range(2):
        at, stop = (begin, first_end) if window == 0 else (second, second_end)
        for place in range(at, stop):
            lower = lower or 0x61 <= data[place] <= 0x7A
    seen = read = 0
    for window in range(2):
        at, stop = (begin, first_end) if window == 0 else (second, second_end)
        state = np.uint32(0)
        while at < stop:
            point, length = decode(data, at, stop)
            script = scripts[point]
            if script != 255 and groups[script] != group:
                state = np.uint32(0)
                at += length
                continue
            for place in range(at, min(at + length, stop)):
                byte = data[place]
                if not lower and 0x41 <= byte <= 0x5A:  # the model knows no sentences in capitals
                    byte += np.uint8(32)
                state = moves[(np.int64(row[state]) << 8) + byte]
                hit = feature[state]
                read += 1
                if hit >= 0:
                    if counts[hit] == 0:
                        visited[seen] = hit
                        seen += 1
                    counts[hit] += 1
            at += length
    return seen, read
