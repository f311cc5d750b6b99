"""Counter-based randomness: the draws of record *i* depend on (seed, stream, i) and on nothing else.

SplitMix64 (Steele, Lea, Flood 2014) in plain integers: the same on every platform, process and Python version, which
neither
``hash()`` nor the integer methods of ``random.Random`` promise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def scrambled(value: int) -> int:
    """The SplitMix64 output function: a bijection of 64-bit integers whose outputs look independent."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def stable_hash(text: str) -> int:
    """A 64-bit hash of the text that never changes, unlike ``hash()``."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Draws:
    """A stream of random choices named by integers and strings, for example ``Draws(7, "document", 123)``."""

    __slots__ = ("state",)

    def __init__(self, *key: int | str) -> None:
        state = 0
        for part in key:
            number = part if isinstance(part, int) else stable_hash(part)
            state = scrambled((state + GAMMA + number) & MASK)
        self.state = state

    def bits(self) -> int:
        """The next 64 random bits."""
        self.state = value = (self.state + GAMMA) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    def below(self, limit: int) -> int:
        """An integer in ``[0, limit)``; the bias is below limit / 2**64."""
        return (self.bits() * limit) >> 64

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.bits() < probability * 18446744073709551616.0

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        # bits() written out: half of all draws come through here, and the call costs as much as the arithmetic.
        self.state = value = (self.state + GAMMA) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return choices[((value ^ (value >> 31)) * len(choices)) >> 64]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order (Fisher-Yates)."""
        result = list(items)
        for i in range(len(result) - 1, 0, -1):
            j = self.below(i + 1)
            result[i], result[j] = result[j], result[i]
        return result
