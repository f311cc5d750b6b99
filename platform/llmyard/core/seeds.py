"""Randomness as a pure function of its place: no state, so that any worker computes the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def mix(*parts: int) -> int:
    """Returns 64 well-mixed bits of a sequence of integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    state = _STEP
    for part in parts:
        state = (state + (part & _MASK) + _STEP) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def unit(*parts: int) -> float:
    """Returns a number in [0, 1) for a sequence of integers."""
    return mix(*parts) / 2**64


def units(count: int, *parts: int) -> npt.NDArray[np.float64]:
    """Returns ``count`` numbers in [0, 1) for a sequence of integers."""
    import numpy as np

    return (numbers(count, *parts) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def numbers(count: int, *parts: int) -> npt.NDArray[np.uint64]:
    """Returns ``count`` times 64 well-mixed bits for a sequence of integers (SplitMix64 started from them)."""
    import numpy as np

    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP) + np.uint64(mix(*parts))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
