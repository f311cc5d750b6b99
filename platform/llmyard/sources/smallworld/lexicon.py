"""The words of the world, read once from lexicon.yaml, and which of them a split may use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations
from typing import Any

import yaml

from llmyard.sources.smallworld.draws import stable_hash

# One name word in 8 and one combination in 6 is kept for the test splits: rare enough to leave training rich.
HELD_NAME_SHARE = 8
HELD_PAIR_SHARE = 6


def read_yaml(file: str) -> Any:
    """The content of a YAML file beside this module."""
    return yaml.safe_load((resources.files(__package__) / file).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Word:
    """A name word of two syllables (a family name: of one), in both scripts."""

    en: str
    zh: str
    feminine: bool


def pair_is_held(first: str, second: str) -> bool:
    """Whether this combination of two word ids is kept out of every split but ``test_combinations``."""
    low, high = sorted((first, second))
    return stable_hash(f"pair {low} {high}") % HELD_PAIR_SHARE == 0


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: there is one, and its methods are cached
class Lexicon:
    """The lexicon; ``common`` name words occur everywhere, ``reserved`` ones in ``test_names`` only.

    A family name is one syllable and occurs in all splits; a person's whole name is reserved with its given name.
    """

    data: dict[str, Any]
    common: tuple[Word, ...]
    reserved: tuple[Word, ...]
    families: tuple[Word, ...]

    @cache  # noqa: B019 - there is one lexicon a process
    def partners(self, word: str, group: str, held: bool) -> tuple[str, ...]:
        """The ids of a group ("things", "colours") that go with the word in held-out (or in all other) combinations."""
        return tuple(other for other in self.data[group] if pair_is_held(word, other) == held)

    @cache  # noqa: B019 - there is one lexicon a process
    def nouns_for(self, verbs: tuple[str, ...], held: bool) -> tuple[str, ...]:
        """The thing ids that go with all the verbs; in held-out combinations, those held out with the first verb."""
        if held:
            return self.partners(verbs[0], "things", True) or tuple(self.data["things"])
        allowed = [set(self.partners(verb, "things", False)) for verb in verbs]
        return tuple(noun for noun in self.data["things"] if all(noun in nouns for nouns in allowed))

    @cache  # noqa: B019 - there is one lexicon a process
    def relation_pairs(self, held: bool) -> tuple[tuple[str, str], ...]:
        """Pairs of different relations that may stand together in one text."""
        pairs = combinations(sorted(self.data["relations"]), 2)
        return tuple(pair for pair in pairs if pair_is_held(*pair) == held)

    @cache  # noqa: B019 - there is one lexicon a process
    def relations_of(self, kind: str) -> tuple[str, ...]:
        """The relations whose subject is of this kind."""
        return tuple(relation for relation, rule in self.data["relations"].items() if rule["subject"] == kind)

    @cache  # noqa: B019 - there is one lexicon a process
    def verbs(self, held: bool) -> tuple[str, ...]:
        """The events; only those with a thing can make a held-out combination."""
        return tuple(verb for verb, rule in self.data["events"].items() if "o" in rule["roles"] or not held)


@cache
def lexicon() -> Lexicon:
    """The one lexicon."""
    data: dict[str, Any] = read_yaml("lexicon.yaml")
    denied = set(data["denied"])
    endings = tuple(data["feminine_endings"])
    words: dict[bool, list[Word]] = {False: [], True: []}
    for first, first_zh in data["syllables"].items():
        for second, second_zh in data["syllables"].items():
            name = first + second
            if first != second and name not in denied:
                held = stable_hash(f"name {name}") % HELD_NAME_SHARE == 0
                words[held].append(Word(name.capitalize(), first_zh + second_zh, name.endswith(endings)))
    families = tuple(Word(en.capitalize(), zh, False) for en, zh in data["syllables"].items())
    return Lexicon(data, tuple(words[False]), tuple(words[True]), families)
