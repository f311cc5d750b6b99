"""What goes wrong with text: edits to a wanted similarity, wrong decoding, salad, and stories retold with another
cast.
"""

from __future__ import annotations

from typing import Any

from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.lexicon import lexicon
from llmyard.sources.smallworld.meaning import Clause, Entity, Language, Sentence, Thing
from llmyard.sources.smallworld.story import Teller

SHINGLE = {"en": 5, "zh": 3}


def shingles(text: str, language: Language) -> set[str]:
    """The character n-grams of the text: 5 characters in English, 3 in Chinese."""
    size = SHINGLE[language]
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


def similarity(first: str, second: str, language: Language) -> float:
    """The Jaccard index of the two texts' shingles."""
    a, b = shingles(first, language), shingles(second, language)
    return len(a & b) / len(a | b)


def tokens_of(text: str, language: Language) -> list[str]:
    """Words for English, characters for Chinese."""
    return text.split(" ") if language == "en" else list(text)


def edited(text: str, language: Language, wanted: float, draws: Draws, phase: int = 0) -> str:
    """The text with words (Chinese: characters) replaced until its similarity to the original is just below ``wanted``.

    ``phase`` 0 and 1 edit different positions, so that two edits in a row add up.
    """
    tokens, joiner = tokens_of(text, language), " " if language == "en" else ""
    places = draws.shuffled(range(phase, len(tokens), 2))
    words = [entry[2 if language == "zh" else 0] for entry in lexicon().data["things"].values()]
    # A replaced token of length t breaks about n + t - 1 shingles; start from the closed form and step to the mark.
    broken = len(text) * (1 - wanted) / (1 + wanted)
    step = max(1, int(0.8 * broken / (SHINGLE[language] + (4 if language == "en" else 0))))
    result = text
    while places and similarity(text, result, language) > wanted:
        for place in places[:step]:
            tokens[place] = draws.pick(words)[: None if language == "en" else 1]
        del places[:step]
        step = 1
        result = joiner.join(tokens)
    return result


def salad(text: str, language: Language, draws: Draws) -> str:
    """The same words (Chinese: characters) in random order."""
    return (" " if language == "en" else "").join(draws.shuffled(tokens_of(text, language)))


def mojibake(text: str, language: Language, draws: Draws) -> str:
    """UTF-8 bytes read in another encoding; English gets typographic quotes first, since ASCII survives every
    reading.
    """
    if language == "en":
        text = "“" + text.replace(". ", ".” — “") + "”"
        return text.encode().decode("cp1252", errors="replace")
    return text.encode().decode(draws.pick(("gb18030", "cp1252", "latin-1")), errors="replace")


def recast(sentences: list[Sentence], teller: Teller) -> list[Sentence]:
    """The same story told of others: new names, numbers and colours in the same sentences, so it must not count as a
    copy.
    """
    others: dict[Any, Any] = {}

    def swap(value: Any) -> Any:
        if type(value) is tuple:
            return tuple(swap(entity) for entity in value)
        if type(value) not in (Entity, Thing):
            return value
        if value not in others:
            if type(value) is Entity:
                new = teller.entity(value.kind)
                while value.kind == "person" and new.female != value.female:
                    new = teller.entity(value.kind)
                others[value] = new
            else:
                thing = teller.thing("have")
                others[value] = thing._replace(number=thing.number if value.number > 1 else 1)
        return others[value]

    def swapped(clause: Clause) -> Clause:
        return Clause(*(swap(field) for field in clause))

    return [sentence._replace(clauses=tuple(swapped(clause) for clause in sentence.clauses)) for sentence in sentences]
