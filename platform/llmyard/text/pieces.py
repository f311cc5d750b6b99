"""A text cut into pieces, of which some are held: they come through all disturbances as they are."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal, TypeVar

from llmyard.core.errors import RequestError
from llmyard.core.seeds import mix
from llmyard.text.tables import table

T = TypeVar("T")
Span = tuple[int, int]

_HAN = "〇\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = rf"(?:(?![{_HAN}])[^\W_])"
# Chinese; figures with points or commas in them; words with hyphens or apostrophes in them; spaces; anything else.
_PIECE = re.compile(
    rf"(?P<han>[{_HAN}]+)|(?P<word>\d+(?:[.,]\d+)+(?!{_LETTER})|{_LETTER}+(?:['’-]{_LETTER}+)*)|(?P<space>\s+)|(?P<mark>.)",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"[.!?。！？…;；\n]")
_CONTRACTED_NOT = re.compile(r"n['’]t$")
_DOTS = ("·", "•", "・", "‧")
_LONGEST_MEASURE = 2  # characters
_LONG, _LOWER_SHARE = 4, 0.2  # letters of words, and how many of such have no capital at least where it marks a name


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text.

    Attributes:
        text: What stands there.
        kind: A word of letters or digits, a Chinese word, white space, any other sign; or a part that is held.
        start: Where a held part began before.
        is_anchor: Of a word, whether it is a number, a name or negates: without it, or elsewhere, the text would say
            something else.
    """

    text: str
    kind: Literal["word", "han", "space", "mark", "held"]
    start: int = -1
    is_anchor: bool = False

    @property
    def is_word(self) -> bool:
        """Whether it is a word that may be changed."""
        return self.kind in ("word", "han")


Change = Callable[[list[Piece], float, "Draws"], list[Piece]]


@dataclass(frozen=True, slots=True)
class Disturbed:
    """A text after a disturbance.

    Attributes:
        text: The new text.
        spans: Where the protected spans stand in it, in the order they were given.
    """

    text: str
    spans: tuple[Span, ...] = ()


def pieces_of(text: str, spans: Sequence[Span] = ()) -> list[Piece]:
    """Returns a text in pieces; joined they are the text.

    A word of which a part is protected is held as a whole: what would be left of it is no word.

    Args:
        text: To be cut.
        spans: Protected parts, (start, end) in characters; they may overlap.

    Raises:
        RequestError: A span is empty or lies outside of the text.
    """
    held = bytearray(len(text))
    for low, high in spans:
        if not 0 <= low < high <= len(text):
            raise RequestError(
                f"the span {low} to {high} cannot be protected in a text of {len(text)} characters", "mend its offsets"
            )
        held[low:high] = b"\1" * (high - low)
    found: list[Piece] = []
    at = 0
    for piece in _anchored(list(_cut(text))):
        end = at + len(piece.text)
        if 1 not in held[at:end]:
            found.append(piece)
        elif found and found[-1].kind == "held":
            found[-1] = Piece(found[-1].text + piece.text, "held", found[-1].start)
        else:
            found.append(Piece(piece.text, "held", at))
        at = end
    return found


def joined(pieces: Sequence[Piece], spans: Sequence[Span] = ()) -> Disturbed:
    """Returns the text of pieces, and where the spans that they were cut with stand in it."""
    old, new, at = [], [], 0
    for piece in pieces:
        if piece.kind == "held":
            old.append(piece.start)
            new.append(at)
        at += len(piece.text)
    moved = [new[place] - old[place] for place in (bisect_right(old, low) - 1 for low, _ in spans)]
    places = tuple((low + by, high + by) for (low, high), by in zip(spans, moved, strict=True))
    return Disturbed("".join(piece.text for piece in pieces), places)


def stretches(pieces: Sequence[Piece]) -> list[list[int]]:
    """Returns the places of words among which a word may move: none is held or an anchor, and nothing but words and
    spaces stands between them.
    """
    found: list[list[int]] = [[]]
    for place, piece in enumerate(pieces):
        if piece.is_word and not piece.is_anchor:
            found[-1].append(place)
        elif piece.kind != "space" or ends_sentence(piece):
            found.append([])
    return [each for each in found if each]


def ends_sentence(piece: Piece) -> bool:
    """Returns whether a sentence ends with a piece."""
    return piece.kind in ("mark", "space") and _SENTENCE_END.search(piece.text) is not None


class Draws:
    """Random choices that depend on nothing but some integers."""

    __slots__ = ("_count", "_state")

    def __init__(self, *parts: int) -> None:
        self._state, self._count = mix(*parts), 0

    def below(self, limit: int) -> int:
        """Returns an integer from 0 on, below a limit."""
        self._count += 1
        return (mix(self._state, self._count) * limit) >> 64

    def share(self) -> float:
        """Returns a number in [0, 1)."""
        return self.below(1 << 53) / (1 << 53)

    def pick(self, options: Sequence[T]) -> T:
        """Returns one of the options."""
        return options[self.below(len(options))]

    def rounded(self, number: float) -> int:
        """Returns the integer below or above a number, so that the mean of many is the number."""
        return int(number + self.share())

    def some(self, items: Sequence[T], number: float) -> list[T]:
        """Returns ``number`` of the items, rounded as above, or all where they are fewer; in an order that is drawn."""
        rest = list(items)
        count = min(len(rest), self.rounded(number))
        for at in range(count):
            other = at + self.below(len(rest) - at)
            rest[at], rest[other] = rest[other], rest[at]
        return rest[:count]


def _cut(text: str) -> Iterator[Piece]:
    for match in _PIECE.finditer(text):
        kind: Any = match.lastgroup
        if kind == "han":
            for word in _cutter().cut(match[0], HMM=False):
                yield Piece(word, "han")
        else:
            yield Piece(match[0], kind)


@cache
def _cutter() -> Any:
    """Returns jieba's tokenizer; its dictionary takes 0.7 s to read, once a process.

    Read here rather than by itself: it would leave it in a file of the shared temporary folder, and trust what it finds
    there.
    """
    import jieba

    cutter = jieba.Tokenizer()
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter


@cache
def _meanings() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    data = table("disturb")
    words = frozenset(word for language in (*data["negations"].values(), data["number_words"]) for word in language)
    return words, frozenset(data["negating_characters"]), frozenset(data["numerals"])


def _anchored(pieces: list[Piece]) -> list[Piece]:
    """Returns the pieces with their anchors marked."""
    anchors = {place for place, piece in enumerate(pieces) if _is_number(piece) or _counts(piece) or _negates(piece)}
    # A measure word belongs to its number: 11月6日 without 月 is another one.
    anchors |= {
        place
        for place, (before, piece) in enumerate(pairwise(pieces), start=1)
        if piece.kind == "han" and len(piece.text) <= _LONGEST_MEASURE and _is_number(before)
    }
    anchors |= _english_names(pieces) | _transliterated_names(pieces)
    return [
        replace(piece, is_anchor=True) if piece.is_word and place in anchors else piece
        for place, piece in enumerate(pieces)
    ]


def _is_number(piece: Piece) -> bool:
    return any(map(str.isdigit, piece.text)) or (piece.kind == "han" and _meanings()[2].issuperset(piece.text))


def _counts(piece: Piece) -> bool:
    """Returns whether a piece is a short Chinese word with a number in it: 三个, 第一."""
    return piece.kind == "han" and len(piece.text) <= _LONGEST_MEASURE and not _meanings()[2].isdisjoint(piece.text)


def _negates(piece: Piece) -> bool:
    words, characters, _ = _meanings()
    if piece.kind == "han":
        return piece.text in words or not characters.isdisjoint(piece.text)
    lower = piece.text.lower()
    return piece.kind == "word" and (lower in words or _CONTRACTED_NOT.search(lower) is not None)


def _english_names(pieces: Sequence[Piece]) -> set[int]:
    """Returns the places of words with a capital, but for a sentence's first word before one without; none where nearly
    all long words have one, as in a title.
    """
    words = {
        place: piece.text for place, piece in enumerate(pieces) if piece.kind == "word" and piece.text[0].isalpha()
    }
    long = [word == word.lower() for word in words.values() if len(word) >= _LONG]
    if sum(long) < _LOWER_SHARE * len(long):
        return set()
    found, first = {place for place, word in words.items() if word != word.lower()}, True
    for place, piece in enumerate(pieces):
        if piece.is_word:
            is_followed = place + 2 in found and pieces[place + 1].text == " "
            if first and not is_followed:
                found.discard(place)
            first = False
        elif ends_sentence(piece):
            first = True
    return found


def _transliterated_names(pieces: Sequence[Piece]) -> set[int]:
    """Returns the places of what stands beside the dot of a foreign name: 约翰·史密斯."""
    found = set()
    for place, piece in enumerate(pieces):
        if piece.text in _DOTS:
            found |= {place - 1, place + 1}
            # What is no word of the dictionary is cut into characters.
            if place > 1 and len(pieces[place - 1].text) == len(pieces[place - 2].text) == 1:
                found.add(place - 2)
    return found
