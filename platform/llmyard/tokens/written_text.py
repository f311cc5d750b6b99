"""Which of the tokens that a decoder writes are text, and where they stand in it.

A model that counts n-grams is compared with it on these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmyard.core.compiled import I64


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A sample as text.

    Attributes:
        ids: The whole text.
        places: Where in it the written tokens stand.
        targets: Which of the decoder's targets they are.
    """

    ids: I64
    places: I64
    targets: I64


def written_text(kind: str, inputs: I64, targets: I64, first_sentinel: int) -> WrittenText:
    """Returns a sample of an encoder-decoder objective as text.

    Args:
        kind: span_corruption, prefix_lm or denoising.
        inputs: What the encoder reads, with its end token.
        targets: What the decoder writes, with its end token (none of prefix_lm).
        first_sentinel: Ids from here on stand for spans.
    """
    if kind == "prefix_lm":
        ids = np.concatenate([inputs[:-1], targets])
        return WrittenText(ids, np.arange(len(inputs) - 1, len(ids)), np.arange(len(targets)))
    if kind == "denoising":
        places = np.arange(len(targets) - 1)
        return WrittenText(targets[:-1], places, places)
    inputs, written = inputs[:-1], targets[:-1]
    spans = np.split(np.arange(len(written)), np.flatnonzero(written >= first_sentinel))[1:]
    pieces: list[I64] = []
    places_of: list[I64] = []
    length = 0
    for stretch in np.split(inputs, np.flatnonzero(inputs >= first_sentinel)):
        if len(stretch) and stretch[0] >= first_sentinel:
            span = written[spans[int(stretch[0]) - first_sentinel][1:]]
            places_of.append(np.arange(length, length + len(span)))
            pieces.append(span)
            length += len(span)
            stretch = stretch[1:]
        pieces.append(stretch)
        length += len(stretch)
    return WrittenText(np.concatenate(pieces), np.concatenate(places_of), np.concatenate([each[1:] for each in spans]))
