"""Disturbances that take words: other ones, more, fewer, in another order.

Easy data augmentation is that of Wei and Zou 2019 (https://aclanthology.org/D19-1670), with a limit: numbers, names and
words that negate stay where they are, and no word is moved across them, across a protected part or out of its clause.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate

from llmyard.text.pieces import Draws, Piece, ends_sentence, stretches
from llmyard.text.synonyms import options_of

_DETERMINERS = ("a", "an", "the")


def replace_by_synonyms(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a share of all words replaced, as far as they have synonyms."""
    options = options_of(pieces)
    changed = list(pieces)
    for place in draws.some(list(options), share * sum(piece.is_word for piece in pieces)):
        changed[place] = Piece(draws.pick(options[place]), pieces[place].kind)
    return changed


def insert_synonyms(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with synonyms of some words put in elsewhere in their sentence; as many as a share of all
    words.
    """
    options = options_of(pieces)
    sentences = list(accumulate(map(ends_sentence, pieces)))
    # A word is put in behind another one of its language, not between an article and its noun.
    spots: dict[tuple[int, str], list[int]] = defaultdict(list)
    for place in (each for stretch in stretches(pieces) for each in stretch):
        if pieces[place].text.lower() not in _DETERMINERS:
            spots[sentences[place], pieces[place].kind].append(place)
    sources = [place for place in options if spots[sentences[place], pieces[place].kind]]
    added: dict[int, list[Piece]] = defaultdict(list)
    for _ in range(draws.rounded(share * sum(piece.is_word for piece in pieces)) if sources else 0):
        source = draws.pick(sources)
        kind = pieces[source].kind
        word = Piece(draws.pick(options[source]).lower(), kind)
        spot = draws.pick(spots[sentences[source], kind])
        added[spot] += [word] if kind == "han" else [Piece(" ", "space"), word]
    return [each for place, piece in enumerate(pieces) for each in (piece, *added[place])]


def delete_words(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces without a share of the words, and the space beside each; one word is always left."""
    words = [place for place, piece in enumerate(pieces) if piece.is_word and not piece.is_anchor]
    is_more = any(piece.kind == "held" or piece.is_anchor for piece in pieces)
    gone = set(draws.some(words, share * len(words))[: len(words) - (not is_more)])
    for place in sorted(gone):
        before, behind = place - 1, place + 1
        if before >= 0 and _is_gap(pieces[before]) and before not in gone:
            gone.add(before)
        elif behind < len(pieces) and _is_gap(pieces[behind]):
            gone.add(behind)
    return [piece for place, piece in enumerate(pieces) if place not in gone]


def _is_gap(piece: Piece) -> bool:
    return piece.kind == "space" and "\n" not in piece.text


def swap_words(pieces: list[Piece], share: float, draws: Draws) -> list[Piece]:
    """Returns the pieces with a share of the words that can move exchanged with others of their stretch."""
    pairs: list[tuple[int, int]] = []
    movable = 0
    for stretch in stretches(pieces):
        movable += len(stretch)
        mixed = draws.some(stretch, len(stretch))
        pairs += zip(mixed[::2], mixed[1::2], strict=False)
    changed = list(pieces)
    for one, other in draws.some(pairs, share * movable / 2):
        changed[one], changed[other] = pieces[other], pieces[one]
    return changed


def shuffle_nearby(pieces: list[Piece], share: float, draws: Draws, window: int) -> list[Piece]:
    """Returns the pieces with words moved by at most ``window`` places.

    Each word gets its place as a number, a share of them up to ``window`` + 1 more, and they are sorted by it: with a
    share of 1 the word-order noise of Lample et al. 2018 (https://arxiv.org/abs/1711.00043).
    """
    changed = list(pieces)
    for stretch in stretches(pieces):
        late = set(draws.some(range(len(stretch)), share * len(stretch)))
        keys = [at + (window + 1) * draws.share() if at in late else at for at in range(len(stretch))]
        for place, at in zip(stretch, sorted(range(len(stretch)), key=keys.__getitem__), strict=True):
            changed[place] = pieces[stretch[at]]
    return changed
