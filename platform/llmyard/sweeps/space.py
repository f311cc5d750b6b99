"""What can be tried: the values of each dimension, independent draws, and every combination."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from fractions import Fraction
from itertools import product
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.core.seeds import mix
from llmyard.sweeps.config import Dimension

Space = Mapping[str, Dimension]

_LOGARITHMIC = ("loguniform", "logint")
_WHOLE = ("int", "logint")


def key_of(value: Any) -> str:
    """Returns a text that two values share where they are the same setting: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_plain(value), sort_keys=True, default=str)


def active(space: Space, values: Mapping[str, Any]) -> list[str]:
    """Returns the paths whose condition holds: first those without one in the order of the space, then the others.

    Args:
        space: Dimensions by path; what others depend on has no condition itself.
        values: Those chosen so far; a condition on one that is not among them does not hold.
    """
    free = [path for path, dimension in space.items() if not dimension.when]
    return [*free, *(path for path, each in space.items() if each.when and _holds(each, values))]


def steps(dimension: Dimension) -> int | None:
    """Returns how many different values a dimension has; None where they lie without gaps."""
    if dimension.kind == "choice":
        return len(_choices(dimension))
    low, high = _bounds(dimension)
    if low == high:
        return 1
    if dimension.step is None and dimension.kind not in _WHOLE:
        return None
    # As written, not as stored: from 0.1 to 0.3 there are two steps of 0.1, though 0.1 + 0.2 is above 0.3 in floats.
    return int((_exact(high) - _exact(low)) / _exact(dimension.step or 1)) + 1


def at_step(dimension: Dimension, index: int) -> Any:
    """Returns one of the :func:`steps` of a dimension that has some, from 0 on: choices as written, else by size."""
    if dimension.kind == "choice":
        return _choices(dimension)[index]
    value = _exact(_bounds(dimension)[0]) + index * _exact(dimension.step or 1)
    return int(value) if dimension.kind in _WHOLE else float(value)


def step_of(dimension: Dimension, value: Any) -> int:
    """Returns which of the :func:`steps` of a dimension a value is; of numbers the nearest.

    Raises:
        RequestError: It is none of the choices.
    """
    if dimension.kind != "choice":
        last = (steps(dimension) or 1) - 1
        return min(last, max(0, round((_exact(value) - _exact(_bounds(dimension)[0])) / _exact(dimension.step or 1))))
    wanted = key_of(value)
    for index, choice in enumerate(_choices(dimension)):
        if key_of(choice) == wanted:
            return index
    raise RequestError(
        f"{value!r} is none of the choices {list(dimension.choices)!r}",
        "read the trials with the search space that they were made with",
    )


def unit(dimension: Dimension, value: Any) -> float:
    """Returns where a value lies on the dimension's own scale, from 0 to 1; choices by their order.

    Args:
        dimension: Whose scale it is: of the log kinds by the logarithm. One with a single value has it at 0.5.
        value: Beyond the bounds it counts as the nearer one.

    Raises:
        RequestError: It is none of the choices.
    """
    if dimension.kind == "choice":
        last = len(_choices(dimension)) - 1
        return step_of(dimension, value) / last if last else 0.5
    return _share(dimension, *_bounds(dimension), value)


def share_of(dimension: Dimension, value: float) -> float:
    """Returns the share of a dimension's range, on its own scale, that lies below a value; of any kind but choice.

    As against :func:`unit`, the range of kind logint begins half a step before ``low`` and ends half a step after
    ``high``, so that all shares are equally likely; :func:`at_share` gives the value back.
    """
    return _share(dimension, *_range(dimension), value)


def at_share(dimension: Dimension, share: float) -> Any:
    """Returns the value below which a share of a dimension's range lies, from 0 to 1; whole where the dimension is."""
    low, high = _bounds(dimension)
    value = min(high, max(low, _between(dimension, *_range(dimension), share)))
    return round(value) if dimension.kind in _WHOLE else value


def drawn(space: Space, seed: int, number: int, attempt: int = 0) -> dict[str, Any]:
    """Returns the values of a random trial (Bergstra and Bengio 2012): whatever other trials and dimensions there are.

    Values with steps are equally likely, except that a whole number n of kind logint weighs as much as lies from
    n - 0.5 to n + 0.5 on the log scale; others are even on their own scale.

    Args:
        space: Dimensions by path; their order plays no part.
        seed: Of the sweep.
        number: Of the trial.
        attempt: Another one, another draw.
    """
    found = {path: _draw(each, mix(seed, number, attempt, _digest(path))) for path, each in space.items()}
    return {path: found[path] for path in active(space, found)}


class Grid:
    """Every combination of a space once, the first dimension varying slowest; each is computed when it is asked for.

    Dimensions with a condition vary fastest, and only where it holds.

    Args:
        space: Dimensions by path.
        points: Of a dimension without steps, and of whole numbers without a ``step``: so many values, evenly spaced on
            its own scale from the least to the greatest; of one point the middle. None: all values there are.

    Raises:
        RequestError: No points are given and a dimension has no steps.
    """

    def __init__(self, space: Space, points: int | None = None) -> None:
        self._space = {path: space[path] for path in sorted(space, key=lambda path: bool(space[path].when))}
        self._places = {path: place for place, path in enumerate(self._space)}
        self._points = {path: _spaced(path, each, points) for path, each in self._space.items()}
        self._sizes = {path: len(found) if found else steps(space[path]) or 1 for path, found in self._points.items()}
        self._groups = _groups(self._space)
        self._parents = {other for each in self._space.values() for other in each.when}
        self.size = self._ways(0, {})

    def values(self, number: int) -> dict[str, Any]:
        """Returns one combination.

        Args:
            number: From 0 on, below ``size``.

        Raises:
            IndexError: It is not.
        """
        if not 0 <= number < self.size:
            raise IndexError(number)
        found: dict[str, Any] = {}
        for place, (path, dimension) in enumerate(self._space.items(), start=1):
            if not _holds(dimension, found):
                continue
            if path not in self._parents:
                index, number = divmod(number, self._ways(place, found))
                found[path] = self._at(path, index)
                continue
            for index in range(self._sizes[path]):
                found[path] = self._at(path, index)
                below = self._ways(place, found)
                if number < below:
                    break
                number -= below
        return found

    def another(self, known: Set[str], start: int) -> dict[str, Any] | None:
        """Returns a combination whose :func:`key_of` is not known, the first from a number on; None for none."""
        for offset in range(min(self.size, len(known) + 1)):  # of so many different ones one is not known
            found = self.values((start + offset) % self.size)
            if key_of(found) not in known:
                return found
        return None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.values(number) for number in range(self.size))

    def _at(self, path: str, index: int) -> Any:
        points = self._points[path]
        return points[index] if points else at_step(self._space[path], index)

    def _ways(self, place: int, values: Mapping[str, Any]) -> int:
        """Returns how many combinations the dimensions from a place on have, given the values of those before."""
        return math.prod(self._group_ways(group, place, values) for group in self._groups)

    def _group_ways(self, group: list[str], place: int, values: Mapping[str, Any]) -> int:
        later = [path for path in group if self._places[path] >= place]
        parents = [path for path in later if path in self._parents]
        others = [path for path in later if path not in self._parents]
        total = 0
        for chosen in product(*(range(self._sizes[path]) for path in parents)):
            known = {**values, **{path: self._at(path, at) for path, at in zip(parents, chosen, strict=True)}}
            total += math.prod(self._sizes[path] for path in others if _holds(self._space[path], known))
        return total


def size(space: Space) -> int | None:
    """Returns how many different settings a space has; None where they are without number."""
    return None if any(steps(each) is None for each in space.values()) else Grid(space).size


def _choices(dimension: Dimension) -> tuple[Any, ...]:
    """Returns the different choices: one that is written twice is one."""
    return tuple({key_of(each): each for each in dimension.choices}.values())


def _bounds(dimension: Dimension) -> tuple[float, float]:
    return dimension.low or 0.0, dimension.high or 0.0  # never None but of choices: the config is checked


def _range(dimension: Dimension) -> tuple[float, float]:
    low, high = _bounds(dimension)
    return (low - 0.5, high + 0.5) if dimension.kind == "logint" else (low, high)


def _share(dimension: Dimension, low: float, high: float, value: float) -> float:
    """Returns at which share of the way from low to high a value lies; the inverse of :func:`_between`."""
    if low == high:
        return 0.5
    inside = min(high, max(low, float(value)))
    if dimension.kind in _LOGARITHMIC:
        return (math.log(inside) - math.log(low)) / (math.log(high) - math.log(low))
    return (inside / 2 - low / 2) / (high / 2 - low / 2)  # halves: the range itself may be too large for a float


def _exact(value: float) -> Fraction:
    return Fraction(repr(float(value)))


def _plain(value: Any) -> Any:
    """Returns a value as JSON reads it back, whole floats as integers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _holds(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    return all(other in values and key_of(values[other]) == key_of(wanted) for other, wanted in dimension.when.items())


def _groups(space: Space) -> list[list[str]]:
    """Returns the paths in groups that do not depend on each other, so that their combinations multiply."""
    groups = [[path] for path in space]
    for path, dimension in space.items():
        joined = [group for group in groups if {path, *dimension.when} & {*group}]
        groups = [group for group in groups if group not in joined] + [[each for group in joined for each in group]]
    return groups


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _draw(dimension: Dimension, bits: int) -> Any:
    """Returns the value that 64 random bits stand for."""
    count = steps(dimension)
    if count is not None and dimension.kind != "logint":
        return at_step(dimension, bits * count >> 64)
    return at_share(dimension, bits / 2**64)


def _between(dimension: Dimension, low: float, high: float, share: float) -> float:
    """Returns what lies at a share of the way from low to high on the dimension's own scale."""
    if dimension.kind in _LOGARITHMIC:
        value = math.exp(math.log(low) * (1 - share) + math.log(high) * share)
    else:
        value = low * (1 - share) + high * share
    return min(high, max(low, value))


def _spaced(path: str, dimension: Dimension, points: int | None) -> tuple[float, ...]:
    """Returns the values of a dimension in a grid; none where these are all its steps."""
    count = steps(dimension)
    if points is None and count is None:
        raise RequestError(f"{path} has no steps", "give it a `step`, or the number of `points` of the grid")
    stepwise = dimension.kind == "choice" or dimension.step is not None
    if points is None or stepwise or (count is not None and count <= points):
        return ()
    low, high = _bounds(dimension)
    if points == 1:
        found = [_between(dimension, low, high, 0.5)]
    else:
        inner = [_between(dimension, low, high, at / (points - 1)) for at in range(1, points - 1)]
        found = [low, *inner, high]  # the ends as written: a logarithm and back would miss them by a little
    return tuple(dict.fromkeys(round(each) for each in found) if dimension.kind in _WHOLE else found)
