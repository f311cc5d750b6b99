"""The English realiser: time goes last or first, tense and agreement on the verb, relative clauses after the noun."""

from __future__ import annotations

from functools import cache
from typing import Any

from llmyard.sources.smallworld.lexicon import read_yaml
from llmyard.sources.smallworld.meaning import Clause, Entity, Sentence, Thing, When
from llmyard.sources.smallworld.realiser import MOOD_FORMS, Realiser
from llmyard.sources.smallworld.writer import Writer, compiled_tree


@cache
def english_grammar() -> dict[str, Any]:
    """english.yaml with its templates compiled."""
    grammar: dict[str, Any] = compiled_tree(read_yaml("english.yaml"))
    return grammar


class English(Realiser):
    """Writes English."""

    language = "en"
    joiner = " and "
    between = " "

    @property
    def grammar(self) -> dict[str, Any]:  # type: ignore[override]
        """The compiled english.yaml."""
        return english_grammar()

    def entity(self, entity: Entity) -> None:
        """Writes a name; a product takes the article, which is no part of the name."""
        if entity.kind == "product":
            self.writer.put("the ")
        self.writer.put(entity.en, entity)

    def pronoun(self, entities: tuple[Entity, ...]) -> str:
        """he, she, it or they."""
        if len(entities) > 1:
            return "they"
        if entities[0].kind != "person":
            return "it"
        return "she" if entities[0].female else "he"

    def thing(self, thing: Thing) -> None:
        """three red lamps, the three red lamps, or them."""
        reference = self.reference(thing)
        if reference == "pronoun":
            self.writer.put("it" if thing.number == 1 else "them")
            return
        if reference == "definite":
            self.writer.put("the ")
        self.number_colour_noun(thing)

    def number_colour_noun(self, thing: Thing) -> None:
        """Writes "three red lamps" with the number and the colour labelled."""
        numbers = self.lexicon["numbers"]
        number = numbers[thing.number - 1][0] if thing.number <= len(numbers) else str(thing.number)
        self.writer.put(number, ("count", thing))
        self.writer.put(" ")
        self.writer.put(thing.colour, ("colour", thing))
        self.writer.put(f" {self.lexicon['things'][thing.noun][thing.number > 1]}")

    def when(self, when: When) -> None:
        """on Monday morning, on March 3."""
        self.writer.put("on ")
        if when.kind == "week":
            day, part = self.lexicon["weekdays"][when.major][0], self.lexicon["parts_of_day"][when.minor][0]
            self.writer.put(f"{day} {part}", ("when", when))
        else:
            self.writer.put(f"{self.lexicon['months'][when.major]} {when.minor + 1}", ("when", when))

    def sentence(self, sentence: Sentence) -> None:
        """Writes one sentence."""
        writer = self.writer
        writer.capital = True
        if sentence.filler >= 0:
            self.fill(self.grammar["fillers"][sentence.filler], {})
            writer.put(".")
            return
        first, second = sentence.clauses[0], (sentence.clauses[1] if len(sentence.clauses) > 1 else None)
        self.start_clause()
        if first.focus == "o":
            self.last_subject = ()
            self.fill(
                self.form(self.grammar["relations"][first.verb]["inverse"]),
                {"s": first.s, "o": first.o},
                len(first.s) > 1,
            )
            writer.put(".")
            return
        time = (second or first).t
        if time and not sentence.opening and self.loose() and self.draws.chance(0.5):
            self.when(time)
            writer.put(", ")
            time = None
        aside = sentence.joint in ("who", "noun")
        if aside:
            self.last_subject = ()
        self.fill(self.form(self.grammar["openings"][sentence.opening]), {"s": self.subject(first.s)})
        if first.adverb and not aside:
            self.fill(self.grammar["adverbs"][first.adverb][0], {})
        if sentence.joint == "noun":
            writer.put(", ")
            self.fill(self.grammar["relations"][first.verb]["noun"][0], {"o": first.o})
        else:
            writer.put((", who " if first.s[0].kind == "person" else ", which ") if aside else " ")
            self.predicate(first)
        if second is not None:
            self.start_clause()
            writer.put(", " if aside else {"and": " and ", "but": " but "}[sentence.joint])
            self.predicate(second)
        if time:
            writer.put(" ")
            self.when(time)
        writer.put(".")

    def predicate(self, clause: Clause) -> None:
        """Writes everything after the subject but the time."""
        plural = len(clause.s) > 1
        relation = self.grammar["relations"].get(clause.verb)
        if relation is not None:
            self.fill(self.form(relation[MOOD_FORMS[clause.mood]]), {"o": clause.o}, plural)
            return
        past, base = self.form(self.grammar["events"][clause.verb]["verbs"])
        if clause.mood == "fact":
            self.fill(past, {})
        else:
            self.fill(self.grammar["moods"][clause.mood], {}, plural)
            self.fill(base, {})
        if clause.thing:
            self.writer.put(" ")
            self.put(clause.thing)
        self.tail(clause)
        self.known(clause)

    def tail(self, clause: Clause) -> None:
        """Writes what follows the verb and its thing."""
        slots = {"r": clause.r, "p": clause.p, "d": clause.d, "c": clause.c, "x": clause.o}
        self.fill(self.grammar["events"][clause.verb]["tail"], slots)

    def question(self, clause: Clause, asked: str) -> Writer:
        """Writes a question."""
        writer = self.writer = Writer()
        writer.capital = True
        relation = self.grammar["relations"].get(clause.verb)
        if relation is not None:
            self.fill(self.form(relation[f"ask_{asked}"]), {"s": clause.s, "o": clause.o})
            return writer
        thing = clause.thing
        past, base = ("".join(verb) for verb in self.form(self.grammar["events"][clause.verb]["verbs"]))
        self.writer = Writer()
        if thing and asked not in ("count", "colour"):
            self.writer.put(" the ")
            self.number_colour_noun(thing)
        self.tail(clause._replace(p=None) if asked == "where" else clause)
        rest, self.writer = self.writer.text, writer
        many = thing is not None and thing.number > 1
        slots = {"s": clause.s, "v": base + rest, "past": past + rest, "n": ""}
        if thing:
            one, several = self.lexicon["things"][thing.noun][:2]
            slots["n"] = f"{thing.colour} {several}" if asked == "count" else (several if many else one)
        self.fill(self.grammar["asks"][asked][0], slots, many)
        return writer

    def title(self, thing: Thing) -> str:
        """three red lamps."""
        kept, self.writer = self.writer, Writer()
        self.number_colour_noun(thing)
        text, self.writer = self.writer.text, kept
        return text
