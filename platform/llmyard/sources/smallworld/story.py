"""Draws what happens: a cast of entities with facts about them, events, and things that change hands, place and
colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.lexicon import Word, lexicon
from llmyard.sources.smallworld.meaning import Clause, Entity, Sentence, Thing, Triple, When

NOUNS_OF_KIND = {"organization": "organizations", "school": "schools", "place": "places", "product": "products"}
# Verbs that may follow an event of the same person: with the same thing, or without one.
SEQUELS_WITH_THING = ("give", "lend", "show", "send", "carry", "wash", "repair", "hide")
SEQUELS = ("go", "meet", "call", "buy", "find")
ADVERBS = ("fact", "course", "indeed")
FILLERS = 14  # as many as english.yaml and chinese.yaml each have
THREAD_VERBS = ("have", "give", "sell", "carry", "paint")
# A story that can be written (which takes further draws) and its key.
Made: TypeAlias = tuple[Callable[[], dict[str, Any]], str]


class Thread(NamedTuple):
    """A thing's way through a story: its sentences in order, and who has it where in which colour at the end."""

    sentences: list[Sentence]
    owner: Entity
    thing: Thing
    place: Entity


class Teller:
    """Draws the parts of one story under the rules of a split.

    Args:
        draws: The randomness of this story.
        split: "test_names" takes reserved names only, "test_combinations" held-out combinations of words
        only; all others neither.
    """

    def __init__(self, draws: Draws, split: str) -> None:
        self.draws = draws
        self.lexicon = lexicon()
        self.words = self.lexicon.reserved if split == "test_names" else self.lexicon.common
        self.held = split == "test_combinations"
        self.used: set[str] = set()
        self.nouns: set[str] = set()
        self.people: list[Entity] = []

    # -- entities, things, times

    def entity(self, kind: str) -> Entity:
        """A new entity of a kind; no two of a story share a name word."""
        word = self.unused(self.words)
        if kind == "person":
            family = self.unused(self.lexicon.families)
            person = Entity(kind, f"{word.en} {family.en}", f"{word.zh}·{family.zh}", word.feminine)
            self.people.append(person)
            return person
        nouns = self.lexicon.data[NOUNS_OF_KIND[kind]]
        en, zh = nouns[self.draws.pick(tuple(nouns))]
        return Entity(kind, f"{word.en} {en}", word.zh + zh)

    def unused(self, words: tuple[Word, ...]) -> Word:
        """A name word that this story does not have yet."""
        while (word := self.draws.pick(words)).en in self.used:
            pass
        self.used.add(word.en)
        return word

    def thing(self, *verbs: str) -> Thing:
        """A thing that may go with the verbs: with all of them, or in held-out stories with one that is held out."""
        draws = self.draws
        nouns = self.lexicon.nouns_for(verbs, self.held)
        noun = draws.pick(nouns)
        while noun in self.nouns and len(self.nouns) < len(nouns):
            noun = draws.pick(nouns)
        self.nouns.add(noun)
        colour = draws.pick(self.lexicon.partners(noun, "colours", self.held) or tuple(self.lexicon.data["colours"]))
        count = 1 + draws.below(12) if draws.chance(0.8) else 13 + draws.below(87)
        return Thing(count, colour, noun)

    def when(self) -> When:
        """A weekday or a date."""
        if self.draws.chance(0.5):
            return When("week", self.draws.below(7), self.draws.below(3))
        return When("date", self.draws.below(12), self.draws.below(28))

    # -- relations

    def relations(self, count: int) -> list[str]:
        """Different relations, no two of which make a combination of the wrong sort."""
        if count == 1 and not self.held:
            return [self.draws.pick(tuple(self.lexicon.data["relations"]))]
        pairs = self.lexicon.relation_pairs(self.held)
        chosen = list(self.draws.pick(pairs))
        if self.draws.chance(0.5):
            chosen.reverse()
        if count <= 2:
            return chosen
        allowed = set(self.lexicon.relation_pairs(False))
        for other in self.draws.shuffled(tuple(self.lexicon.data["relations"])):
            if len(chosen) >= count:
                break
            if other not in chosen and all(tuple(sorted((other, one))) in allowed for one in chosen):
                chosen.append(other)
        return chosen

    def fact(self, relation: str, subject: Entity | None = None, alone: bool = False) -> Clause:
        """A clause that states a relation; ``alone`` keeps subject and object single."""
        rule = self.lexicon.data["relations"][relation]
        subjects: tuple[Entity, ...] = (subject or self.entity(rule["subject"]),)
        objects: tuple[Entity, ...] = (self.entity(rule["object"]),)
        if not alone and self.draws.chance(0.3):
            if rule["several"] == "subject":
                subjects = (*subjects, self.entity(rule["subject"]))
            elif rule["several"] == "object":
                objects = (*objects, self.entity(rule["object"]))
        return Clause(relation, subjects, objects)

    def fact_sentences(self, relations: list[str]) -> list[Sentence]:
        """Sentences that state the relations around one person or organization, some joined in one sentence."""
        rules, draws = self.lexicon.data["relations"], self.draws
        heroes: dict[str, Entity] = {}
        sentences: list[Sentence] = []
        for relation in relations:
            kind = rules[relation]["subject"]
            clause = self.fact(relation, heroes.get(kind))
            heroes[kind] = clause.s[0]
            last = sentences[-1] if sentences else None
            if (
                last
                and len(last.clauses) == 1
                and last.clauses[0].s == clause.s
                and last.clauses[0].focus == "s"
                and draws.chance(0.55)
            ):
                joint = draws.pick(("and", "who", "noun"))
                sentences[-1] = Sentence((last.clauses[0], clause), joint)
                continue
            for entity in clause.o:
                heroes.setdefault(entity.kind, entity)
            if len(clause.s) == len(clause.o) == 1 and draws.chance(0.35):
                clause = clause._replace(focus="o")
            elif draws.chance(0.35):
                clause = clause._replace(adverb=draws.pick(ADVERBS))
            sentences.append(Sentence((clause,)))
        return sentences

    def untrue(self) -> Sentence:
        """A sentence about entities that states no relation: a visit, a letter, a denial or a wish."""
        draws = self.draws
        person = draws.pick(self.people) if self.people and draws.chance(0.6) else self.entity("person")
        if draws.chance(0.4):
            what = (self.entity(draws.pick(("organization", "school"))),)
            return Sentence((Clause(draws.pick(("visit", "write")), (person,), what),))
        relation = draws.pick(self.lexicon.relations_of("person"))
        clause = self.fact(relation, person, alone=True)
        return Sentence((clause._replace(mood=draws.pick(("not", "want"))),))

    # -- events

    def event(
        self, verb: str = "", subject: Entity | None = None, mood: str = "", thing: Thing | None = None
    ) -> Clause:
        """A clause about something done, with a time and a place more often than not."""
        draws, events = self.draws, self.lexicon.data["events"]
        verb = verb or draws.pick(self.lexicon.verbs(self.held))
        rule = events[verb]
        roles = rule["roles"]
        mood = mood or ("fact" if draws.chance(0.6) else draws.pick(rule["moods"]))
        return Clause(
            verb,
            (subject or self.entity("person"),),
            o=(self.entity("organization"),) if "x" in roles else (),
            thing=(thing or self.thing(verb)) if "o" in roles else None,
            r=self.entity("person") if "r" in roles else None,
            p=self.entity("place") if "p" in roles and draws.chance(0.65) else None,
            d=self.entity("place") if "d" in roles else None,
            t=self.when() if draws.chance(0.65) else None,
            mood=mood,
        )

    def event_sentences(self, two: bool) -> list[Sentence]:
        """An event, and perhaps a second one of the same person, with the same thing where there is one."""
        first = self.event()
        if not two:
            return [Sentence((first,))]
        thing = None if self.held else first.thing
        verbs = [
            verb
            for verb in (SEQUELS_WITH_THING if thing else SEQUELS)
            if verb != first.verb and (thing is None or thing.noun in self.lexicon.partners(verb, "things", False))
        ]
        second = self.event(self.draws.pick(verbs or ["go"]), first.s[0], "fact", thing)._replace(p=None)
        if first.t:
            second = second._replace(t=None)
        return [Sentence((first,)), Sentence((second,), opening="then" if first.mood == "fact" else "but")]

    def thread(self, steps: int) -> Thread:
        """A thing that somebody has and that then changes hands, place and colour; its state at the end is known."""
        draws = self.draws
        owner, place = self.entity("person"), self.entity("place")
        thing = self.thing(*THREAD_VERBS)
        sentences = [Sentence((Clause("have", (owner,), thing=thing, p=place),))]
        last = ""
        for step in range(steps):
            verb = draws.pick([v for v in ("give", "carry", "paint") if v != last])
            if step == steps - 1 and all(s.clauses[0].verb == "paint" for s in sentences[1:]):
                verb = draws.pick(("give", "carry"))  # so that the end differs from the beginning in more than colour
            clause = Clause(verb, (owner,), thing=thing, t=self.when() if draws.chance(0.3) else None)
            if verb == "give":
                clause = clause._replace(verb=draws.pick(("give", "sell")), r=self.entity("person"))
                owner = clause.r or owner
            elif verb == "carry":
                clause = clause._replace(d=self.entity("place"))
                place = clause.d or place
            else:
                others = [c for c in self.lexicon.partners(thing.noun, "colours", self.held) if c != thing.colour]
                clause = clause._replace(c=draws.pick(others or ["red" if thing.colour != "red" else "blue"]))
                thing = thing._replace(colour=clause.c)
            last = verb
            sentences.append(Sentence((clause,)))
        return Thread(sentences, owner, thing, place)

    def fillers(self, count: int) -> list[Sentence]:
        """So many different sentences about nobody."""
        first = self.draws.below(FILLERS)
        return [Sentence((), filler=(first + 5 * n) % FILLERS) for n in range(count)]

    def interleaved(self, *stories: list[Sentence]) -> list[Sentence]:
        """The stories told alternately at random, each in its own order."""
        rests = [list(reversed(story)) for story in stories if story]
        result: list[Sentence] = []
        while rests:
            rest = self.draws.pick(rests)
            result.append(rest.pop())
            if not rest:
                rests.remove(rest)
        return result


def triples_of(sentences: list[Sentence]) -> list[Triple]:
    """The relations that hold in the world of the story: facts only, no denials or wishes."""
    relations = lexicon().data["relations"]
    return [
        Triple(subject, clause.verb, thing)
        for sentence in sentences
        for clause in sentence.clauses
        if clause.verb in relations and clause.mood == "fact"
        for subject in clause.s
        for thing in clause.o
    ]
