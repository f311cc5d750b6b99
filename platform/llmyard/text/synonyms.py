"""Words of one meaning, from a table made by hand (``synonyms.yaml``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

from llmyard.text.pieces import Piece, ends_sentence
from llmyard.text.tables import table

_VOWELS = "aeiou"
_ARTICLES = ("a", "an")
_INVARIABLE = ("adjectives", "others")
_ONLY_PUT_IN = "*"


def options_of(pieces: Sequence[Piece]) -> dict[int, tuple[str, ...]]:
    """Returns for each word that has synonyms which of them can stand for it, by its place.

    Behind ``a`` and ``an`` only those that go with it; names (capitals within a sentence) are left alone.
    """
    found = {}
    article, is_first = "", True
    for place, piece in enumerate(pieces):
        options: tuple[str, ...] = ()
        if piece.kind == "han":
            options = _chinese().get(piece.text, ())
        elif piece.kind == "word":
            options = _english_options(piece.text, article, is_first)
        if options:
            found[place] = options
        if piece.kind not in ("space", "mark"):
            article = piece.text.lower() if piece.text.lower() in _ARTICLES else ""
            is_first = False
        elif ends_sentence(piece):
            is_first = True
    return found


def _english_options(word: str, article: str, is_first: bool) -> tuple[str, ...]:
    is_capital = word[:1].isupper()
    if is_capital and not is_first:
        return ()
    lower = word[:1].lower() + word[1:] if is_capital else word
    options = _english().get(lower, ())
    if article:
        options = tuple(each for each in options if (each[0] in _VOWELS) == (article == "an"))
    return tuple(each[0].upper() + each[1:] for each in options) if is_capital else options


@cache
def _chinese() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for group in table("synonyms")["zh"]:
        words = group.split()
        for word in _replaceable(words):
            found[word].update(dict.fromkeys(each.rstrip(_ONLY_PUT_IN) for each in words))
    return {word: tuple(each for each in options if each != word) for word, options in found.items()}


@cache
def _english() -> dict[str, tuple[str, ...]]:
    """Returns for each form of each word what fits all that the form can be."""
    data = table("synonyms")["en"]
    readings: dict[str, list[list[str]]] = defaultdict(list)
    for kind, forms in (("nouns", _noun_forms), ("verbs", _verb_forms), *((each, _one_form) for each in _INVARIABLE)):
        for group in data[kind]:
            words = group.split()
            inflected = {word: forms(word.rstrip(_ONLY_PUT_IN)) for word in words}
            for word in _replaceable(words):
                for number, form in enumerate(inflected[word]):
                    others = [each[number] for other, each in inflected.items() if other != word]
                    readings[form].append(others)
    for variant, form in data["variants"].items():
        readings[variant] = readings[form]
    return {
        form: options
        for form, fitting in readings.items()
        if (options := tuple(each for each in fitting[0] if each != form and all(each in rest for rest in fitting)))
    }


def _replaceable(words: Iterable[str]) -> list[str]:
    return [word for word in words if not word.endswith(_ONLY_PUT_IN)]


def _irregular(word: str, count: int) -> tuple[str, ...] | None:
    forms = tuple(str(table("synonyms")["en"]["irregular"].get(word, "")).split())
    return forms if len(forms) == count else None


def _one_form(word: str) -> tuple[str, ...]:
    return (word,)


def _noun_forms(word: str) -> tuple[str, ...]:
    """Returns singular and plural."""
    return (word, *(_irregular(word, 1) or (_with_s(word),)))


def _verb_forms(word: str) -> tuple[str, ...]:
    """Returns base form, third person, -ing form, past and participle."""
    irregular = _irregular(word, 4)
    if irregular is not None:
        return (word, *irregular)
    stem = word[:-1] if word.endswith("e") and word[-2:] not in ("ee", "oe", "ye") else word
    past = f"{word[:-1]}ied" if _ends_in_consonant_y(word) else f"{word}d" if word.endswith("e") else f"{word}ed"
    return (word, _with_s(word), f"{stem}ing", past, past)


def _with_s(word: str) -> str:
    if _ends_in_consonant_y(word):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def _ends_in_consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2:-1] not in _VOWELS
