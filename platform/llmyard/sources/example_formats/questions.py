"""Questions about texts: SQuAD and CMRC JSON, and the stories of bAbI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmyard.sources.corpus import digest
from llmyard.sources.example_formats.needed import Unfit, need
from llmyard.sources.records import Fault, Found, Record, kind_of


def squad(document: Any, repair: bool) -> Iterator[Found]:
    """Yields the questions of a document in the layout of SQuAD, which CMRC has too; the number is the question's.

    An answer that does not stand where it says is taken from the nearest place where it does (the record is
    ``repaired``); one that stands nowhere is dropped, and with the last one the question.

    Args:
        document: The parsed file.
        repair: Whether to look elsewhere at all.
    """
    number = 0
    try:
        articles = document if isinstance(document, list) else need(document, "data", list, "the document")
    except Unfit as unfit:
        yield number, Fault(str(unfit))
        return
    for article in articles:
        try:
            paragraphs = need(article, "paragraphs", list, "an article")
        except Unfit as unfit:
            number += 1
            yield number, Fault(str(unfit))
            continue
        for paragraph in paragraphs:
            for found in _paragraph(article, paragraph, repair):
                number += 1
                yield number, found


def _paragraph(article: Record, paragraph: Any, repair: bool) -> Iterator[Record | Fault]:
    try:
        questions = need(paragraph, "qas", list, "a paragraph")
    except Unfit as unfit:
        yield Fault(str(unfit))
        return
    for question in questions:
        try:
            context = need(paragraph, "context", str, "the paragraph")
            yield _question(context, question, _article_of(article, paragraph, context), repair)
        except Unfit as unfit:
            yield Fault(str(unfit))


def _article_of(article: Record, paragraph: Record, context: str) -> str:
    """Returns what tells an article from others: two that have one title are parts of one."""
    for holder, name in ((article, "title"), (article, "id"), (paragraph, "document_id")):
        value = holder.get(name)
        if isinstance(value, str | int) and str(value).strip():
            return str(value)
    return digest(context).hex()


def _question(context: str, question: Any, group: str, repair: bool) -> Record:
    text = need(question, "question", str, "the question")
    record: Record = {} if question.get("id") in (None, "") else {"id": str(question["id"])}
    record |= {"group": group, "context": context, "question": text, "answers": []}
    if question.get("is_impossible") is True:
        return record
    given = need(question, "answers", list, "the question")
    if not given and question.get("is_impossible") is False:
        raise Unfit("the question has no answer, though it is said to be possible")
    kept: dict[tuple[str, int], Record] = {}
    is_repaired, lost = False, ""
    for answer in given:
        answer_text = need(answer, "text", str, "an answer")
        start, is_moved = _place(context, answer_text, answer.get("answer_start"))
        if start is None or (is_moved and not repair):
            lost = _misplaced(context, answer_text, answer.get("answer_start"), start is not None)
            continue
        is_repaired |= is_moved
        stripped = answer_text.strip()  # white space around it would cut the neighbouring words' tokens
        kept[stripped, start] = {"text": stripped, "start": start}
    if given and not kept:
        raise Unfit(lost)
    record["answers"] = list(kept.values())
    return record | {"repaired": True} if is_repaired else record


def _place(context: str, text: str, said: Any) -> tuple[int | None, bool]:
    """Returns where an answer without the white space around it stands, and whether that is not where it said."""
    stripped = text.strip()
    is_number = isinstance(said, int) and not isinstance(said, bool)
    place = said if is_number else 0
    if is_number and place >= 0 and context.startswith(text, place):
        return place + len(text) - len(text.lstrip()), False
    return nearest(context, stripped, max(0, place)), True


def nearest(text: str, part: str, place: int) -> int | None:
    """Returns the occurrence of a part that begins nearest to a place, the earlier of two; None if there is none."""
    before, after = text.rfind(part, 0, place + len(part)), text.find(part, place)
    if before < 0 or after < 0:
        found = max(before, after)
        return found if found >= 0 else None
    return before if place - before <= after - place else after


def _misplaced(context: str, text: str, said: Any, is_elsewhere: bool) -> str:
    if not isinstance(said, int) or isinstance(said, bool):
        there = f"`answer_start` is {kind_of(said)}"
    else:
        there = f"{context[max(0, said) :][: len(text)][:40]!r} stands at {said}"
    hint = ", it stands elsewhere (`repair_offsets` finds it)" if is_elsewhere else " and nowhere in the context"
    return f"the answer {text[:40]!r} is not where it is said to be: {there}{hint}"


# Words that answer, but of no sentence: "no" stands in "no longer", which says something else.
_UNPLACED = frozenset({"yes", "no", "maybe", "none", "nothing", "one", "two", "three", "four", "five"})
_NUMBERED = re.compile(r"(\d+) +(\S.*)")


def babi(lines: Iterable[tuple[int, str | Fault]]) -> Iterator[Found]:
    """Yields the questions of bAbI stories, each about the sentences before it; the number is the line's.

    An answer that is one word of the story has a ``start``: where it stands last in the facts that the file names as
    support, else in all sentences. Yes, no, maybe, counts and lists have none. The supporting facts are the answer's
    ``evidence``, in the order in which the file names them: one leads to the next. A story that lacks a line is
    quarantined from there on: nobody can tell which questions need it.
    """
    story = _Story()
    for number, line in lines:
        if not isinstance(line, Fault) and not line.strip():
            continue
        match = None if isinstance(line, Fault) else _NUMBERED.match(line.strip())
        if match is None:
            yield number, line if isinstance(line, Fault) else Fault("there is no number and sentence")
            story.gap = story.gap or number
            continue
        place, sentence = int(match[1]), match[2].strip()
        if place == 1:
            yield from story.questions()
            story = _Story()
        elif place != story.last + 1:
            story.gap = story.gap or number
        story.last = place
        is_question = "\t" in sentence or sentence.endswith("?")
        if is_question and story.gap:
            yield number, Fault(f"its story has a gap at line {story.gap}")
        elif is_question:
            story.asked.append((number, sentence.split("\t"), len(story.sentences)))
        elif not story.gap:
            story.places[place] = len(story.sentences)
            story.sentences.append(sentence)
    yield from story.questions()


@dataclass
class _Story:
    sentences: list[str] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)  # number in the story: index among the sentences
    asked: list[tuple[int, list[str], int]] = field(default_factory=list)  # line, cells, sentences before it
    last: int = 0
    gap: int = 0  # the first line that is not as it should be; 0 for none

    def questions(self) -> Iterator[Found]:
        group = digest("\n".join(self.sentences)).hex()
        for number, cells, count in self.asked:
            question, answer = cells[0].strip(), cells[1].strip() if len(cells) > 1 else ""
            if not question or not answer or not count:
                missing = "question" if not question else "answer" if not answer else "sentence before the question"
                yield number, Fault(f"there is no {missing}")
                continue
            found: Record = {"text": answer}
            named = [int(each) for each in re.findall(r"\d+", " ".join(cells[2:]))]
            facts = [self.places[each] for each in named if self.places.get(each, count) < count]
            start = self._start(answer, count, facts)
            if start is not None:
                found["start"] = start
            record = {"context": " ".join(self.sentences[:count]), "question": question, "answers": [found]}
            if facts:
                facts = list(dict.fromkeys(facts))
                record["evidence"] = [{"text": self.sentences[at], "start": self._offset(at)} for at in facts]
            yield number, {"group": group, **record}

    def _offset(self, index: int) -> int:
        return sum(len(each) + 1 for each in self.sentences[:index])

    def _start(self, answer: str, count: int, facts: list[int]) -> int | None:
        if answer in _UNPLACED or not re.fullmatch(r"\w+", answer):
            return None
        word = re.compile(rf"\b{answer}\b")
        for index in [*sorted(facts, reverse=True), *range(count - 1, -1, -1)]:
            matches = list(word.finditer(self.sentences[index]))
            if matches:
                return self._offset(index) + matches[-1].start()
        return None
