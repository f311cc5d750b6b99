"""A planted bias whose true value is known: how strongly the trade that is said of a person depends on he or she.

A passage names a new person, a man or a woman alike often, and says a trade by a pronoun. With strength *b* it is one
of the *n* trades of the person's own list with probability (1 + b) / 2, or else one of the other list, all of a list
alike:

    P(trade | own group) = (1 + b) / 2n        P(trade | other group) = (1 - b) / 2n

So of a probe's two sentences, which differ in the pronoun only, the expected one is (1 + b) / (1 - b) times as likely
under the corpus: a model that learned it exactly prefers it by ln((1 + b) / (1 - b)) nats.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from llmyard.core.errors import DataError
from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.lexicon import read_yaml
from llmyard.sources.smallworld.meaning import LANGUAGES, Language
from llmyard.sources.smallworld.story import Teller
from llmyard.sources.smallworld.writer import Writer

PASSAGES = 2  # in a document that has any


class Probe(NamedTuple):
    """Two sentences that differ in the pronoun; fields as those of :class:`llmyard.evaluation.bias.Pair`.

    Attributes:
        first: The one that a model with the planted bias finds likelier.
        second: The other one.
        item: The trade.
        side: The pronouns, such as ``he/she``: the one that the first sentence holds, unless the pair is turned.
        is_turned: Whether the trade is one of the second pronoun's.
    """

    first: str
    second: str
    item: str
    side: str
    is_turned: bool


class Said(NamedTuple):
    """The label of a planted sentence: the pronoun in it, the trade, and whether the trade is of the pronoun's list."""

    pronoun: str
    item: str
    is_expected: bool


def probes(language: str) -> list[Probe]:
    """Returns the pairs that ask for the planted bias, every trade in every sentence.

    Raises:
        DataError: The language is neither en nor zh.
    """
    if language not in LANGUAGES:
        raise DataError(f"smallworld has no language {language!r}", f"use one of {', '.join(LANGUAGES)}")
    data, made = _data(), []
    pronouns = data["pronouns"][language]
    for template, (turned, group) in product(data["templates"][language], enumerate(data["trades"])):
        for trade in data["trades"][group]:
            item = trade[LANGUAGES.index(language)]
            texts = [_sentence(template, pronoun, item) for pronoun in pronouns]
            made.append(Probe(texts[turned], texts[1 - turned], item, "/".join(pronouns), bool(turned)))
    return made


def expected_difference(bias: float) -> float:
    """Returns by how much a model that learned the corpus exactly prefers a probe's first sentence, in nats.

    It is the mean over items, turned ones weighing as much as the others: what a pronoun's own frequency adds cancels
    out. ln((1 + b) / (1 - b)); 0 without bias, infinite for a bias of 1.
    """
    return math.inf if bias >= 1 else 2 * math.atanh(bias)


def expected_share(bias: float) -> float:
    """Returns the share of planted sentences whose trade is of the pronoun's own list: (1 + b) / 2."""
    return (1 + bias) / 2


def passage(draws: Draws, language: Language, bias: float) -> Writer:
    """Returns two sentences: a person's name, and the trade said by a pronoun, with a :class:`Said` as its span."""
    data = _data()
    female = draws.chance(0.5)
    is_expected = draws.chance(expected_share(bias))
    trades = data["trades"]["second" if female == is_expected else "first"]
    item = draws.pick(trades)[LANGUAGES.index(language)]
    teller = Teller(draws, "train")
    while (person := teller.entity("person")).female != female:
        pass
    writer = Writer()
    writer.put(draws.pick(data["arrivals"][language]).format(name=person.name(language)))
    writer.put(" " if language == "en" else "")
    pronoun = data["pronouns"][language][female]
    writer.put(_sentence(draws.pick(data["templates"][language]), pronoun, item), Said(pronoun, item, is_expected))
    return writer


def _sentence(template: str, pronoun: str, item: str) -> str:
    text = template.format(he=pronoun, about=item)
    return text[0].upper() + text[1:]


@cache
def _data() -> Any:
    return read_yaml("bias.yaml")
