"""Summaries of meetings, of all or of what a query asks for: QMSum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llmyard.sources.corpus import digest
from llmyard.sources.example_formats.needed import Unfit, need
from llmyard.sources.records import Fault, Found, Record, kind_of


def qmsum(rows: Iterable[tuple[int, Any]]) -> Iterator[Found]:
    """Yields the queries about each meeting with their answers; the number is the row's.

    The text has a line ``Speaker: words`` for each turn: of a specific query of those that it names as relevant, of a
    general one of all.
    """
    for number, row in rows:
        if isinstance(row, Fault):
            yield number, row
            continue
        try:
            turns = [_turn(each) for each in need(row, "meeting_transcripts", list, "the meeting")]
            queries = _queries(row)
        except Unfit as unfit:
            yield number, Fault(str(unfit))
            continue
        group = digest(_text(turns)).hex()
        for at, query in enumerate(queries, start=1):
            try:
                yield number, {"id": f"{number}:{at}", "group": group, **_record(turns, query)}
            except Unfit as unfit:
                yield number, Fault(f"query {at}: {unfit}")


def _turn(turn: Any) -> tuple[str, str]:
    speaker, content = need(turn, "speaker", str, "a turn"), turn.get("content")
    if not isinstance(content, str):
        raise Unfit(f"'content' of a turn is {kind_of(content)}, not a text")
    return speaker, " ".join(content.split())


def _queries(row: Record) -> list[Any]:
    fields = [field for field in ("general_query_list", "specific_query_list") if row.get(field) is not None]
    found = [query for field in fields for query in need(row, field, list, "the meeting")]
    if not found:
        raise Unfit("the meeting has no queries")
    return found


def _text(turns: list[tuple[str, str]]) -> str:
    return "\n".join(f"{speaker}: {content}" for speaker, content in turns if content)


def _record(turns: list[tuple[str, str]], query: Any) -> Record:
    asked, answer = (need(query, field, str, "the query") for field in ("query", "answer"))
    if query.get("relevant_text_span"):
        turns = [turns[at] for at in _relevant(need(query, "relevant_text_span", list, "the query"), len(turns))]
    text = _text(turns)
    if not text:
        raise Unfit("no words are said where it points")
    return {"text": text, "query": asked, "summary": answer}


def _relevant(spans: list[Any], count: int) -> list[int]:
    """Returns the indices of the turns in any of the spans, whose first and last turns are both meant."""
    chosen: set[int] = set()
    for span in spans:
        try:
            first, last = (int(each) for each in span)
        except (TypeError, ValueError):
            raise Unfit(f"'relevant_text_span' {str(span)[:40]} is no pair of numbers") from None
        if not 0 <= first <= last < count:
            raise Unfit(f"'relevant_text_span' says turns {first} to {last} of {count}")
        chosen.update(range(first, last + 1))
    return sorted(chosen)
