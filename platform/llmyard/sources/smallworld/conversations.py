"""Task-oriented dialogues whose every answer follows from what was said before: orders, reminders, questions about
told facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmyard.sources.smallworld.languages import REALISERS, TARGET_VARIETY
from llmyard.sources.smallworld.meaning import Clause, Language, Sentence, story_key
from llmyard.sources.smallworld.story import Made, Teller


def dialogue(teller: Teller, language: Language, long: bool) -> Made:
    """Two to four messages (six when long) of a user and an assistant, in turn."""
    scene = teller.draws.pick((order, reminder, interview))
    return scene(teller, language, long)


def messages(lines: Iterator[str] | list[str]) -> list[dict[str, str]]:
    """The lines as messages; the user begins."""
    return [{"role": ("user", "assistant")[n % 2], "content": line} for n, line in enumerate(lines)]


def order(teller: Teller, language: Language, long: bool) -> Made:
    """An order; the customer may change it, and the confirmation must say what holds in the end."""
    draws = teller.draws
    person, place, when = teller.entity("person"), teller.entity("place"), teller.when()
    things = [teller.thing("send"), teller.thing("send")]
    brief = draws.chance(0.3) and not long
    key = story_key(
        [Sentence((Clause("send", (person,), thing=thing, d=place, t=when),)) for thing in things[: 1 + long]]
    )

    def record() -> dict[str, Any]:
        user, assistant = REALISERS[language](draws), REALISERS[language](draws, TARGET_VARIETY)
        thing, changed = (user.title(thing) for thing in things)
        slots: dict[str, Any] = {"n": person, "o": thing, "p": place, "t": when}
        if brief:
            lines = [user.phrase("dialogue/order_all", **slots), assistant.phrase("dialogue/confirm", **slots)]
        else:
            lines = [user.phrase("dialogue/order", **slots), assistant.phrase("dialogue/where", **slots)]
            lines += [user.phrase("dialogue/place", **slots), assistant.phrase("dialogue/confirm", **slots)]
        if long:
            slots["o"] = changed
            lines += [user.phrase("dialogue/change", **slots), assistant.phrase("dialogue/confirm", **slots)]
        return {"language": language, "messages": messages(lines)}

    return record, key


def reminder(teller: Teller, language: Language, long: bool) -> Made:
    """A meeting to be noted, then moved to another time or place."""
    draws = teller.draws
    person, place, when = teller.entity("person"), teller.entity("place"), teller.when()
    changes = [("p", teller.entity("place")), ("t", teller.when())]
    if draws.chance(0.5):
        changes.reverse()
    kept = changes if long else changes[: draws.below(2) if not teller.held else 1]
    key = story_key([Sentence((Clause("meet", (person,), p=place, t=when),))])

    def record() -> dict[str, Any]:
        user, assistant = REALISERS[language](draws), REALISERS[language](draws, TARGET_VARIETY)
        slots: dict[str, Any] = {"r": person, "p": place, "t": when}
        lines = [user.phrase("dialogue/remind", **slots), assistant.phrase("dialogue/noted", **slots)]
        for name, value in kept:
            slots[name] = value
            lines.append(user.phrase("dialogue/move_place" if name == "p" else "dialogue/move_time", **slots))
            lines.append(assistant.phrase("dialogue/noted", **slots))
        return {"language": language, "messages": messages(lines)}

    return record, key


def interview(teller: Teller, language: Language, long: bool) -> Made:
    """Facts told by the user, then questions about them; what was not told is not known."""
    draws = teller.draws
    clauses = [teller.fact(relation, alone=True) for relation in teller.relations(4 if long else 2)]
    sentences = [Sentence((clause,)) for clause in clauses]
    asked = [(draws.pick(clauses), draws.pick("os")) for _ in range(3 if long else 1 + draws.below(2))]
    rules = teller.lexicon.data["relations"]
    told = {clause.verb for clause in clauses}
    unknown = [r for r, rule in rules.items() if r not in told and rule["subject"] == "person"]
    if teller.people and draws.chance(0.2):
        asked[-1] = (Clause(draws.pick(unknown), (draws.pick(teller.people),)), "o")

    def record() -> dict[str, Any]:
        lines: list[str] = []
        for clause, side in asked:
            question = REALISERS[language](draws).question(clause, side).text
            told_first = REALISERS[language](draws).text(sentences).text if not lines else ""
            lines.append(question if not told_first else f"{told_first}{REALISERS[language].between}{question}")
            answerer = REALISERS[language](draws, TARGET_VARIETY)
            known = bool(clause.o)
            lines.append(answerer.text([Sentence((clause,))]).text if known else answerer.phrase("dialogue/unknown"))
        return {"language": language, "messages": messages(lines)}

    return record, story_key(sentences)
