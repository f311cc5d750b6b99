"""What can be had without a model: retrieval, the commonest answer, the first sentences, regular expressions.

A task that these solve would say nothing about a trained model; tests hold their scores down.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from llmyard.sources.smallworld.lexicon import lexicon, read_yaml

SENTENCE_END = {"en": re.compile(r"(?<=[.!?])\s+"), "zh": re.compile(r"(?<=[。！？])")}
NGRAM_SIZES = (2, 3, 4)


def ngrams_of(text: str) -> Counter[str]:
    """The character n-grams of the text with their counts."""
    return Counter(text[i : i + size] for size in NGRAM_SIZES for i in range(len(text) - size + 1))


def nearest_neighbour_translation(train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each test pair the target of the training pair whose source is most similar (cosine of n-gram TF-IDF).

    An inverted index keeps it to about 1 s for 5,000 x 300 pairs. Only pairs of the same direction are compared.
    """
    postings: dict[tuple[str, str], tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for i, pair in enumerate(train):
        for gram, count in ngrams_of(pair["source"]).items():
            where, counts = postings[pair["source_language"], gram]
            where.append(i)
            counts.append(1 + np.log(count))
    norms = np.full(len(train), 1e-9)
    index: dict[tuple[str, str], tuple[Any, Any]] = {}
    for key, (where, counts) in postings.items():
        weights = np.asarray(counts) * np.log(1 + len(train) / len(where))
        places = np.asarray(where)
        norms[places] += weights**2
        index[key] = (places, weights * np.log(1 + len(train) / len(where)))
    norms = np.sqrt(norms)
    targets = []
    for pair in test:
        scores = np.zeros(len(train))
        for gram, count in ngrams_of(pair["source"]).items():
            if (found := index.get((pair["source_language"], gram))) is not None:
                scores[found[0]] += (1 + np.log(count)) * found[1]
        targets.append(str(train[int(np.argmax(scores / norms))]["target"]))
    return targets


def majority_answer(train: Sequence[Mapping[str, Any]]) -> str:
    """The commonest answer of the training questions; "" where that is to give none."""
    counts = Counter(question["answers"][0]["text"] if question["answers"] else "" for question in train)
    return str(max(sorted(counts), key=lambda text: counts[text])) if counts else ""


def lead_two(text: str, language: str) -> str:
    """The first two sentences."""
    sentences = [sentence for sentence in SENTENCE_END[language].split(text) if sentence]
    return (" " if language == "en" else "").join(sentences[:2])


@cache
def relation_patterns(language: str) -> list[tuple[str, re.Pattern[str]]]:
    """The compiled patterns of baselines.yaml with groups "s" and "o" for the names."""
    table = read_yaml("baselines.yaml")[language]
    relations = lexicon().data["relations"]
    patterns = []
    for relation, wordings in table["patterns"].items():
        subject, thing = (table["names"][relations[relation][side]] for side in ("subject", "object"))
        for wording in wordings:
            patterns.append((relation, re.compile(wording.format(s=f"(?P<s>{subject})", o=f"(?P<o>{thing})"))))
    return patterns


def regex_triples(text: str, language: str) -> list[tuple[str, str, str]]:
    """The (subject, relation, object) triples that the plainest two or three patterns a relation find."""
    return [
        (m["s"], relation, m["o"]) for relation, pattern in relation_patterns(language) for m in pattern.finditer(text)
    ]
