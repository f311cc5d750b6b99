"""Disturbances that take characters: misspelt words, characters that sound or look alike, other forms of one character.

Numbers, names and words that negate are spelt as they were; their form may be another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache

from llmyard.text.pieces import Draws, Piece
from llmyard.text.tables import table

_SHORTEST = 4  # letters of a word with a wrong key; shorter ones are too easily taken for others
_MOST_ALIKE = 8  # characters of one sound that are chosen from, the commonest ones
_WIDER = 0xFEE0  # from a printable ASCII character to its form in full width
_NARROW = range(0x21, 0x7F)


def mistype(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a mistake in a share of the English words of four letters and more.

    A mistake is the key beside the right one, two letters exchanged, one doubled or one left out; the first letter is
    right.
    """
    words = [
        place
        for place, piece in enumerate(pieces)
        if piece.kind == "word" and len(piece.text) >= _SHORTEST and piece.text.isascii() and piece.text.isalpha()
    ]
    words = [place for place in words if not pieces[place].is_anchor]
    changed = list(pieces)
    for place in draws.some(words, share * len(words)):
        changed[place] = Piece(_mistyped(pieces[place].text, draws), "word")
    return changed


def _mistyped(word: str, draws: Draws) -> str:
    mistake = draws.below(4)
    at = 1 + draws.below(len(word) - 1)
    if mistake == 0:
        return word[:at] + word[at] + word[at:]
    if mistake == 1:
        return word[:at] + word[at + 1 :]
    different = [place for place in range(1, len(word) - 1) if word[place] != word[place + 1]]
    if mistake == 2 and different:
        at = draws.pick(different)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    key = draws.pick(_keys_beside()[word[at].lower()])
    return word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :]


@cache
def _keys_beside() -> dict[str, str]:
    """Returns the letters beside each key: in its row, and those of the rows above and below that touch it."""
    rows: list[str] = table("disturb")["keyboard"]
    place = {letter: (number, at) for number, row in enumerate(rows) for at, letter in enumerate(row)}
    beside = {(0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0)}
    return {
        letter: "".join(other for other, (row, at) in place.items() if (row - number, at - key) in beside)
        for letter, (number, key) in place.items()
    }


def replace_by_sound(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a share of the Chinese characters replaced by common ones of the same sound and tone, or
    of the same sound where there are none.
    """
    return _replaced(pieces, share, draws, _same_sound())


def replace_by_looks(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a share of the Chinese characters replaced by ones that look alike, as far as such are
    known.
    """
    return _replaced(pieces, share, draws, _same_looks())


def _replaced(pieces: list[Piece], share: float, draws: Draws, others: Mapping[str, str]) -> list[Piece]:
    open_ = [place for place, piece in enumerate(pieces) if piece.kind == "han" and not piece.is_anchor]
    spots = [(place, at) for place in open_ for at, character in enumerate(pieces[place].text) if character in others]
    changed = list(pieces)
    for place, at in draws.some(spots, share * sum(len(pieces[place].text) for place in open_)):
        word = changed[place].text
        changed[place] = Piece(word[:at] + draws.pick(others[word[at]]) + word[at + 1 :], "han")
    return changed


@cache
def _same_sound() -> dict[str, str]:
    found = {}
    for tones in table("homophones").values():
        for alike in tones.values():
            for character in alike:
                others = alike if len(alike) > 1 else "".join(tones.values())
                found[character] = others.replace(character, "")[:_MOST_ALIKE]
    return found


@cache
def _same_looks() -> dict[str, str]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for alike in table("disturb")["lookalikes"]:
        for character in alike:
            found[character].update(dict.fromkeys(alike.replace(character, "")))
    return {character: "".join(others) for character, others in found.items()}


def mix_scripts(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a share of the Chinese words that have another form in traditional characters written so;
    in simplified ones where the text is in traditional ones.
    """
    text = "".join(piece.text if piece.kind == "han" else " " * len(piece.text) for piece in pieces)
    for convert in _converters():
        other = convert(text)
        if other != text and len(other) == len(text):
            break
    else:
        return pieces
    forms, at = {}, 0
    for place, piece in enumerate(pieces):
        form = other[at : at + len(piece.text)]
        if piece.kind == "han" and form != piece.text:
            forms[place] = Piece(form, "han")
        at += len(piece.text)
    return _with_forms(pieces, forms, share, draws)


@cache
def _converters() -> tuple[Callable[[str], str], Callable[[str], str]]:
    from opencc import OpenCC

    return OpenCC("s2t").convert, OpenCC("t2s").convert


def mix_widths(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a share of the words and marks that have another width, full or half, written in it."""
    forms = {
        place: Piece(form, piece.kind)
        for place, piece in enumerate(pieces)
        if piece.kind in ("word", "mark") and (form := piece.text.translate(_other_widths())) != piece.text
    }
    return _with_forms(pieces, forms, share, draws)


@cache
def _other_widths() -> dict[int, int]:
    wider = {point: point + _WIDER for point in _NARROW}
    return wider | {wide: narrow for narrow, wide in wider.items()}


def _with_forms(pieces: list[Piece], forms: Mapping[int, Piece], share: float, draws: Draws) -> list[Piece]:
    chosen = set(draws.some(list(forms), share * len(forms)))
    return [forms[place] if place in chosen else piece for place, piece in enumerate(pieces)]
