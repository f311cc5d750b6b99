"""Population based training: members that fall behind go on from a better one, with its settings changed a little.

Jaderberg et al. 2017, "Population Based Training of Neural Networks", here in generations: every member of one has
ended before the next begins, so that what a trial is follows from the trials before it alone, after a crash too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from llmyard.core.seeds import mix
from llmyard.sweeps.config import Dimension, PopulationSearch, Searching
from llmyard.sweeps.space import active, at_share, at_step, drawn, share_of, step_of, steps
from llmyard.sweeps.trial import Trial

INIT, MODEL = "init", "model"  # paths that a trial sets which goes on from another's checkpoint


class Later(Exception):
    """The next trial depends on some that have not ended."""


class Population:
    """Proposes the members of one generation after the other; a trial's number is generation times size plus place."""

    def __init__(self, config: Searching, search: PopulationSearch) -> None:
        self._config, self._search = config, search

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        """Returns the values of a member, with the checkpoint that it goes on from; None behind the last generation.

        Raises:
            Later: The generation before has not ended.
        """
        size, space = self._search.population, self._config.space
        generation, place = divmod(number, size)
        if generation >= self._search.generations:
            return None
        if not generation:
            return drawn(space, self._config.seed, number)
        before = {each.number: each for each in trials if number - place - size <= each.number < number - place}
        if len(before) < size or any(each.state == "running" for each in before.values()):
            raise Later
        ranked = self._ranked(list(before.values()))
        if not ranked:
            return None
        replaced = max(1, int(self._search.quantile * size))
        own = before[number - size]
        if own in ranked[: size - replaced]:
            values = {path: own.values[path] for path in space if path in own.values}
            return {**values, INIT: own.artifact, MODEL: None}
        chance = random.Random(mix(self._config.seed, number))
        source = chance.choice(ranked[:replaced])
        return {**self._changed(source, chance), INIT: source.artifact, MODEL: None}

    def _ranked(self, members: Sequence[Trial]) -> list[Trial]:
        """Returns the members that left a checkpoint and a figure, the best first."""
        objective = self._config.objective
        told = [
            (objective.cost(value), each.number, each)
            for each in members
            if each.state == "finished" and each.artifact and (value := each.value(objective)) is not None
        ]
        return [each for _, _, each in sorted(told, key=lambda one: one[:2])]

    def _changed(self, source: Trial, chance: random.Random) -> dict[str, Any]:
        """Returns the settings of a member, each a little larger or smaller, or drawn anew."""
        space = self._config.space
        anew = drawn(space, chance.getrandbits(32), source.number)
        values: dict[str, Any] = {}
        for path in active(space, {}):
            values[path] = self._moved(space[path], source.values[path], anew.get(path), chance)
        for path in active(space, values)[len(values) :]:
            before = source.values.get(path, anew.get(path))
            values[path] = self._moved(space[path], before, anew.get(path), chance)
        return values

    def _moved(self, dimension: Dimension, value: Any, anew: Any, chance: random.Random) -> Any:
        if value is None:
            return at_share(dimension, chance.random())
        if anew is not None and chance.random() < self._search.resample:
            return anew
        up = chance.random() < 0.5
        count = steps(dimension)
        if dimension.kind == "choice" or (count is not None and dimension.kind != "logint"):
            assert count is not None
            return at_step(dimension, min(max(step_of(dimension, value) + (1 if up else -1), 0), count - 1))
        moved = value * (self._search.factor if up else 1 / self._search.factor)
        inside = min(max(moved, dimension.low or 0.0), dimension.high or 0.0)
        return at_share(dimension, share_of(dimension, inside))
