"""Which sentences of a text stand for it: what is read of each, which ones a model learns to take, which it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from zlib import crc32

from llmyard.core.errors import DataError
from llmyard.metrics.summaries import overlap_f1, units_of
from llmyard.tasks.floors import by_overlap, placed_units, sentence_features, sentence_spans
from llmyard.tasks.labelling import whole_end
from llmyard.tasks.task import Marked

Span = tuple[int, int]

# Parts of what is read of a sentence: its words, those that the query holds, those that stand all over the text.
WORDS, ASKED, COMMON = 1, 2, 3
_MOST = 4_000  # sentences of a text that are looked at
_BESIDE = 80  # characters that are read on both sides of a sentence
_EVERYWHERE = 0.05  # a word in so many of the sentences stands all over the text
_SLACK = 2  # tokens
_REPEATED = 0.6  # a sentence with so many of its words in one that was taken already says nothing new


def sentences(text: str) -> list[Span]:
    """Returns where the sentences of a text are, the first 4,000 of them."""
    return sentence_spans(text)[:_MOST]


def marked_sentences(text: str, query: str, language: str) -> list[Marked]:
    """Returns what is read of each sentence: the query, a line feed, the sentence with a little of what stands around
    it. Marked are its words, and apart those that the query holds and those that stand all over the text.

    Args:
        text: Any.
        query: What is asked of it; "" for nothing.
        language: "zh" or another.
    """
    spans, asked = sentences(text), sentence_features(query, language)
    units = [placed_units(text, span, language) for span in spans]
    frequency = Counter(unit for found in units for unit in {unit for _, unit in found})
    least = max(2.0, _EVERYWHERE * len(spans))
    head = f"{' '.join(query.split())}\n"
    found = []
    for (low, high), words in zip(spans, units, strict=True):
        first = max(0, low - _BESIDE)
        shift = len(head) - first
        places: dict[int, list[Span]] = {ASKED: [], COMMON: []}
        for at, unit in words:
            if unit in asked or frequency[unit] >= least:
                places[ASKED if unit in asked else COMMON].append((at + shift, at + len(unit) + shift))
        # The later one counts where two of one length lie over each other, as Chinese pairs do.
        marks = [(low + shift, high + shift), *places[COMMON], *places[ASKED]]
        numbers = [WORDS, *[COMMON] * len(places[COMMON]), *[ASKED] * len(places[ASKED])]
        found.append(Marked(f"{head}{text[first : high + _BESIDE]}", tuple(marks), tuple(numbers)))
    return found


def fitting(marked: Marked, spans: Sequence[Span], limit: int) -> Marked:
    """Returns what of a marked sentence is read in so many tokens: the query, the sentence, and evenly of what stands
    around it as much as there is room for; of a sentence that is too long itself its beginning.

    Args:
        marked: One of :func:`marked_sentences`.
        spans: Of its tokens, in characters.
        limit: Tokens, more than the query has.
    """
    if len(spans) <= limit:
        return marked
    low, high = marked.spans[0]
    border = marked.text.index("\n") + 1
    head = sum(start < border for start, _ in spans)
    # An end in the midst of a word, or of what was one token with its neighbour, is read in other tokens than here.
    room = max(1, limit - head - _SLACK)
    inside = [at for at in range(head, len(spans)) if spans[at][1] > low and spans[at][0] < high]
    first, own = inside[0], min(len(inside), room)
    before = min(first - head, (room - own) // 2)
    after = min(len(spans) - first - own, room - own - before)
    before = min(first - head, room - own - after)
    begin, end = max(border, spans[first - before][0]), whole_end(spans, first + own + after)
    shift = border - begin
    kept = [
        ((max(a, begin) + shift, min(b, end) + shift), number)
        for (a, b), number in zip(marked.spans, marked.numbers, strict=True)
        if a < end and b > begin
    ]
    text = marked.text[:border] + marked.text[begin:end]
    return Marked(text, tuple(span for span, _ in kept), tuple(number for _, number in kept))


def summary_sentences(text: str, summary: str, language: str, most: int) -> list[int]:
    """Returns the places of the sentences that together are most like a summary: the best one, then the one that adds
    most to it, and so on (the greedy labels of Nallapati et al. 2017, "SummaRuNNer"; here by ROUGE-1 plus ROUGE-2).

    Args:
        text: Any.
        summary: Of it.
        language: "zh" or another.
        most: Sentences at most; fewer where a further one would make it worse, none where nothing is shared.
    """
    said = [units_of(text[low:high], language) for low, high in sentences(text)]
    wanted = units_of(summary, language)
    words = set(wanted)
    shared = [at for at, units in enumerate(said) if words.intersection(units)]
    taken: list[int] = []
    reached = 0.0
    while len(taken) < most:
        best, place = reached, -1
        for at in shared:
            if at in taken:
                continue
            joint = [unit for each in sorted([*taken, at]) for unit in said[each]]
            likeness = overlap_f1(joint, wanted, 1) + overlap_f1(joint, wanted, 2)
            if likeness > best:
                best, place = likeness, at
        if place < 0:
            break
        taken.append(place)
        reached = best
    return sorted(taken)


def passed_over(text: str, query: str, language: str, taken: Sequence[int], count: int) -> list[int]:
    """Returns the places of some sentences that were not taken: half of them those that share most with the query and
    are hard to tell from the taken ones, the others from anywhere, the same ones each time.
    """
    spans, asked = sentences(text), sentence_features(query, language)
    near = by_overlap([sentence_features(text[low:high], language) for low, high in spans], asked)
    left = [at for at in near if at not in taken]
    hard = left[: count // 2] if query else []
    others = sorted((at for at in left if at not in hard), key=lambda at: (crc32(text[slice(*spans[at])].encode()), at))
    return sorted([*hard, *others[: count - len(hard)]])


def best_sentences(text: str, scores: Sequence[float], count: int, language: str) -> list[int]:
    """Returns the places of the sentences with the highest scores, in the order of the text; one that repeats another
    is left out.

    Args:
        text: Any.
        scores: Of its :func:`sentences`.
        count: Sentences at most.
        language: "zh" or another.

    Raises:
        DataError: There are more or fewer scores than sentences.
    """
    spans = sentences(text)
    if len(scores) != len(spans):
        raise DataError(
            f"{len(scores)} scores are given for {len(spans)} sentences",
            "evaluate with the `task` that the model was tuned with: focus_characters decides what is read",
        )
    taken: list[int] = []
    kept: list[set[str]] = []
    for at in sorted(range(len(spans)), key=lambda at: (-scores[at], at)):
        words = sentence_features(text[slice(*spans[at])], language)
        if any(len(words & other) > _REPEATED * max(1, len(words)) for other in kept):
            continue
        taken.append(at)
        kept.append(words)
        if len(taken) == count:
            break
    return sorted(taken)


def nearest(text: str, query: str, language: str, count: int) -> str:
    """Returns the sentences that share most with a query, in the order of the text."""
    near = by_overlap(
        [sentence_features(text[low:high], language) for low, high in sentences(text)],
        sentence_features(query, language),
    )
    return in_order(text, near[:count], language)


def in_order(text: str, places: Sequence[int], language: str) -> str:
    """Returns the sentences at some places, in the order of the text."""
    spans = sentences(text)
    return ("" if language == "zh" else " ").join(text[slice(*spans[at])] for at in sorted(places))
