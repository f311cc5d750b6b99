"""Questions without a text: what is read is found in an index, and what an answer was taken from is named."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from llmyard.metrics.measure import Measure, mean
from llmyard.tasks.passages import Passage
from llmyard.tasks.task import Record

FOUND, CITED = "passages", "cited"
_JOINT = "\n"


def opened(record: Record, found: Sequence[Passage]) -> Record:
    """Returns a question with the passages that were found for its context, best first.

    ``passages`` holds their ids and texts, each with whether it is right: it holds an accepted answer and, where the
    record came with a context, stands in it.

    Args:
        record: Of question answering, checked.
        found: Best first; none leaves the question without a text.
    """
    accepted = [_plain(answer["text"]) for answer in record["answers"]]
    home = _plain(record["context"])
    named = []
    for passage in found:
        text = _plain(passage.text)
        holds = any(answer in text for answer in accepted)
        is_right = holds and (not home or text in home or home in text)
        named.append({"id": passage.id, "text": passage.text, "right": is_right})
    answers = [{"text": answer["text"]} for answer in record["answers"]]
    return {**record, "context": _JOINT.join(passage.text for passage in found), "answers": answers, FOUND: named}


def closed(record: Record) -> Record:
    """Returns a question without any text."""
    return opened(record, ())


def cited(record: Record, prediction: str) -> Record:
    """Returns a question with ``cited``: the id of the best passage that holds the answer; None where none does, or
    nothing was answered.
    """
    said = _plain(prediction)
    source = next((each["id"] for each in record[FOUND] if said and said in _plain(each["text"])), None)
    return {**record, CITED: source}


def measures(records: Sequence[Record], count: int) -> dict[str, Measure]:
    """Returns ``recall_at_N``: how often a right passage is among the found ones, and ``cited_right``: how often the
    passage that is named is a right one, of the answers that name one.

    Args:
        records: As :func:`cited` made them; those without an answer count for nothing.
        count: Passages that were asked for.
    """
    asked = [bool(record["answers"]) for record in records]
    if not any(asked):
        return {}
    recalled = [float(any(each["right"] for each in record[FOUND])) for record in records]
    right = [float(any(each["id"] == record[CITED] and each["right"] for each in record[FOUND])) for record in records]
    named = [record[CITED] is not None and is_asked for record, is_asked in zip(records, asked, strict=True)]
    found = {f"recall_at_{count}": mean(recalled, asked)}
    return found | ({"cited_right": mean(right, named)} if any(named) else {})


def _plain(text: str) -> str:
    """Returns a text without white space, in one width and case: a prepared corpus is normalised."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
