"""What the English and the Chinese realiser share: slots, mentions and the choice between forms. Neither sees the
other's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.lexicon import lexicon
from llmyard.sources.smallworld.meaning import Clause, Entity, Language, Sentence, Thing, When
from llmyard.sources.smallworld.writer import Agreement, Slot, Template, Writer

MOOD_FORMS = {"fact": "vp", "not": "not", "will": "want", "want": "want"}


class Realiser:
    """Writes one text in one language.

    Args:
        draws: Where the choices between forms come from.
        variety: 1 picks among all forms alike, 0 always takes the usual one. Between them: how often a choice is free.
    """

    language: Language
    grammar: dict[str, Any]
    joiner: str
    between: str

    def __init__(self, draws: Draws, variety: float = 1.0) -> None:
        self.draws = draws
        self.variety = variety
        self.writer = Writer()
        self.lexicon = lexicon().data
        self.last_subject: tuple[Entity, ...] = ()
        self.last_thing: Thing | None = None
        self.seen: set[Thing] = set()
        self.clauses = 0

    # -- choices

    def form(self, templates: Sequence[Any]) -> Any:
        """One of the forms: the usual one comes first."""
        if len(templates) > 1 and self.loose():
            return self.draws.pick(templates)
        return templates[0]

    def loose(self) -> bool:
        """Whether this choice is free."""
        return self.variety > 0 and self.draws.chance(self.variety)

    # -- writing

    def fill(self, template: Template, slots: dict[str, Any], plural: bool = False) -> None:
        """Writes a template with its slots' values."""
        for piece in template:
            kind = type(piece)
            if kind is str:
                self.writer.put(piece)
            elif kind is Slot:
                self.put(slots[piece.name])
            elif kind is Agreement:
                self.writer.put(piece.plural if plural else piece.singular)
            elif all(slots.get(name) is not None for name in piece.slots):
                self.fill(piece.pieces, slots, plural)

    def put(self, value: Any) -> None:
        """Writes a slot's value: plain text, an entity, several entities, a thing or a time."""
        kind = type(value)
        if kind is str:
            self.writer.put(value)
        elif kind is Entity:
            self.entity(value)
        elif kind is tuple:
            for i, entity in enumerate(value):
                if i:
                    self.writer.put(self.joiner)
                self.entity(entity)
        elif kind is Thing:
            self.thing(value)
        elif kind is When:
            self.when(value)
        elif kind is Writer:  # written ahead
            value.spans = [span._replace(clause=self.writer.clause) for span in value.spans]
            self.writer.extend(value)

    def entity(self, entity: Entity) -> None:
        """Writes a name."""
        self.writer.put(entity.name(self.language), entity)

    def reference(self, thing: Thing) -> str:
        """How to mention the thing: "pronoun" right after its last mention, "definite" later on, "new" the first
        time.
        """
        if thing not in self.seen:
            self.seen.add(thing)
            self.last_thing = thing
            return "new"
        if thing == self.last_thing and not (self.loose() and self.draws.chance(0.4)):
            return "pronoun"
        self.last_thing = thing
        return "definite"

    def subject(self, entities: tuple[Entity, ...]) -> Any:
        """The subject: a pronoun where the last sentence had the same one, otherwise the names."""
        same = entities == self.last_subject
        self.last_subject = entities
        if same and not (self.loose() and self.draws.chance(0.4)):
            return self.pronoun(entities)
        return entities

    def text(self, sentences: Sequence[Sentence]) -> Writer:
        """Writes all sentences; ``writer.spans`` holds every mention."""
        for i, sentence in enumerate(sentences):
            if i:
                self.writer.put(self.between)
            self.sentence(sentence)
            # A pronoun must find its noun in the sentence before.
            if sentence.filler >= 0:
                self.last_subject = ()
            if not any(clause.thing for clause in sentence.clauses):
                self.last_thing = None
        return self.writer

    def start_clause(self) -> None:
        """Numbers the clauses in the order in which the story tells them."""
        self.writer.clause = self.clauses
        self.clauses += 1

    def known(self, clause: Clause) -> None:
        """Takes note that a painted thing goes by its new colour from here on."""
        if clause.verb == "paint" and clause.thing is not None:
            self.last_thing = clause.thing._replace(colour=clause.c)
            self.seen.add(self.last_thing)

    # -- each language's own

    def pronoun(self, entities: tuple[Entity, ...]) -> str:
        """The pronoun of a subject."""
        raise NotImplementedError

    def thing(self, thing: Thing) -> None:
        """Writes a mention of a thing."""
        raise NotImplementedError

    def when(self, when: When) -> None:
        """Writes a time."""
        raise NotImplementedError

    def sentence(self, sentence: Sentence) -> None:
        """Writes a sentence with its full stop."""
        raise NotImplementedError

    def question(self, clause: Clause, asked: str) -> Writer:
        """Writes the question that asks for "s", "o", "count", "colour", "who", "when" or "where" of a clause."""
        raise NotImplementedError

    def title(self, thing: Thing) -> str:
        """The thing with its number and colour, out of context."""
        raise NotImplementedError

    def phrase(self, key: str, **slots: Any) -> str:
        """A line of a dialogue, a title or the like: ``key`` is a path such as "dialogue/order"."""
        kept, self.writer = self.writer, Writer()
        self.line(key, **slots)
        line, self.writer = self.writer.text, kept
        return line

    def line(self, key: str, **slots: Any) -> None:
        """Writes such a line into the text."""
        node: Any = self.grammar
        for part in key.split("/"):
            node = node[part]
        self.fill(self.form(node), slots)
