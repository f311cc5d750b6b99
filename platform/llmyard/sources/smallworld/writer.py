"""Text under construction: every labelled piece gets its offsets when it is written, so no label is ever searched
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

PIECE = re.compile(r"\{([^}]*)\}|(\[|\])")


class Span(NamedTuple):
    """A stretch ``text[start:end]`` and what it stands for: an entity, or ("count" | "colour" | "when", the thing
    or time).

    ``clause`` is the number of the statement that it was written in.
    """

    label: Any
    start: int
    end: int
    clause: int = -1


class Writer:
    """Grows a text and the list of its spans."""

    __slots__ = ("capital", "clause", "length", "parts", "spans")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.length = 0
        self.spans: list[Span] = []
        self.capital = False
        self.clause = -1

    def put(self, text: str, label: Any = None) -> None:
        """Appends text; with a label, also notes where it stands. The first letter after ``capital = True`` becomes a
        capital.
        """
        if not text:
            return
        if self.capital:
            text = text[0].upper() + text[1:]
            self.capital = False
        end = self.length + len(text)
        if label is not None:
            self.spans.append(Span(label, self.length, end, self.clause))
        self.parts.append(text)
        self.length = end

    def extend(self, other: Writer) -> None:
        """Appends another text together with its spans."""
        self.spans.extend(Span(s.label, s.start + self.length, s.end + self.length, s.clause) for s in other.spans)
        self.parts.extend(other.parts)
        self.length += other.length

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.parts)


class Slot(NamedTuple):
    """A place for a value."""

    name: str


class Agreement(NamedTuple):
    """One form for a singular subject and one for a plural one."""

    singular: str
    plural: str


class Optional(NamedTuple):
    """Pieces that are written only when all their slots have values."""

    slots: tuple[str, ...]
    pieces: tuple[Any, ...]


Template: TypeAlias = tuple[Any, ...]


def compiled(text: str) -> Template:
    """The pieces of a template such as ``"{has|have} a job at {o}[ in {p}]"``."""

    def pieces(tokens: Iterator[tuple[str, str]]) -> Template:
        result: list[Any] = []
        for kind, token in tokens:
            if kind == "text":
                result.append(token)
            elif kind == "slot":
                result.append(Agreement(*token.split("|")) if "|" in token else Slot(token))
            elif token == "[":
                inner = pieces(tokens)
                result.append(Optional(tuple(p.name for p in inner if isinstance(p, Slot)), inner))
            else:
                break
        return tuple(result)

    return pieces(tokens_of(text))


def tokens_of(text: str) -> Iterator[tuple[str, str]]:
    """The tokens of a template: ("text" | "slot" | "bracket", what it says)."""
    at = 0
    for match in PIECE.finditer(text):
        if match.start() > at:
            yield "text", text[at : match.start()]
        yield ("slot", match[1]) if match[1] is not None else ("bracket", match[2])
        at = match.end()
    if at < len(text):
        yield "text", text[at:]


def compiled_tree(node: Any) -> Any:
    """The same tree of dicts and lists with every string compiled; lists become tuples."""
    if isinstance(node, dict):
        return {key: compiled_tree(value) for key, value in node.items()}
    if isinstance(node, list):
        return tuple(compiled_tree(value) for value in node)
    return compiled(str(node))
