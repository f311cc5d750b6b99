"""What a language model needs to spell a text: bits for each byte, which compares across tokenizers, and perplexity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def bits_each(nats: Sequence[float] | F64, sizes: Sequence[int] | I64) -> F64:
    """Returns for each text its bits, and its bytes; (texts, 2).

    Args:
        nats: The sum of the negative log probabilities (natural logarithm) of each text's tokens.
        sizes: UTF-8 bytes of each text: one a Latin letter, three a Chinese character.

    Raises:
        DataError: No texts, unequal numbers, a text without bytes, or nats that are negative or no numbers.
    """
    return _rows(np.asarray(nats, np.float64) / np.log(2), np.asarray(sizes, np.float64), "bytes")


def bits_figure(sums: F64) -> F64:
    """Returns bits for each byte, of summed rows of :func:`bits_each`; (..., 2) to (...)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def bits_per_byte(nats: Sequence[float] | F64, sizes: Sequence[int] | I64) -> float:
    """Returns all bits over all bytes: ``sum(nats) / ln 2 / sum(sizes)``.

    Raises:
        DataError: As :func:`bits_each`.
    """
    return float(bits_figure(bits_each(nats, sizes).sum(0)))


def perplexity_each(nats: Sequence[float] | F64, tokens: Sequence[int] | I64) -> F64:
    """Returns for each text its nats, and its tokens; (texts, 2).

    Args:
        nats: As in :func:`bits_each`.
        tokens: How many tokens of each text were predicted.

    Raises:
        DataError: No texts, unequal numbers, a text without tokens, or nats that are negative or no numbers.
    """
    return _rows(np.asarray(nats, np.float64), np.asarray(tokens, np.float64), "tokens")


def perplexity_figure(sums: F64) -> F64:
    """Returns the perplexity of summed rows of :func:`perplexity_each`; (..., 2) to (...)."""
    with np.errstate(over="ignore"):  # more than 709 nats a token: infinite
        return np.asarray(np.exp(sums[..., 0] / sums[..., 1]))


def _rows(nats: F64, sizes: F64, unit: str) -> F64:
    if not len(nats):
        raise DataError("there are no texts to be measured", "check the split and its limits")
    if len(nats) != len(sizes):
        raise DataError(f"{len(nats)} losses do not pair up with {len(sizes)} texts", "give one loss for every text")
    if not (sizes > 0).all():
        raise DataError(f"text {int((sizes <= 0).argmax())} has no {unit}", "leave empty texts out")
    if not (nats >= 0).all():  # not a number is not at least 0 either
        where = int((~(nats >= 0)).argmax())
        raise DataError(f"text {where} has a loss of {nats[where]}", "give sums of negative log probabilities")
    return np.stack([nats, sizes], 1)
