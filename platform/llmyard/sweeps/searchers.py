"""Which setting is tried next, and which of its dimensions matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmyard.core.seeds import mix
from llmyard.sweeps.config import Dimension, GridSearch, Objective, Searching, TpeSearch
from llmyard.sweeps.population import Population
from llmyard.sweeps.space import Grid, Space, active, at_share, at_step, drawn, key_of, share_of, size, step_of, steps
from llmyard.sweeps.trial import State, Trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_DRAWS = 64  # of a random trial before the settings that are left are gone through
_PROPOSALS = 4  # of a sampler that proposes again what was tried
_JOINTLY = True  # better than one dimension at a time on 6 of 8 test functions, both realistic ones among them
_LEAST_TRIALS = 4  # of which importance says something
_TREES = 32  # of the forest that importance is read from


class Proposer(Protocol):
    """Says which values a trial has."""

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        """Returns the values of a trial; None where nothing is left to try.

        The same trials lead to the same values, in another process too.

        Args:
            number: Of the trial that is to begin.
            trials: All that is known of the trials before, in any state and order; others play no part.

        Raises:
            RequestError: A trial has a choice that the space does not hold.
            Later: It depends on trials that have not ended.
        """


def proposer(config: Searching) -> Proposer:
    """Returns what proposes the trials of a sweep."""
    if config.search.kind == "grid":
        return _InOrder(config, config.search)
    if config.search.kind == "random":
        return _AtRandom(config)
    if config.search.kind == "pbt":
        return Population(config, config.search)
    return _ByDensities(config, config.search)


def planned(config: Searching) -> int | None:
    """Returns how many trials a sweep has if none is refused; None where time, steps or tokens end it."""
    if config.search.kind == "grid":
        return Grid(config.space, config.search.points).size
    if config.search.kind == "pbt":
        return config.search.population * config.search.generations
    return config.budget.trials if config.budget is not None else None


def importance(config: Searching, trials: Sequence[Trial]) -> dict[str, float]:
    """Returns the share of each dimension alone in the variance of the first objective (fANOVA, Hutter et al. 2014).

    Only dimensions that every finished trial has are looked at: one with a condition is left out, unless the condition
    held in all of them. The shares add up to 1 at most: what dimensions do together is no single one's.

    Args:
        config: Of the sweep.
        trials: All; those count that finished with a figure.

    Returns:
        By path, the greatest first; empty for fewer than four trials or where all figures are the same.
    """
    if config.search.kind == "pbt":  # later members have been trained longer, whatever their settings
        trials = [each for each in trials if each.number < config.search.population]
    told = [_told(each, (config.objective,)) for each in trials if each.state == "finished"]
    usable = [each for each in told if each.figures]
    if len(usable) < _LEAST_TRIALS or len({each.figures for each in usable}) == 1:
        return {}
    from optuna.importance import FanovaImportanceEvaluator

    study = _study([config.objective])
    distributions = _distributions(config.space)
    study.add_trials([_frozen(config.space, distributions, each) for each in usable])
    try:
        found = FanovaImportanceEvaluator(n_trees=_TREES, seed=0).evaluate(study)
    except RuntimeError:  # the figures differ by so little that no tree finds any variance
        return {}
    return {path: float(share) for path, share in found.items()}


class _InOrder:
    """Goes through a grid."""

    def __init__(self, config: Searching, search: GridSearch) -> None:
        self._grid = Grid(config.space, search.points)

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        return self._grid.values(number) if number < self._grid.size else None


class _Once:
    """Gives each setting once where there are finitely many."""

    def __init__(self, config: Searching) -> None:
        self._config = config
        self._every = None if size(config.space) is None else Grid(config.space)

    def _tried(self, known: Sequence[Trial]) -> set[str]:
        """Returns the keys of what was tried, or none where there is always something new."""
        return {key_of(each.values) for each in known} if self._every else set()

    def _left(self, number: int, tried: set[str]) -> dict[str, Any] | None:
        return self._every.another(tried, mix(self._config.seed, number)) if self._every else None


class _AtRandom(_Once):
    """Draws independently."""

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        tried = self._tried(_before(number, trials))
        for attempt in range(_DRAWS):
            values = drawn(self._config.space, self._config.seed, number, attempt)
            if key_of(values) not in tried:
                return values
        return self._left(number, tried)


class _ByDensities(_Once):
    """Draws where good trials were, by Optuna's tree-structured Parzen estimator.

    Optuna's study is built from the trials that are given, so that a restarted driver proposes from all that is known;
    from one proposal to the next it is told only what is new.
    """

    def __init__(self, config: Searching, search: TpeSearch) -> None:
        super().__init__(config)
        self._search = search
        self._distributions = _distributions(config.space)
        self._restart()

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        from optuna.samplers import RandomSampler, TPESampler
        from optuna.trial import TrialState

        known = _before(number, trials)
        tried = self._tried(known)
        self._study.sampler = RandomSampler()  # while it is told: a trial that runs is to leave nothing but its values
        self._tell(known)
        # A sampler for each trial: a random state that lives on would not survive a restart.
        seed, startup = mix(self._config.seed, number) >> 32, self._search.startup_trials
        self._study.sampler = TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True, multivariate=_JOINTLY)
        asked: list[optuna.trial.Trial] = []
        while len(asked) < _PROPOSALS:
            asked.append(self._study.ask())  # those before count as running, which drives the next one away from them
            found = self._suggested(asked[-1])
            if key_of(found) not in tried:
                break
        for each in asked:
            self._study.tell(each, state=TrialState.FAIL)  # it comes again as a trial, once it runs
        return self._left(number, tried) if key_of(found) in tried else found

    def _suggested(self, asked: optuna.trial.Trial) -> dict[str, Any]:
        space, values = self._config.space, dict[str, Any]()
        for path in active(space, {}):
            values[path] = _suggested(asked, path, space[path])
        for path in active(space, values)[len(values) :]:
            values[path] = _suggested(asked, path, space[path])
        return values

    def _restart(self) -> None:
        self._study = _study(self._config.objectives)
        self._told: dict[int, _Told] = {}
        self._running: dict[int, optuna.trial.Trial] = {}

    def _tell(self, known: Sequence[Trial]) -> None:
        """Brings the study up to what is known. Its trials are in the order of their numbers: older ones weigh less."""
        told = {each.number: _told(each, self._config.objectives) for each in known}
        if not self._goes_on(told):
            self._restart()
        for number, each in told.items():
            before = self._told.get(number)
            if before is None and each.state == "running":
                self._study.enqueue_trial(_parameters(self._config.space, each))
                self._running[number] = self._study.ask({path: self._distributions[path] for path in each.values})
            elif before is None:
                self._study.add_trial(_frozen(self._config.space, self._distributions, each))
            elif before != each:
                self._end(self._running.pop(number), each)
        self._told = told

    def _goes_on(self, told: Mapping[int, _Told]) -> bool:
        """Returns whether since the last proposal nothing happened but that trials ended and later ones came."""
        last = max(self._told, default=-1)
        return all(number in self._told or number > last for number in told) and all(
            number in told
            and (told[number] == before or (before.state == "running" and before.values == told[number].values))
            for number, before in self._told.items()
        )

    def _end(self, asked: optuna.trial.Trial, told: _Told) -> None:
        for step, value in told.last.items():
            asked.report(value, step)
        self._study.tell(asked, told.figures or None, told.end)


@dataclass(frozen=True)
class _Told:
    """What of a trial Optuna is told.

    Attributes:
        values: What was set.
        state: Of the trial.
        figures: Of one that finished: of each objective; empty where one is no number.
        last: Of one that was pruned: the last figure by its step; empty where it is no number, and with several
            objectives, of which Optuna compares none. Of pruned trials the estimator takes one without for the worst.
    """

    values: Mapping[str, Any]
    state: State
    figures: tuple[float, ...]
    last: Mapping[int, float]

    @property
    def end(self) -> optuna.trial.TrialState:
        """Returns what has become of one that does not run any more; without figures it counts as pruned."""
        from optuna.trial import TrialState

        ended = TrialState.COMPLETE if self.figures else TrialState.PRUNED
        return TrialState.FAIL if self.state == "failed" else ended


def _by_steps(dimension: Dimension) -> bool:
    """Returns whether Optuna sees steps (it knows no lists as choices, and rounds) or shares (fANOVA knows no logs)."""
    return dimension.kind != "logint" and steps(dimension) is not None


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for path, each in space.items():
        count = steps(each) or 1
        whole = CategoricalDistribution(range(count)) if each.kind == "choice" else IntDistribution(0, count - 1)
        found[path] = whole if _by_steps(each) else FloatDistribution(0.0, 1.0)
    return found


def _suggested(asked: optuna.trial.Trial, path: str, dimension: Dimension) -> Any:
    """Returns the value that Optuna proposes; by the distributions above."""
    if not _by_steps(dimension):
        return at_share(dimension, asked.suggest_float(path, 0.0, 1.0))
    count = steps(dimension) or 1
    if dimension.kind == "choice":
        return at_step(dimension, asked.suggest_categorical(path, range(count)))
    return at_step(dimension, asked.suggest_int(path, 0, count - 1))


def _parameters(space: Space, told: _Told) -> dict[str, Any]:
    """Returns the values of a trial as Optuna sees them."""
    return {
        path: step_of(space[path], value) if _by_steps(space[path]) else share_of(space[path], value)
        for path, value in told.values.items()
    }


def _told(trial: Trial, objectives: Sequence[Objective]) -> _Told:
    found = [trial.value(each) for each in objectives] if trial.state == "finished" else []
    figures = tuple(each for each in found if each is not None)
    last: dict[int, float] = {}
    if trial.state == "pruned" and len(objectives) == 1:
        metric = objectives[0].metric
        having = [each for each in trial.reports if metric in each.metrics][-1:]
        last = {each.step: each.metrics[metric] for each in having if math.isfinite(each.metrics[metric])}
    return _Told(trial.values, trial.state, figures if len(figures) == len(objectives) else (), last)


def _frozen(space: Space, distributions: Mapping[str, BaseDistribution], told: _Told) -> optuna.trial.FrozenTrial:
    """Returns Optuna's record of a trial that does not run any more."""
    from optuna.trial import create_trial

    return create_trial(
        state=told.end,
        values=told.figures or None,
        params=_parameters(space, told),
        distributions={path: distributions[path] for path in told.values},
        intermediate_values=dict(told.last),
    )


def _before(number: int, trials: Sequence[Trial]) -> list[Trial]:
    return sorted((each for each in trials if each.number < number), key=lambda each: each.number)


def _study(objectives: Sequence[Objective]) -> optuna.Study:
    """Returns an empty study; from then on Optuna says nothing but errors."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize" if each.mode == "min" else "maximize" for each in objectives])
