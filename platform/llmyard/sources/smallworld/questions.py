"""Extractive questions: a context, a question about one of its clauses, and where the answer stands."""

from __future__ import annotations

from typing import Any

from llmyard.sources.smallworld.languages import REALISERS
from llmyard.sources.smallworld.meaning import Clause, Language, Sentence, story_key
from llmyard.sources.smallworld.story import Made, Teller
from llmyard.sources.smallworld.writer import Writer

UNANSWERABLE_SHARE = 1 / 6


def question_answering(teller: Teller, language: Language, long: bool) -> Made:
    """A context and a question about one clause of it; one question in six has no answer there."""
    draws = teller.draws
    relations = teller.relations(2)
    # The same relation about two people, so that the question's name decides and not its verb.
    sentences = [fact_sentence(teller, relation) for relation in relations + relations[:1]]
    for _ in range(3 if long else 1):
        sentences += teller.event_sentences(False)
    for _ in range(3 if long else draws.below(2)):
        sentences.append(teller.untrue())
    sentences = draws.shuffled(sentences)
    clauses = [sentence.clauses[0] for sentence in sentences]
    choices = [(n, asked) for n, clause in enumerate(clauses) for asked in answers_in(clause)]
    number, asked = draws.pick(choices)
    clause = clauses[number]
    answerable = not draws.chance(UNANSWERABLE_SHARE)
    if not answerable:
        clause, asked = unstated(teller, clauses)

    def record() -> dict[str, Any]:
        writer = REALISERS[language](draws).text(sentences)
        question = REALISERS[language](draws).question(clause, asked).text
        answers = [answer(writer, clause, number, asked)] if answerable else []
        return {"language": language, "context": writer.text, "question": question, "answers": answers}

    return record, story_key(sentences)


def fact_sentence(teller: Teller, relation: str) -> Sentence:
    """A relation between two new entities, seen from either side."""
    return Sentence((teller.fact(relation, alone=True)._replace(focus=teller.draws.pick("sso")),))


def answers_in(clause: Clause) -> tuple[str, ...]:
    """What may be asked about a clause: only facts answer anything."""
    if clause.mood != "fact":
        return ()
    if clause.o and clause.verb not in ("visit", "write"):
        return ("o", "s")
    asks = ["who"]
    if clause.thing:
        asks += ["count", "colour"]
    if clause.t:
        asks.append("when")
    if clause.p:
        asks.append("where")
    return tuple(asks)


def unstated(teller: Teller, clauses: list[Clause]) -> tuple[Clause, str]:
    """A question about the context's people that its facts leave open: another relation, a time or a place not told,
    a denial.
    """
    draws = teller.draws
    open_questions: list[tuple[Clause, str]] = []
    for clause in clauses:
        if clause.verb in teller.lexicon.data["events"]:
            roles = teller.lexicon.data["events"][clause.verb]["roles"]
            if clause.mood == "fact" and not clause.t:
                open_questions.append((clause, "when"))
            if clause.mood == "fact" and "p" in roles and not clause.p:
                open_questions.append((clause, "where"))
        elif clause.mood != "fact":
            open_questions.append((clause, "o"))
    person = draws.pick(teller.people)
    told = {clause.verb for clause in clauses if person in (*clause.s, *clause.o)}
    rules = teller.lexicon.data["relations"]
    relation = draws.pick([r for r in rules if rules[r]["subject"] == "person" and r not in told])
    open_questions.append((Clause(relation, (person,)), "o"))
    return draws.pick(open_questions)


def answer(writer: Writer, clause: Clause, number: int, asked: str) -> dict[str, Any]:
    """The answer as it stands in the clause that was asked about, or, where a pronoun stands there, in an earlier
    mention.
    """
    label: Any = (asked, clause.t if asked == "when" else clause.thing)
    if asked in ("s", "who"):
        label = clause.s[0]
    elif asked in ("o", "where"):
        label = clause.o[0] if asked == "o" else clause.p
    mentions = [span for span in writer.spans if span.label == label]
    span = next((span for span in mentions if span.clause == number), mentions[0])
    return {"text": writer.text[span.start : span.end], "start": span.start}
