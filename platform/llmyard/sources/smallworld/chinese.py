"""The Chinese realiser: time and place before the verb, measure words, 了/没有, 把 for known objects, 的-clauses before
the noun.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llmyard.sources.smallworld.lexicon import read_yaml
from llmyard.sources.smallworld.meaning import Clause, Entity, Sentence, Thing, When
from llmyard.sources.smallworld.realiser import MOOD_FORMS, Realiser
from llmyard.sources.smallworld.writer import Writer, compiled_tree


@cache
def chinese_grammar() -> dict[str, Any]:
    """chinese.yaml with its templates compiled."""
    grammar: dict[str, Any] = compiled_tree(read_yaml("chinese.yaml"))
    return grammar


class Chinese(Realiser):
    """Writes Chinese."""

    language = "zh"
    joiner = "和"
    between = ""

    @property
    def grammar(self) -> dict[str, Any]:  # type: ignore[override]
        """The compiled chinese.yaml."""
        return chinese_grammar()

    def pronoun(self, entities: tuple[Entity, ...]) -> str:
        """他, 她, 它, 他们 or 她们."""
        if entities[0].kind != "person":
            return "它们" if len(entities) > 1 else "它"
        one = "她" if all(entity.female for entity in entities) else "他"
        return f"{one}们" if len(entities) > 1 else one

    def thing(self, thing: Thing) -> None:
        """三盏红色的灯."""
        self.mention(thing, self.reference(thing))

    def mention(self, thing: Thing, reference: str) -> None:
        """三盏红色的灯, 那三盏红色的灯, or 它们."""
        if reference == "pronoun":
            self.writer.put("它" if thing.number == 1 else "它们")
            return
        if reference == "definite":
            self.writer.put("那")
        numbers = self.lexicon["numbers"]
        number = numbers[thing.number - 1][1] if thing.number <= len(numbers) else str(thing.number)
        _, _, noun, measure = self.lexicon["things"][thing.noun]
        self.writer.put(number, ("count", thing))
        self.writer.put(measure)
        self.writer.put(self.lexicon["colours"][thing.colour], ("colour", thing))
        self.writer.put("的" + noun)

    def when(self, when: When) -> None:
        """星期一上午, 3月5日."""
        if when.kind == "week":
            day, part = self.lexicon["weekdays"][when.major][1], self.lexicon["parts_of_day"][when.minor][1]
            self.writer.put(day + part, ("when", when))
        else:
            self.writer.put(f"{when.major + 1}月{when.minor + 1}日", ("when", when))

    def sentence(self, sentence: Sentence) -> None:
        """Writes one sentence."""
        writer = self.writer
        if sentence.filler >= 0:
            self.fill(self.grammar["fillers"][sentence.filler], {})
            writer.put("。")
            return
        first, second = sentence.clauses[0], (sentence.clauses[1] if len(sentence.clauses) > 1 else None)
        if first.focus == "o":
            self.start_clause()
            self.last_subject = ()
            self.fill(self.form(self.grammar["relations"][first.verb]["inverse"]), {"s": first.s, "o": first.o})
            writer.put("。")
            return
        time = (second or first).t
        if time and not sentence.opening and self.loose() and self.draws.chance(0.5):
            self.when(time)
            writer.put("，")
            time = None
        self.start_clause()
        if sentence.joint == "noun":
            self.last_subject = first.s
            self.fill(self.grammar["relations"][first.verb]["noun"][0], {"s": first.s, "o": first.o})
        elif sentence.joint == "who":
            self.last_subject = first.s
            self.predicate(first)
            writer.put("的")
            self.put(first.s)
        else:
            self.fill(self.form(self.grammar["openings"][sentence.opening]), {"s": self.subject(first.s)})
        if time and (second is None or sentence.joint in ("noun", "who")):
            self.when(time)
            time = None
        if sentence.joint not in ("noun", "who"):
            if first.adverb:
                self.fill(self.grammar["adverbs"][first.adverb][0], {})
            self.predicate(first)
        if second is not None:
            self.start_clause()
            writer.put({"and": "，", "but": "，但"}.get(sentence.joint, ""))
            if time:
                self.when(time)
            self.predicate(second)
        writer.put("。")

    def predicate(self, clause: Clause, **swapped: str) -> None:
        """Writes the verb phrase; ``swapped`` slots are replaced by question words."""
        relation = self.grammar["relations"].get(clause.verb)
        if relation is not None:
            self.fill(self.form(relation[MOOD_FORMS[clause.mood]]), {"o": clause.o})
            return
        event = self.grammar["events"][clause.verb]
        forms = event["forms"]
        slots: dict[str, Any] = {"r": clause.r, "p": clause.p, "d": clause.d, "x": clause.o}
        slots["m"] = "" if clause.mood == "fact" else self.grammar["moods"][clause.mood][0]
        slots["a"] = "了" if clause.mood == "fact" else ""
        slots["c"] = self.lexicon["colours"].get(clause.c)
        if clause.thing and "o" not in swapped:
            reference = self.reference(clause.thing)
            kept, self.writer = self.writer, Writer()
            self.mention(clause.thing, reference)
            slots["o"], self.writer = self.writer, kept
            if reference != "new" and "definite" in event:
                forms = event["definite"]
        slots.update(swapped)
        self.fill(self.form(forms), slots)
        self.known(clause)

    def question(self, clause: Clause, asked: str) -> Writer:
        """Writes a question: the question word stands where the answer would."""
        writer = self.writer = Writer()
        relation = self.grammar["relations"].get(clause.verb)
        if relation is not None:
            self.fill(self.form(relation[f"ask_{asked}"]), {"s": clause.s, "o": clause.o})
            return writer
        word = self.grammar["asks"][asked][0][0]
        swapped: dict[str, str] = {}
        if asked in ("count", "colour") and clause.thing:
            _, _, noun, measure = self.lexicon["things"][clause.thing.noun]
            colour = self.lexicon["colours"][clause.thing.colour]
            swapped["o"] = f"{word}{measure}{colour}的{noun}" if asked == "count" else f"{word}的{noun}"
        if asked == "where":
            swapped["p"] = word
        self.put(word if asked == "who" else clause.s)
        if asked == "when":
            writer.put(word)
        self.predicate(clause, **swapped)
        writer.put("？")
        return writer

    def title(self, thing: Thing) -> str:
        """三盏红色的灯."""
        kept, self.writer = self.writer, Writer()
        self.mention(thing, "new")
        text, self.writer = self.writer.text, kept
        return text
