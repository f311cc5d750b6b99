"""Named entities in columns, a token a line, as CoNLL's shared tasks have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmyard.sources.records import Fault, Found, Record
from llmyard.text.script import mostly_chinese

_COLUMNS = re.compile(r"[ \t]+")  # other white space may be a token: Chinese texts have U+3000
_DOCUMENT = "-DOCSTART-"
# BIO, and the schemes that mark ends and single tokens too.
_TAG = re.compile(r"O|([BIMESLU])-(\S+)")
_BEGINS = "BSU"


def conll(lines: Iterable[tuple[int, str | Fault]], language: str | None = None) -> Iterator[Found]:
    """Yields sentences with their entities; the number is the line's in which one begins, or in which it is wrong.

    Args:
        lines: ``token ... tag``, with an empty line after each sentence. Tags are BIO, BIOES or BMES; one that goes on
            with another type than the one before begins an entity.
        language: Tokens of Chinese are joined as they are, those of other languages by spaces; unset, the letters
            tell.
    """
    block: list[tuple[int, str | Fault]] = []
    for number, line in lines:
        if isinstance(line, str) and _is_comment(line):
            continue
        if isinstance(line, Fault) or line.strip(" \t"):
            block.append((number, line))
        elif block:
            yield _sentence(block, language)
            block = []
    if block:
        yield _sentence(block, language)


def _is_comment(line: str) -> bool:
    cells = _COLUMNS.split(line.strip(" \t"))
    return cells[0] == _DOCUMENT or (cells[0] == "#" and not _TAG.fullmatch(cells[-1]))


def _sentence(block: list[tuple[int, str | Fault]], language: str | None) -> Found:
    tokens, tags = [], []
    for number, line in block:
        if isinstance(line, Fault):
            return number, line
        cells = _COLUMNS.split(line.strip(" \t"))
        tag = _TAG.fullmatch(cells[-1])
        if len(cells) < 2:
            return number, Fault("there is one column, not a token and its tag")
        if tag is None:
            return number, Fault(f"the tag {cells[-1]!r} is not O, B-type or I-type")
        tokens.append(cells[0])
        tags.append((tag[1] or "O", tag[2] or ""))
    is_chinese = language == "zh" if language else mostly_chinese("".join(tokens))
    return block[0][0], _record(tokens, tags, "" if is_chinese else " ")


def _record(tokens: list[str], tags: list[tuple[str, str]], between: str) -> Record:
    text = between.join(tokens)
    entities: list[Record] = []
    start, before = 0, ""
    for token, (place, type_) in zip(tokens, tags, strict=True):
        end = start + len(token)
        if type_ and (place in _BEGINS or type_ != before):
            entities.append({"text": token, "type": type_, "start": start, "end": end})
        elif type_:
            entities[-1] |= {"text": text[entities[-1]["start"] : end], "end": end}
        start, before = end + len(between), "" if place in "ESLU" else type_
    return {"text": text, "entities": entities, "triples": []}
