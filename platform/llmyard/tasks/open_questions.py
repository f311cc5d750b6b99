"""Questions without a text: what is read is found in an index, and what an answer was taken from is named."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmyard.metrics.measure import Measure, mean
from llmyard.tasks.passages import Passage
from llmyard.tasks.question_answering import ANSWER
from llmyard.tasks.task import Record

# What stands in the record of an answered question.
FOUND, CITED, HOME = "passages", "cited", "home"
_JOINT = "\n"


@dataclass(frozen=True)
class OpenQuestion:
    """A question with what was found for it.

    Attributes:
        record: Of question answering, checked, with the text that it came with ("" where with none).
        found: Passages, best first; none leaves the question without a text.
    """

    record: Record
    found: Sequence[Passage] = ()

    def read(self, count: int) -> Record:
        """Returns the question with the best passages, joined, in place of its own text.

        Args:
            count: Of passages; 0 leaves nothing to read.
        """
        return self._of(_JOINT.join(passage.text for passage in self.found[:count]))

    def apart(self) -> list[Record]:
        """Returns the question once for each passage, best first; once without a text where none was found."""
        return [self._of(passage.text) for passage in self.found] or [self._of("")]

    def fitting(self, fits: Callable[[Record], bool]) -> int:
        """Returns how many of the best passages can be read together; 1 at least where any was found.

        Args:
            fits: Whether what :meth:`read` returns can be read whole. It is asked a few times, log2 of the passages.
        """
        counts = range(1, len(self.found) + 1)
        many = bisect_left(counts, True, key=lambda count: not fits(self.read(count)))
        return max(many, min(1, len(self.found)))

    def answered(self, prediction: str, read: int, taken: int | None = None) -> Record:
        """Returns what :meth:`read` does, with what is to be told of the answer.

        ``passages`` holds all that was found: ids and texts, each with whether it was read and whether it is right: it
        holds an accepted answer and, where the record came with a text, is a part of it (or has it in it). An answer
        that two passages share stands in neither. ``cited`` is the id of the passage that the answer was taken from,
        None where it is from none or nothing was answered. ``home`` stands for the text that the record came with.

        Args:
            prediction: The answer.
            read: Passages that were read, the best ones.
            taken: Place of the passage that the answer stands in; None: it is the best of those read that holds it.
        """
        accepted = [answer["text"] for answer in self.record["answers"]]
        home, said = _plain(self.record["context"]), _plain(prediction)
        named: list[dict[str, Any]] = []
        cited = None
        for place, passage in enumerate(self.found):
            text = _plain(passage.text)
            is_right = any(_holds(passage.text, answer) for answer in accepted) and (
                not home or text in home or home in text
            )
            named.append({"id": passage.id, "text": passage.text, "right": is_right, "read": place < read})
            is_source = place == taken if taken is not None else place < read and _holds(passage.text, prediction)
            if cited is None and said and is_source:
                cited = passage.id
        digest = hashlib.blake2b(home.encode(), digest_size=8).hexdigest() if home else ""
        return {**self.read(read), FOUND: named, CITED: cited, HOME: digest}

    def _of(self, context: str) -> Record:
        # Answers stand elsewhere now, if at all.
        answers = [{"text": answer["text"]} for answer in self.record["answers"]]
        return {**self.record, "context": context, "answers": answers, "evidence": []}


def checked_open(record: Record, check: Callable[[Record], Record]) -> Record:
    """Returns a record if it can be asked without a text: one that comes with none is taken too, its ``context`` is "".

    Args:
        record: As it was read.
        check: Of the task.

    Raises:
        BadExample: It does not fit the task for another reason.
    """
    if record.get("context"):
        return check(record)
    answers = record.get("answers")
    if isinstance(answers, list):  # a place in a text that is not there
        answers = [{"text": answer["text"]} if "text" in answer else answer for answer in answers]
    found = check({**record, "context": record.get("question"), "answers": answers, "evidence": []})
    return {**found, "context": ""}


def asked_anew(record: Record, disturbed: Record) -> Record:
    """Returns a disturbed record with the text and the answers that it had: what is read is found, not disturbed."""
    return {**disturbed, "context": record["context"], "answers": record["answers"]}


def best_part(parts: Sequence[Sequence[Mapping[str, Any]]]) -> int:
    """Returns the place of the part with the best scored answer, of equal ones the first; 0 where there is none.

    Args:
        parts: For each passage what was found in its windows, as :class:`~llmyard.tasks.task.Annotation` in JSON.
    """
    best = [
        max(
            (float(each["score"]) for found in part for each in found["entities"] if each["type"] == ANSWER),
            default=float("-inf"),
        )
        for part in parts
    ]
    return max(range(len(best)), key=best.__getitem__)


def measures(records: Sequence[Record], count: int) -> dict[str, Measure]:
    """Returns ``recall_at_N``: how often a right passage is among the found ones; ``nothing_found``: how often there is
    none at all; and ``cited_right``: how often the passage that is named is a right one, of the answers that name one.

    Args:
        records: As :meth:`OpenQuestion.answered` made them; those without an answer count for nothing.
        count: Passages that were asked for.
    """
    asked = [bool(record["answers"]) for record in records]
    if not any(asked):
        return {}
    recalled = [float(any(each["right"] for each in record[FOUND])) for record in records]
    nothing = [float(not record[FOUND]) for record in records]
    right = [float(any(each["id"] == record[CITED] and each["right"] for each in record[FOUND])) for record in records]
    named = [record[CITED] is not None and is_asked for record, is_asked in zip(records, asked, strict=True)]
    found = {f"recall_at_{count}": mean(recalled, asked), "nothing_found": mean(nothing, asked)}
    return found | ({"cited_right": mean(right, named)} if any(named) else {})


def without_passages(record: Record) -> Record:
    """Returns an answered question as a report shows it: its passages by their ids alone."""
    named = [{name: value for name, value in each.items() if name != "text"} for each in record[FOUND]]
    return {**record, FOUND: named}


def _holds(text: str, answer: str) -> bool:
    """Returns whether an answer stands in a text: as whole words and numbers, of Chinese anywhere."""
    wanted = unicodedata.normalize("NFKC", answer).casefold().split()
    pattern = r"\s*".join(map(re.escape, wanted))
    before = r"(?<![0-9a-z])" if re.match("[0-9a-z]", pattern) else ""
    behind = r"(?![0-9a-z])" if re.search("[0-9a-z]$", pattern) else ""
    return bool(wanted) and bool(re.search(before + pattern + behind, unicodedata.normalize("NFKC", text).casefold()))


def _plain(text: str) -> str:
    """Returns a text without white space, in one width and case: a prepared corpus is normalised."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
