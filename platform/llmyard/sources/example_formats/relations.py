"""Relations between two entities of a sentence: SemEval-2010 task 8, FinRE (Chinese) and FewRel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from llmyard.sources.example_formats.needed import Unfit, need
from llmyard.sources.records import Fault, Found, Record, kind_of

_BEGINS = re.compile(r"(\d+)\t(.*)")
_TAGS = ["<e1>", "</e1>", "<e2>", "</e2>"]
_RELATION = re.compile(r"(?!Comment)[^\s():]+(?:\(e1,e2\)|\(e2,e1\))?")


def semeval(lines: Iterable[tuple[int, str | Fault]]) -> Iterator[Found]:
    """Yields the sentences of a SemEval-2010 task 8 file; the number is the line's in which one begins.

    A sentence has a line ``number<tab>"text with <e1>marked</e1> <e2>entities</e2>"``, one with the relation and its
    direction, and perhaps a comment; an empty line follows.
    """
    block: list[tuple[int, str | Fault]] = []
    for number, line in lines:
        is_first = isinstance(line, str) and _BEGINS.match(line.strip())
        if block and (is_first or (isinstance(line, str) and not line.strip())):
            yield _marked(block)
            block = []
        if isinstance(line, Fault) or line.strip():
            block.append((number, line))
    if block:
        yield _marked(block)


def labelled(found: Iterable[Found]) -> Iterator[Found]:
    """Yields sentences with their relation as ``label``, for a task that does not know the entities."""
    for number, record in found:
        if not isinstance(record, Fault):
            kept = {key: record[key] for key in ("id", "text", "language") if key in record}
            record = kept | {"label": record["relation"]}
        yield number, record


def _marked(block: list[tuple[int, str | Fault]]) -> Found:
    number = block[0][0]
    torn = next((line for _, line in block if isinstance(line, Fault)), None)
    if torn is not None:
        return number, torn
    texts = [line.strip() for _, line in block if isinstance(line, str)]
    try:
        begin = _BEGINS.match(texts[0])
        if begin is None:
            raise Unfit("no sentence begins here with its number and a tab")
        if len(texts) < 2:
            raise Unfit("the sentence has no relation below it")
        if not _RELATION.fullmatch(texts[1]):
            raise Unfit(f"{texts[1][:60]!r} is no relation such as Other or Cause-Effect(e1,e2)")
        if len(texts) > 2 and not texts[2].startswith("Comment"):
            raise Unfit("more than a sentence, a relation and a comment stand together")
        return number, {"id": begin[1], **_entities(begin[2].strip()), "relation": texts[1]}
    except Unfit as unfit:
        return number, Fault(str(unfit))


def _entities(sentence: str) -> Record:
    if len(sentence) > 1 and sentence[0] == sentence[-1] == '"':
        sentence = sentence[1:-1]
    pieces = re.split(r"(</?e[12]>)", sentence)
    if sorted(pieces[1::2]) != sorted(_TAGS):
        raise Unfit("the sentence does not mark one entity as <e1>..</e1> and one as <e2>..</e2>")
    text, places = "", {}
    for piece in pieces:
        if piece in _TAGS:
            places[piece] = len(text)
        else:
            text += piece
    return _record(text, (places["<e1>"], places["</e1>"]), (places["<e2>"], places["</e2>"]))


def _record(text: str, subject: tuple[int, int], object_: tuple[int, int]) -> Record:
    record: Record = {"text": text}
    for name, (start, end) in (("subject", subject), ("object", object_)):
        if not text[start:end].strip():
            raise Unfit(f"the {name} is empty")
        record[name] = {"text": text[start:end], "start": start, "end": end}
    return record


def finre(lines: Iterable[tuple[int, str | Fault]]) -> Iterator[Found]:
    """Yields the lines ``head<tab>tail<tab>relation<tab>text`` of FinRE; the number is the line's.

    Each entity is taken where it first stands in the text, one that stands inside the other where it does not, if it
    is there again.
    """
    for number, line in lines:
        if isinstance(line, Fault):
            yield number, line
            continue
        if not line.strip():
            continue
        try:
            yield number, _found(line.split("\t"))
        except Unfit as unfit:
            yield number, Fault(str(unfit))


def _found(cells: list[str]) -> Record:
    if len(cells) != 4 or not all(cell.strip() for cell in cells):
        raise Unfit(f"{len(cells)} cells, or an empty one, not head, tail, relation and text")
    head, tail, relation, text = (cell.strip() for cell in cells)
    for entity in (head, tail):
        if entity not in text:
            raise Unfit(f"the entity {entity!r} does not stand in the text")
    one, two = _apart(text, head, tail)
    return {**_record(text, (one, one + len(head)), (two, two + len(tail))), "relation": relation}


def _apart(text: str, one: str, two: str) -> tuple[int, int]:
    """Returns where two parts stand without sharing a character; where they first stand, if they share one anyway."""
    places = [[match.start() for match in re.finditer(f"(?={re.escape(part)})", text)] for part in (one, two)]
    for first in places[0]:
        for second in places[1]:
            if first + len(one) <= second or second + len(two) <= first:
                return first, second
    return places[0][0], places[1][0]


def fewrel(document: Any) -> Iterator[Found]:
    """Yields the sentences of a FewRel file, {relation: [{tokens, h, t}]}; the number is the sentence's.

    Tokens are joined by spaces. Of an entity that is named several times the first mention is taken.
    """
    if not isinstance(document, dict):
        yield 0, Fault(f"the document is {kind_of(document)}, not an object of relations")
        return
    number = 0
    for relation in document:
        try:
            sentences = need(document, relation, list, "the document")
        except Unfit as unfit:
            number += 1
            yield number, Fault(str(unfit))
            continue
        for at, sentence in enumerate(sentences, start=1):
            number += 1
            try:
                yield number, {"id": f"{relation}/{at}", **_tokens(sentence), "relation": relation}
            except Unfit as unfit:
                yield number, Fault(f"{relation}: {unfit}")


def _tokens(sentence: Any) -> Record:
    tokens = need(sentence, "tokens", list, "the sentence")
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise Unfit("'tokens' holds something else than texts")
    starts, at = [], 0
    for token in tokens:
        starts.append(at)
        at += len(token) + 1
    spans = []
    for end in ("h", "t"):
        mention = _mention(need(sentence, end, list, "the sentence"), end, len(tokens))
        spans.append((starts[mention[0]], starts[mention[-1]] + len(tokens[mention[-1]])))
    return _record(" ".join(tokens), *spans)


def _mention(entity: list[Any], end: str, count: int) -> list[int]:
    """Returns the indices of the tokens of an entity's first mention."""
    try:
        mention = entity[2][0]
        is_run = mention == list(range(mention[0], mention[0] + len(mention)))
    except (IndexError, TypeError, KeyError):
        raise Unfit(f"the entity {end!r} is not [name, id, [[indices of tokens]]]") from None
    if not is_run or not 0 <= mention[0] <= mention[-1] < count:
        raise Unfit(f"the entity {end!r} says tokens {mention} of {count}")
    return [int(index) for index in mention]
