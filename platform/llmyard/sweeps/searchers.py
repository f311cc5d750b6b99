"""Which setting is tried next, and which of its dimensions matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmyard.core.seeds import mix
from llmyard.sweeps.config import Dimension, Objective, Searching, TpeSearch
from llmyard.sweeps.space import Grid, Space, active, at_step, drawn, grid, key_of, size, step_of, steps
from llmyard.sweeps.trial import State, Trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_DRAWS = 64  # of a random trial before the settings that are left are gone through
_PROPOSALS = 4  # of a sampler that proposes again what was tried
_LEAST_TRIALS = 4  # of which importance says something
_TREES = 64  # of the forest that importance is read from
_UNUSABLE = "figures are numbers"  # a constraint that trials without usable figures break


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
        """


def proposer(config: Searching) -> Proposer:
    """Returns what proposes the trials of a sweep."""
    if config.search.kind == "grid":
        return _InOrder(grid(config.space, config.search.points))
    if config.search.kind == "random":
        return _AtRandom(config)
    return _ByDensities(config, config.search)


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
    told = [_told(each, (config.objective,)) for each in trials if each.state == "finished"]
    usable = [each for each in told if each.figures]
    if len(usable) < _LEAST_TRIALS or len({each.figures for each in usable}) == 1:
        return {}
    optuna = _optuna()
    study = optuna.create_study()
    scales = _scales(config.space)
    study.add_trials([_frozen(scales, each) for each in usable])
    try:
        found = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0).evaluate(study)
    except RuntimeError:  # the figures differ by so little that no tree finds any variance
        return {}
    return {path: float(share) for path, share in found.items()}


class _InOrder:
    """Goes through a grid."""

    def __init__(self, settings: Grid) -> None:
        self._settings = settings

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        return self._settings.values(number) if number < self._settings.size else None


class _AtRandom:
    """Draws independently; of a space with finitely many settings each once."""

    def __init__(self, config: Searching) -> None:
        self._config = config
        self._left = _Untried(config)

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        tried = self._left.tried(_before(number, trials))
        for attempt in range(_DRAWS):
            values = drawn(self._config.space, self._config.seed, number, attempt)
            if key_of(values) not in tried:
                return values
        return self._left.one(number, tried)


class _Untried:
    """The settings of a space that no trial has had; where they are without number, none counts as tried."""

    def __init__(self, config: Searching) -> None:
        self._seed = config.seed
        self._settings = None if size(config.space) is None else Grid(config.space)

    def tried(self, trials: Sequence[Trial]) -> set[str]:
        """Returns the keys of what was tried."""
        return {key_of(each.values) for each in trials} if self._settings else set()

    def one(self, number: int, tried: set[str]) -> dict[str, Any] | None:
        """Returns a setting that was not tried, anywhere in the space; None where all were."""
        if self._settings is None:
            return None
        every, first = self._settings.size, mix(self._seed, number)
        for offset in range(min(every, len(tried) + 1)):  # of so many different ones one was not tried
            values = self._settings.values((first + offset) % every)
            if key_of(values) not in tried:
                return values
        return None


class _ByDensities:
    """Draws where good trials were, by Optuna's tree-structured Parzen estimator.

    Optuna's study is built from the trials that are given, so that a restarted driver proposes from all that is known;
    from one proposal to the next it is told only what is new. Of a space with finitely many settings each is proposed
    once.
    """

    def __init__(self, config: Searching, search: TpeSearch) -> None:
        self._config = config
        self._search = search
        self._left = _Untried(config)
        self._scales = _scales(config.space)
        self._restart()

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        optuna = _optuna()
        known = _before(number, trials)
        tried = self._left.tried(known)
        self._tell(known)
        # A sampler for each trial: a random state that lives on would not survive a restart. Dimensions are sampled one
        # by one: jointly, Optuna would leave those with a condition to chance.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=mix(self._config.seed, number) >> 32,
            n_startup_trials=self._search.startup_trials,
            constant_liar=True,
            multivariate=False,
        )
        asked: list[optuna.Trial] = []
        while len(asked) < _PROPOSALS:
            asked.append(self._study.ask())  # those before count as running, which drives the next one away from them
            found = self._suggested(asked[-1])
            if key_of(found) not in tried:
                break
        for each in asked:
            self._study.tell(each, state=optuna.trial.TrialState.FAIL)  # it comes again as a trial, once it runs
        return self._left.one(number, tried) if key_of(found) in tried else found

    def _suggested(self, asked: optuna.Trial) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for path in active(self._config.space, {}):
            values[path] = self._scales[path].suggested(asked, path)
        for path in active(self._config.space, values)[len(values) :]:
            values[path] = self._scales[path].suggested(asked, path)
        return values

    def _restart(self) -> None:
        directions = [f"{each.mode}imize" for each in self._config.objectives]
        self._study: optuna.Study = _optuna().create_study(directions=directions)
        self._told: dict[int, _Told] = {}
        self._running: dict[int, optuna.Trial] = {}

    def _tell(self, known: Sequence[Trial]) -> None:
        """Brings the study up to what is known. Its trials are in the order of their numbers: older ones weigh less."""
        told = {each.number: _told(each, self._config.objectives) for each in known}
        if not self._goes_on(told):
            self._restart()
        for number, each in told.items():
            before = self._told.get(number)
            if before is None and each.state == "running":
                self._study.enqueue_trial(_inner(self._scales, each))
                self._running[number] = self._study.ask({path: self._scales[path].distribution for path in each.values})
            elif before is None:
                self._study.add_trial(_frozen(self._scales, each))
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

    def _end(self, asked: optuna.Trial, told: _Told) -> None:
        for step, value in told.last.items():
            asked.report(value, step)
        for name, value in told.constraints.items():
            asked.set_constraint(name, value)
        self._study.tell(asked, told.figures or None, told.optuna_state)


@dataclass(frozen=True)
class _Told:
    """What of a trial Optuna is told.

    Attributes:
        values: What was set.
        state: Of the trial.
        figures: Of one that finished: of each objective; empty where one is no number.
        last: Of one that was pruned: the last figure by its step; empty where it is no number. With several objectives
            Optuna can compare none.
    """

    values: Mapping[str, Any]
    state: State
    figures: tuple[float, ...]
    last: Mapping[int, float]

    @property
    def constraints(self) -> dict[str, float]:
        """Returns what it breaks. To break one is the only way to count as worse than all others without a figure."""
        known = self.state in ("running", "failed") or self.figures or self.last
        return {} if known else {_UNUSABLE: 1.0}

    @property
    def optuna_state(self) -> optuna.trial.TrialState:
        """Returns what has become of one that does not run any more."""
        from optuna.trial import TrialState

        if self.state == "failed":
            return TrialState.FAIL
        return TrialState.COMPLETE if self.figures else TrialState.PRUNED


@dataclass(frozen=True)
class _Scale:
    """How Optuna sees a dimension: what has steps by their numbers, since it knows no lists as choices and rounds."""

    dimension: Dimension
    distribution: BaseDistribution
    by_steps: bool

    def inner(self, value: Any) -> Any:
        """Returns what stands for a value; one beyond the bounds is taken as the nearer one."""
        if self.by_steps:
            return step_of(self.dimension, value)
        return min(self.dimension.high or 0.0, max(self.dimension.low or 0.0, value))

    def suggested(self, asked: optuna.Trial, path: str) -> Any:
        """Returns a value that Optuna proposes."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        inner: Any
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                inner = asked.suggest_categorical(path, choices)
            case IntDistribution(low=low, high=high, log=log):
                inner = asked.suggest_int(path, low, high, log=log)
            case FloatDistribution(low=low, high=high, log=log):
                inner = asked.suggest_float(path, low, high, log=log)
        return at_step(self.dimension, inner) if self.by_steps else inner


def _scales(space: Space) -> dict[str, _Scale]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found = {}
    for path, each in space.items():
        count, low, high = steps(each), each.low or 0.0, each.high or 0.0
        distribution: BaseDistribution
        if each.kind == "choice":
            distribution = CategoricalDistribution(range(count or 1))
        elif each.kind == "logint":
            distribution = IntDistribution(int(low), int(high), log=True)
        elif count is not None:
            distribution = IntDistribution(0, count - 1)
        else:
            distribution = FloatDistribution(low, high, log=each.kind == "loguniform")
        found[path] = _Scale(each, distribution, count is not None and each.kind != "logint")
    return found


def _told(trial: Trial, objectives: Sequence[Objective]) -> _Told:
    found = [trial.value(each) for each in objectives] if trial.state == "finished" else []
    figures = tuple(each for each in found if each is not None)
    last: dict[int, float] = {}
    if trial.state == "pruned" and len(objectives) == 1:
        (metric,) = (each.metric for each in objectives)
        having = [each for each in trial.reports if metric in each.metrics][-1:]
        last = {each.step: each.metrics[metric] for each in having if math.isfinite(each.metrics[metric])}
    return _Told(trial.values, trial.state, figures if len(figures) == len(objectives) else (), last)


def _inner(scales: Mapping[str, _Scale], told: _Told) -> dict[str, Any]:
    return {path: scales[path].inner(value) for path, value in told.values.items()}


def _frozen(scales: Mapping[str, _Scale], told: _Told) -> optuna.trial.FrozenTrial:
    """Returns Optuna's record of a trial that does not run any more."""
    created: optuna.trial.FrozenTrial = _optuna().trial.create_trial(
        state=told.optuna_state,
        values=told.figures or None,
        params=_inner(scales, told),
        distributions={path: scales[path].distribution for path in told.values},
        intermediate_values=dict(told.last),
        constraints=told.constraints,
    )
    return created


def _before(number: int, trials: Sequence[Trial]) -> list[Trial]:
    return sorted((each for each in trials if each.number < number), key=lambda each: each.number)


def _optuna() -> Any:
    """Returns Optuna, which says nothing but errors."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
