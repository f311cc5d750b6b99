"""What a story means, before any language: entities, things, clauses and sentences. Labels are read from here only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
ENTITY_KINDS = ("person", "organization", "school", "place", "product")


class Entity(NamedTuple):
    """A named thing with one fixed name in each language."""

    kind: str
    en: str
    zh: str
    female: bool = False

    def name(self, language: Language) -> str:
        """The name in this language."""
        return self.en if language == "en" else self.zh


class Thing(NamedTuple):
    """So many things of one colour and noun (ids of the lexicon): three red lamps."""

    number: int
    colour: str
    noun: str


class When(NamedTuple):
    """A time: kind "week" (weekday, part of day) or "date" (month, day), both counted from 0."""

    kind: str
    major: int
    minor: int


class Clause(NamedTuple):
    """One statement. A relation has ``s`` and ``o``; an event has the roles that lexicon.yaml names.

    Attributes:
        verb: A relation or an event id.
        s: The subjects, two when coordinated.
        o: The entities on the other side, two when coordinated.
        thing: What is bought, given or carried.
        r: The other person of an event (recipient).
        p: Where it happens.
        d: Where it goes.
        t: When it happens.
        c: The new colour, for "paint".
        adverb: "", or a way to stress a relation: "fact", "course" or "indeed".
        mood: "fact", "not", "will" or "want"; only a fact is true in the world.
        focus: "s" or "o": which side of a relation the sentence is about.
    """

    verb: str
    s: tuple[Entity, ...]
    o: tuple[Entity, ...] = ()
    thing: Thing | None = None
    r: Entity | None = None
    p: Entity | None = None
    d: Entity | None = None
    t: When | None = None
    c: str = ""
    adverb: str = ""
    mood: str = "fact"
    focus: str = "s"


class Sentence(NamedTuple):
    """One or two clauses about the same subject, or a filler sentence (an index into each language's list).

    ``joint`` says how a second clause hangs on: "and", "but", "who" (the first one is a relative clause) or
    "noun" (the first one is
    an apposition); ``opening`` is "", "then" or "but".
    """

    clauses: tuple[Clause, ...]
    joint: str = ""
    opening: str = ""
    filler: int = -1


@dataclass(frozen=True, slots=True)
class Triple:
    """A relation that holds in the world between two entities."""

    subject: Entity
    relation: str
    object: Entity


def story_key(sentences: list[Sentence]) -> str:
    """A text that is equal for two stories exactly when they tell the same, whatever the language or the wording."""
    parts: list[str] = []
    for sentence in sentences:
        for clause in sentence.clauses:
            parts.append(f"{clause.verb} {clause.mood} {clause.c} {clause.adverb}")
            parts.extend(entity.en for entity in clause.s)
            parts.extend(entity.en for entity in clause.o)
            if clause.thing is not None:
                parts.append(f"{clause.thing.number} {clause.thing.colour} {clause.thing.noun}")
            parts.extend(entity.en for entity in (clause.r, clause.p, clause.d) if entity is not None)
            if clause.t is not None:
                parts.append(f"{clause.t.kind} {clause.t.major} {clause.t.minor}")
    return "|".join(parts)
