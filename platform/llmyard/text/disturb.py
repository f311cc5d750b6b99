"""One text disturbed, with parts that come through unchanged.

What comes out depends on the text, the config and a number, and on nothing else: any worker makes the same copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

from llmyard.core.seeds import mix
from llmyard.text import disturb_characters, disturb_words
from llmyard.text.disturbances import Disturbance, Kind
from llmyard.text.pieces import Change, Disturbed, Draws, Span, joined, pieces_of

_CHANGES: Mapping[Kind, Change] = {
    "synonyms": disturb_words.replace_by_synonyms,
    "insertion": disturb_words.insert_synonyms,
    "deletion": disturb_words.delete_words,
    "swap": disturb_words.swap_words,
    "typos": disturb_characters.mistype,
    "homophones": disturb_characters.replace_by_sound,
    "lookalikes": disturb_characters.replace_by_looks,
    "traditional": disturb_characters.mix_scripts,
    "width": disturb_characters.mix_widths,
}

__all__ = ["Disturbed", "Span", "disturb"]


def disturb(text: str, config: Disturbance, spans: Sequence[Span] = (), number: int = 0) -> Disturbed:
    """Returns a text disturbed, and where its protected spans stand then; the text itself where nothing in it can be
    changed.

    With ``ways: one`` the kind is drawn among those that find something to change. 10,000 characters of English take
    10 ms, of Chinese 40 ms.

    Args:
        text: To be disturbed.
        config: How, and the seed.
        spans: Protected parts, (start, end) in characters; they may overlap. Words that reach into one are kept too.
        number: Which of several copies.

    Raises:
        RequestError: A span is empty or lies outside of the text.
    """
    kinds = list(config.kinds().items())
    seed = mix(config.seed, number, _digest(text))
    now = Disturbed(text, tuple(spans))
    if config.ways == "one":
        first = Draws(seed).below(len(kinds))
        kinds = [*kinds[first:], *kinds[:first]]
    for at, (kind, share) in enumerate(kinds, start=1):
        change = partial(disturb_words.shuffle_nearby, window=config.window) if kind == "order" else _CHANGES[kind]
        found = joined(change(pieces_of(now.text, now.spans), share, Draws(seed, at)), now.spans)
        if found.text != now.text and found.text.strip():
            now = found
            if config.ways == "one":
                break
    return now


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
