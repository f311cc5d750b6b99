"""Bias, measured on pairs of texts that differ in nothing but who is spoken of.

A model scores both texts of each pair: how likely they are, or how probable a label is. The scores differ by chance, by
how frequent words are, and by bias. The second is cancelled out where words that are expected of the one side stand
beside as many that are expected of the other; the first is what the interval is for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Any

import numpy as np

from llmyard.core.errors import DataError, RequestError
from llmyard.metrics.significance import F64, RESAMPLES, paired_bootstrap


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that differ in who is spoken of.

    Attributes:
        first: The text that a biased model scores higher, if its bias is the expected one.
        second: The other one.
        item: What they are about: an occupation, a quality; the sentence itself where there is no such word.
        side: Who is spoken of, such as ``he/she``: the one that the first text names, unless the pair is turned.
        is_turned: Whether the texts have changed places, since the item is expected of the other side.
    """

    first: str
    second: str
    item: str
    side: str
    is_turned: bool = False


@dataclass(frozen=True, slots=True)
class Bias:
    """How much higher the first texts of pairs score; all but ``share`` in the unit of the scores.

    Attributes:
        difference: Mean over items, those that are turned counting as much as the others.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: How often a difference this large, either way, is chance if there is none.
        share: Of pairs whose first text scores higher, ties half: 0.5 where there is no bias (Nangia et al. 2020).
        pairs: How many there are.
        by_item: The difference for each item. What makes one side likelier everywhere is still in it, with one sign in
            those that are turned and the other in the rest.
        by_side: The difference for each side.
    """

    difference: float
    low: float
    high: float
    p_value: float
    share: float
    pairs: int
    by_item: Mapping[str, float]
    by_side: Mapping[str, float]


PLANTED = "smallworld"
"""Name of the probe of smallworld's own bias, whose true value is known (``sources.smallworld.bias``)."""


def probes() -> list[str]:
    """Returns the names of the probes there are; ``bias.yaml`` says what each asks."""
    return [*_data()["probes"], PLANTED]


def pairs_of(probe: str, language: str) -> list[Pair]:
    """Returns the pairs of a probe, for likelihoods or for a classifier's probabilities.

    Raises:
        RequestError: There is no such probe, or not in this language.
    """
    if probe == PLANTED:
        from llmyard.sources.smallworld import bias

        return [Pair(*each) for each in bias.probes(language)]
    found = _data()["probes"].get(probe)
    if found is None:
        raise RequestError(f"there is no bias probe {probe!r}", f"known: {', '.join(probes())}")
    if language not in found:
        raise RequestError(f"the bias probe {probe!r} is not made for language {language!r}", f"use {', '.join(found)}")
    return list(_pairs(found[language]))


def measured(pairs: Sequence[Pair], first: Sequence[float], second: Sequence[float], seed: int = 0) -> Bias:
    """Returns the bias that scores show.

    Pairs about one item are not independent: their scores are averaged, and items are what is drawn (Efron 1979). The
    interval says how far the figure would hold for other words of the kind, not for other sides than those asked about.

    Args:
        pairs: As :func:`pairs_of` gives them, or of one's own.
        first: Scores of the first texts: log-likelihoods or probabilities.
        second: Scores of the second texts.
        seed: Of the bootstrap.

    Raises:
        DataError: The scores are not one for each text, or not finite; fewer than two items; an item turned by halves.
    """
    if not len(pairs) == len(first) == len(second):
        raise DataError(
            f"{len(pairs)} pairs have {len(first)} first and {len(second)} second scores", "score both texts of each"
        )
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    turned = {pair.item: pair.is_turned for pair in pairs}
    both = [pair.item for pair in pairs if pair.is_turned != turned[pair.item]]
    if both:
        raise DataError(f"the item {both[0]!r} has pairs that are turned and others that are not", "turn all or none")
    if len(turned) < 2:
        raise DataError(f"{len(turned)} items have no spread to be drawn from", "ask about two or more")
    one, other = (_by_item(pairs, scores, turned) for scores in (first, second))
    found = paired_bootstrap(one, other, _mean_of_both, resamples=RESAMPLES, seed=seed)
    return Bias(
        found.difference,
        found.low,
        found.high,
        found.p_value,
        float((differences > 0).mean() + (differences == 0).mean() / 2),
        len(pairs),
        _means((pair.item for pair in pairs), differences),
        _means((pair.side for pair in pairs), differences),
    )


def _by_item(pairs: Sequence[Pair], scores: Sequence[float], turned: Mapping[str, bool]) -> F64:
    """Returns a row for each item: its mean score and 1, in the first two columns or, if it is turned, the others."""
    means = _means((pair.item for pair in pairs), scores)
    rows = np.zeros((len(means), 4))
    for number, (item, mean) in enumerate(means.items()):
        at = 2 if turned[item] else 0
        rows[number, at : at + 2] = mean, 1
    return rows


def _mean_of_both(sums: F64) -> F64:
    """Returns the mean over items, and over those that are turned, weighed alike: so that what makes one side likelier
    everywhere cancels out in each resample.
    """
    totals, counts = sums[..., ::2], sums[..., 1::2]
    means = np.divide(totals, counts, out=np.zeros(totals.shape), where=counts != 0)
    return np.asarray(means.sum(-1) / np.maximum(1, (counts != 0).sum(-1)))


def _means(names: Iterable[str], scores: Sequence[float] | F64) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for name, score in zip(names, scores, strict=True):
        found[name].append(float(score))
    return {name: sum(each) / len(each) for name, each in found.items()}


@cache
def _data() -> Any:
    import yaml

    return yaml.safe_load((resources.files(__package__) / "bias.yaml").read_text(encoding="utf-8"))


def _pairs(probe: Mapping[str, Any]) -> Iterator[Pair]:
    words = [(word, False) for word in probe.get("about", ())] + [(word, True) for word in probe.get("turned", ())]
    for side, template, (word, is_turned) in product(probe["sides"], probe["templates"], words or [("", False)]):
        name = "/".join(next(iter(side.values())))
        texts = [_sentence(template, {form: both[at] for form, both in side.items()}, word) for at in (0, 1)]
        if is_turned:
            texts.reverse()
        yield Pair(texts[0], texts[1], word or template, name, is_turned)


def _sentence(template: str, who: Mapping[str, str], word: str) -> str:
    text = template.format(**who, about=word)
    return text[:1].upper() + text[1:]
