"""What can be had by learning little or nothing: the figure that a trained model must beat, beside every metric.

First sentences, TextRank, bags of words, the commonest label, the sentence that overlaps with the question. All are
deterministic, need no accelerator, and work in English and Chinese.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError
from llmyard.metrics.dialogue import normalized_value
from llmyard.metrics.summaries import units_of

F64 = npt.NDArray[np.float64]
Span = tuple[int, int]

_CLOSING = r"[\"'”’」』)）\]】]*"
_SENTENCE_END = re.compile(rf"[.!?…]+{_CLOSING}(?=\s|$)|[。！？…｡]+{_CLOSING}|\n+")
_ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|al|Fig))\.$")
_CHINESE_PLACED = re.compile(r"[A-Za-z0-9]+|[\u3400-\u9fff]")
_CLAUSE_END = re.compile(r"[,;:](?=\s)|[，；：]")
_DAMPING, _TOLERANCE, _MOST_ROUNDS = 0.85, 1e-6, 200
_MOST_SENTENCES = 4_000  # TextRank holds a number for every two of them: 128 MB


@dataclass(frozen=True, slots=True)
class Guesses:
    """What a classifier guesses.

    Attributes:
        labels: Of each text.
        classes: All labels of the training set, sorted.
        probabilities: (texts, classes).
    """

    labels: list[str]
    classes: tuple[str, ...]
    probabilities: F64


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of a context, and where it begins (characters)."""

    text: str
    start: int


def sentence_spans(text: str) -> list[Span]:
    """Returns where the sentences of an English or Chinese text begin and end, spaces around them left out.

    They end at 。！？… and line breaks, and at .!? before a space unless an initial or a usual abbreviation is before.
    """
    spans, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if end[0].startswith(".") and _ABBREVIATION.search(text, max(start, end.start() - 12), end.start() + 1):
            continue
        spans.append((start, end.end()))
        start = end.end()
    spans.append((start, len(text)))
    trimmed = [(low + _leading(text[low:high]), high - _leading(text[low:high][::-1])) for low, high in spans]
    return [(low, high) for low, high in trimmed if low < high]


def textrank(text: str, count: int, language: str) -> str:
    """Returns the sentences that are most like all others, in the order of the text (Mihalcea and Tarau 2004).

    Sentences vote for each other by the units they share (words, or Chinese characters and pairs of them) over the logs
    of their lengths; the votes' PageRank with damping 0.85 ranks them, equal ones by their place. Only the first 4,000
    sentences of a text are looked at.

    Args:
        text: Any.
        count: Sentences of the summary.
        language: "zh" or another.

    Raises:
        DataError: No sentence is asked for.
    """
    _refuse_no_sentences(count)
    spans = sentence_spans(text)[:_MOST_SENTENCES]
    ranks = _page_rank(_similarity([sentence_features(text[low:high], language) for low, high in spans]))
    chosen = sorted(np.lexsort((np.arange(len(spans)), -ranks.round(9)))[:count].tolist())
    joint = "" if language == "zh" else " "
    return joint.join(text[slice(*spans[place])] for place in chosen)


def majority_label(labels: Sequence[str]) -> str:
    """Returns the commonest label, of equally common ones the first in alphabetical order.

    Raises:
        DataError: There are none.
    """
    if not labels:
        raise DataError("there are no labels to take the commonest of", "check the training split")
    counts = Counter(labels)
    return max(sorted(counts), key=counts.__getitem__)


def tfidf_logistic(
    texts: Sequence[str], labels: Sequence[str], test: Sequence[str], language: str, *, strength: float = 10.0
) -> Guesses:
    """Returns the guesses of a logistic regression over TF-IDF of words, in Chinese of characters and pairs of them.

    Args:
        texts: To learn from.
        labels: Of each.
        test: To be guessed.
        language: "zh" or another.
        strength: The inverse of the penalty (scikit-learn's ``C``).

    Raises:
        DataError: No texts, unequal numbers, texts without words, or less than two labels.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(analyzer=_analyzer(language), sublinear_tf=True)
    # Newton's method needs 5 rounds for SemEval-2010 task 8 (0.7 s), the default lbfgs 236 (11 s).
    model = LogisticRegression(C=strength, solver="newton-cg", tol=1e-3)
    return _classified(vectors, model, texts, labels, test)


def naive_bayes(
    texts: Sequence[str], labels: Sequence[str], test: Sequence[str], language: str, *, smoothing: float = 0.1
) -> Guesses:
    """Returns the guesses of multinomial naive Bayes over words, in Chinese over characters and pairs of them.

    Args:
        texts: To learn from.
        labels: Of each.
        test: To be guessed.
        language: "zh" or another.
        smoothing: Added to the count of every word in every class; Laplace's 1 finds rare labels less.

    Raises:
        DataError: No texts, unequal numbers, texts without words, or less than two labels.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    vectors = CountVectorizer(analyzer=_analyzer(language))
    return _classified(vectors, MultinomialNB(alpha=smoothing), texts, labels, test)


def answer_kind(question: str, language: str) -> str:
    """Returns what a question asks for: ``person``, ``place``, ``date``, ``number`` or ``other``."""
    kinds = _tables(language).questions.items()
    return next((kind for kind, pattern in kinds if pattern.search(question.lower())), "other")


def overlap_answer(question: str, context: str, language: str) -> Answer:
    """Returns the part of the context that is likeliest the answer, by overlap with the question alone.

    Sentences are ranked by the question's units that they hold, rare ones counting more. The answer is the number of
    what is counted in one of the best two; or else the date, place, person or number of the best one that is nearest to
    words of the question, or else its clause that overlaps most. Where another thing is asked, it is the sentence,
    without a beginning that the question has too. On CMRC 2018's development set that gets F1 0.40 and exact match
    0.12; whole sentences get 0.28 and 0.

    Args:
        question: Any.
        context: The text that holds the answer.
        language: "zh" or another.

    Returns:
        The answer; empty at 0 where the context is.
    """
    spans = sentence_spans(context)
    if not spans:
        return Answer("", 0)
    asked = sentence_features(question, language)
    order = by_overlap([sentence_features(context[low:high], language) for low, high in spans], asked)
    kind, found = answer_kind(question, language), None
    tables = _tables(language)
    if kind == "number" and (counted := tables.counted.search(question.lower())):
        for unit in (counted[1], counted[1][0] if language == "zh" else counted[1].removesuffix("s")):
            pattern = re.compile(tables.count.pattern + re.escape(unit), re.IGNORECASE)
            for place in order[:2]:
                found = found or _nearest(context, spans[place], pattern, question, asked, language)
    if kind in tables.answers:
        found = found or _nearest(context, spans[order[0]], tables.answers[kind], question, asked, language)
    if kind != "other":
        found = found or _clause(context, spans[order[0]], asked, language)
    low, high = found or _beyond(context, spans[order[0]], question)
    return Answer(context[low:high], low)


def majority_state(states: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Returns the slots that more than half of the turns fill, with their commonest values: one state for all turns.

    Raises:
        DataError: There are no turns.
    """
    filled = _values(states)
    return {slot: majority_label(values) for slot, values in filled.items() if 2 * len(values) > len(states)}


def _leading(text: str) -> int:
    return len(text) - len(text.lstrip())


def _refuse_no_sentences(count: int) -> None:
    if count < 1:
        raise DataError(f"a summary of {count} sentences", "ask for one or more")


def sentence_features(text: str, language: str) -> set[str]:
    """Returns the words of a sentence, in Chinese its characters and pairs of them."""
    units = units_of(text, language)
    pairs = pairwise(units) if language == "zh" else ()
    return {*units, *map("".join, pairs)}


def _similarity(sentences: Sequence[set[str]]) -> F64:
    places = {unit: place for place, unit in enumerate(sorted(set().union(*sentences)))}
    holds = np.zeros((len(sentences), len(places)), np.float32)
    for row, units in enumerate(sentences):
        holds[row, [places[unit] for unit in units]] = 1
    logs = np.log([max(len(units), 1) for units in sentences])
    lengths = logs[:, None] + logs[None, :]
    common = (holds @ holds.T).astype(np.float64)
    np.fill_diagonal(common, 0)
    return np.asarray(np.divide(common, lengths, out=np.zeros_like(common), where=lengths > 0))


def _page_rank(weights: F64) -> F64:
    count = len(weights)
    totals = weights.sum(1, keepdims=True)
    # A sentence that shares nothing votes for all alike, as pages without links do.
    votes = np.divide(weights, totals, out=np.full_like(weights, 1 / max(count, 1)), where=totals > 0)
    ranks = np.full(count, 1 / max(count, 1))
    for _ in range(_MOST_ROUNDS):
        after = (1 - _DAMPING) / count + _DAMPING * (ranks @ votes) if count else ranks
        if np.abs(after - ranks).sum() < _TOLERANCE:
            break
        ranks = after
    return ranks


def _analyzer(language: str) -> Callable[[str], list[str]]:
    """Returns what splits a text for a bag of words; signs stay, for <e1> and the like mark what is asked about."""

    def words(text: str) -> list[str]:
        return re.findall(r"</?\w+>|\w+", text.lower())

    def characters(text: str) -> list[str]:
        kept = "".join(text.lower().split())
        return [*kept, *map("".join, pairwise(kept))]

    return characters if language == "zh" else words


def _classified(vectors: Any, model: Any, texts: Sequence[str], labels: Sequence[str], test: Sequence[str]) -> Guesses:
    if not texts or not test:
        raise DataError(f"{len(texts)} texts to learn from, {len(test)} to guess", "check the splits and their limits")
    if len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts do not pair up with {len(labels)} labels", "give one label for each text")
    if len(set(labels)) < 2:
        raise DataError(f"the only label is {labels[0]!r}", "a classifier needs two or more")
    try:
        known = vectors.fit_transform(texts)
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        raise DataError(f"the texts cannot be learned from: {error}", "check that they hold words") from None
    model.fit(known, list(labels))
    probabilities = np.asarray(model.predict_proba(vectors.transform(test)), np.float64)
    classes = tuple(map(str, model.classes_))
    return Guesses([classes[place] for place in probabilities.argmax(1)], classes, probabilities)


@dataclass(frozen=True, slots=True)
class _Tables:
    questions: dict[str, re.Pattern[str]]
    answers: dict[str, re.Pattern[str]]
    counted: re.Pattern[str]
    count: re.Pattern[str]


@cache
def _tables(language: str) -> _Tables:
    import yaml

    file = Path(__file__).with_name("floors.yaml")
    table = yaml.safe_load(file.read_text(encoding="utf-8"))["zh" if language == "zh" else "en"]
    questions, answers = (
        {kind: re.compile(one) for kind, one in table[side].items()} for side in ("questions", "answers")
    )
    return _Tables(questions, answers, re.compile(table["counted"]), re.compile(table["count"]))


def by_overlap(sentences: Sequence[set[str]], asked: set[str]) -> list[int]:
    """Returns the places of sentences, those first that hold most of what is asked."""
    frequency = Counter(unit for units in sentences for unit in units & asked)
    rarity = {unit: np.log(1 + len(sentences) / count) for unit, count in frequency.items()}
    scores = [sum(rarity[unit] for unit in sorted(units & asked)) for units in sentences]
    return sorted(range(len(sentences)), key=lambda place: -scores[place])


def _nearest(
    context: str, span: Span, pattern: re.Pattern[str], question: str, asked: set[str], language: str
) -> Span | None:
    """Returns the match that no words of the question hold and that is nearest to them on average."""
    low, high = span
    matches = [found.span() for found in pattern.finditer(context, low, high)]
    fresh = [(a, b) for a, b in matches if context[a:b].casefold() not in question.casefold()]
    anchors = [at for at, unit in placed_units(context, span, language) if unit in asked]
    if not fresh:
        return None
    return min(fresh, key=lambda each: sum(min(abs(at - each[0]), abs(at - each[1])) for at in anchors))


def placed_units(context: str, span: Span, language: str) -> list[tuple[int, str]]:
    """Returns the units of a sentence with their places; Chinese ones are pairs, for single ones are everywhere, and
    runs of Latin letters and digits stay whole.
    """
    if language != "zh":
        return [(found.start(), found[0].lower()) for found in re.compile(r"\w+").finditer(context, *span)]
    single = [(found.start(), found[0].lower()) for found in _CHINESE_PLACED.finditer(context, *span)]
    runs = [(at, unit) for at, unit in single if unit.isascii()]
    pairs = [
        (at, unit + following)
        for (at, unit), (place, following) in pairwise(single)
        if place == at + 1 and not unit.isascii() and not following.isascii()
    ]
    return sorted([*runs, *pairs])


def _beyond(context: str, span: Span, question: str) -> Span:
    """Returns a sentence without the beginning that the question has too, or all of it where nothing is left."""
    low, high = span
    both = enumerate(zip(context[low:high], question, strict=False))
    same = next((at for at, (one, other) in both if one != other), len(question))
    return (low + same, high) if low + same < high else span


def _clause(context: str, span: Span, asked: set[str], language: str) -> Span:
    """Returns the clause that overlaps most, without the signs around it."""
    ends = [found.end() for found in _CLAUSE_END.finditer(context, *span)]
    clauses = list(zip([span[0], *ends], [*ends, span[1]], strict=True))
    low, high = clauses[by_overlap([sentence_features(context[a:b], language) for a, b in clauses], asked)[0]]
    while low < high and not context[low].isalnum():
        low += 1
    while low < high and not context[high - 1].isalnum():
        high -= 1
    return low, high


def _values(states: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    if not states:
        raise DataError("there are no turns to take the commonest slots of", "check the training split")
    found: dict[str, list[str]] = {}
    for state in states:
        for slot, value in state.items():
            if folded := normalized_value(value):
                found.setdefault(slot, []).append(folded)
    return found
