"""The settings of a sweep: what is searched, how, by which figure, and when trials end early."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmyard.core.config import Config, Inert
from llmyard.core.positions import read_scalar

_CALL = re.compile(r"\s*([a-z]+)\s*\((.*)\)\s*", re.DOTALL)
_FORMS = (
    "choice(A, B, …), uniform(LOW, HIGH[, STEP]), loguniform(LOW, HIGH), int(LOW, HIGH[, STEP]) or logint(LOW, HIGH)"
)


class Dimension(Config):
    """One setting that is searched; in a job file also in short: ``loguniform(1e-5, 1e-2)``, ``choice(2, 4)``."""

    kind: Literal["choice", "uniform", "loguniform", "int", "logint"]
    choices: tuple[Any, ...] = Field((), description="Of kind choice: the values.")
    low: float | None = Field(None, description="Least value.")
    high: float | None = Field(None, description="Greatest value, itself included.")
    step: float | None = Field(None, gt=0, description="Of kind uniform and int: values lie so far apart, from low on.")
    when: dict[str, Any] = Field(
        {}, description="Searched only where these others have these values; such as {optimizer.kind: muon}."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.kind == "choice":
            if not self.choices or self.low is not None or self.high is not None or self.step is not None:
                raise ValueError("kind choice takes `choices`, one or more, and no bounds")
            try:
                json.dumps(self.choices, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(
                    f"choices are numbers, texts, truth values, lists and mappings, not {self.choices}"
                ) from None
            return self
        if self.choices or self.low is None or self.high is None:
            raise ValueError(f"kind {self.kind} takes `low` and `high`")
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.kind in ("loguniform", "logint") and self.low <= 0:
            raise ValueError(f"kind {self.kind} needs a low above 0, not {self.low:g}")
        if self.step is not None and self.kind in ("loguniform", "logint"):
            raise ValueError(f"kind {self.kind} takes no `step`")
        if self.kind in ("int", "logint") and any(
            each is not None and each != math.floor(each) for each in (self.low, self.high, self.step)
        ):
            raise ValueError(f"kind {self.kind} takes whole numbers")
        return self


def _written_out(value: Any) -> Any:
    """Returns what a short form stands for; anything else as it is."""
    if isinstance(value, list):
        return {"kind": "choice", "choices": value}
    if isinstance(value, dict) and "search" in value:
        inner = _written_out(value["search"])
        rest = {name: each for name, each in value.items() if name != "search"}
        return {**inner, **rest} if isinstance(inner, dict) else value
    if not isinstance(value, str):
        return value
    call = _CALL.fullmatch(value)
    if call is None:
        raise ValueError(f"{value!r} is no search space; give {_FORMS}")
    kind = call[1]
    arguments = read_scalar(f"[{call[2]}]")
    if not isinstance(arguments, list):
        raise ValueError(f"the values of {value!r} cannot be read; give {_FORMS}")
    if kind == "choice":
        return {"kind": kind, "choices": arguments}
    if kind not in ("uniform", "loguniform", "int", "logint") or not 2 <= len(arguments) <= 3:
        raise ValueError(f"{value!r} is no search space; give {_FORMS}")
    return {"kind": kind, **dict(zip(("low", "high", "step"), arguments, strict=False))}


SearchedDimension = Annotated[Dimension, BeforeValidator(_written_out)]


class Objective(Config):
    """A figure that is to be small or large."""

    metric: str = Field(min_length=1, description="As the last stage of a trial names it, such as validation_loss.")
    mode: Literal["min", "max"] = "min"

    def cost(self, value: float) -> float:
        """Returns a figure so that less is better."""
        return value if self.mode == "min" else -value


class RandomSearch(Config):
    """Values are drawn independently (Bergstra and Bengio 2012)."""

    kind: Literal["random"] = "random"


class GridSearch(Config):
    """Every combination once, in order."""

    kind: Literal["grid"] = "grid"
    points: int = Field(
        5, ge=1, le=1000, description="Values of a dimension without steps: so many, evenly apart on its own scale."
    )


class TpeSearch(Config):
    """Values are drawn where good trials were and bad ones were not (Optuna's tree-structured Parzen estimator,
    Bergstra et al. 2011); with several objectives towards their Pareto front (Ozaki et al. 2022).
    """

    kind: Literal["optuna"] = "optuna"
    startup_trials: int = Field(10, ge=1, description="Drawn independently before it is told apart what is good.")


class PopulationSearch(Config):
    """Trials are members of a population that train in generations; those that fall behind go on from a better one's
    checkpoint, with its settings changed (population based training, Jaderberg et al. 2017). The job's steps are those
    of one generation, and its optimizer begins each anew.
    """

    kind: Literal["pbt"] = "pbt"
    population: int = Field(8, ge=2, le=10_000)
    generations: int = Field(4, ge=2, le=10_000)
    quantile: float = Field(0.25, gt=0, le=0.5, description="So many of the worst go on from one of the best.")
    factor: float = Field(1.25, gt=1, le=10, description="A setting is multiplied by this or divided by it.")
    resample: float = Field(0.25, ge=0, le=1, description="Chance of a setting to be drawn anew instead.")


Search = Annotated[RandomSearch | GridSearch | TpeSearch | PopulationSearch, Field(discriminator="kind")]


class Asha(Config):
    """Asynchronous successive halving (Li et al. 2020): at each rung a trial goes on if it is among the best 1/factor
    of those that came there. Rungs are at grace_steps, grace_steps x factor, and so on.
    """

    kind: Literal["asha"] = "asha"
    grace_steps: int = Field(ge=1, description="No trial ends before.")
    factor: int = Field(4, ge=2, le=64)


class MedianStopping(Config):
    """A trial ends whose best figure so far is worse than the median of the others' mean figures until the same step
    (Golovin et al. 2017, "Google Vizier").
    """

    kind: Literal["median"] = "median"
    grace_steps: int = Field(ge=1, description="No trial ends before.")
    least_trials: int = Field(5, ge=2, description="So many others must have come as far.")


Stopping = Annotated[Asha | MedianStopping, Field(discriminator="kind")]


class Budget(Config):
    """When no further trial begins; whichever comes first."""

    trials: int | None = Field(None, ge=1, le=1_000_000)
    hours: float | None = Field(None, gt=0, description="Since the sweep began, over all its attempts.")
    steps: int | None = Field(None, ge=1, description="Trained by all trials together.")
    tokens: int | None = Field(None, ge=1, description="Read by all pretrainings together that have finished.")

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.trials is None and self.hours is None and self.steps is None and self.tokens is None:
            raise ValueError("give `trials`, `hours`, `steps` or `tokens`: else a sweep would never end")
        return self


class Scaling(Config):
    """A law fitted to the finished trials: the loss by the model's size and the tokens that it read."""

    budgets: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (),
        max_length=8,
        description="In FLOPs, at which the best size is reckoned; unset: four that were measured, and ten times the "
        "largest.",
    )


class Searching(Config):
    """Fields of a sweep that do not depend on what it runs."""

    space: dict[str, SearchedDimension] = Field(
        min_length=1,
        description="What is searched, by its path in the job: {optimizer.learning_rate: loguniform(1e-5, 1e-2)}.",
    )
    objective: Objective
    also: tuple[Objective, ...] = Field((), max_length=3, description="Further objectives: a Pareto front is searched.")
    search: Search = RandomSearch()
    stopping: Stopping | None = None
    budget: Budget | None = Field(None, description="When it ends; a grid and a population end by themselves.")
    seed: int = 0
    seeds: int = Field(1, ge=1, le=100, description="Each setting is run with so many; figures are their means.")
    concurrent: Annotated[int | None, Inert()] = Field(
        None, ge=1, description="Trials at once; unset: as many as the cluster has room for."
    )
    max_failures: Annotated[int, Inert()] = Field(
        5, ge=1, description="The sweep ends where so many trials have failed and none has finished."
    )
    keep: Annotated[int, Inert()] = Field(1, ge=1, description="Of so many of the best trials what they made is kept.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for path, dimension in self.space.items():
            for other, wanted in dimension.when.items():
                if other not in self.space:
                    raise ValueError(f"{path} depends on {other}, which is not searched")
                of = self.space[other]
                if of.kind != "choice" or not any(type(one) is type(wanted) and one == wanted for one in of.choices):
                    raise ValueError(f"{path} depends on {other} being {wanted!r}, which it never is")
                if of.when:
                    raise ValueError(f"{path} depends on {other}, which depends on something itself")
        if self.stopping is not None and self.seeds > 1:
            raise ValueError("`stopping` compares single runs: it goes without `seeds`")
        if self.stopping is not None and self.also:
            raise ValueError("`stopping` goes by one objective: it goes without `also`")
        names = [self.objective.metric, *(each.metric for each in self.also)]
        if len({*names}) < len(names):
            raise ValueError("an objective is named twice")
        if self.search.kind not in ("grid", "pbt") and self.budget is None:
            raise ValueError("give a `budget` of trials, hours, steps or tokens: only a grid ends by itself, or pbt")
        if self.search.kind == "pbt":
            for field, is_set in (("stopping", self.stopping), ("also", self.also), ("seeds", self.seeds > 1)):
                if is_set:
                    raise ValueError(f"search pbt compares members of one population: it goes without `{field}`")
            fixed = [path for path in self.space if path.split(".")[0] in ("model", "init")]
            if fixed:
                raise ValueError(f"search pbt goes on from checkpoints: {fixed[0]} cannot change on the way")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All objectives, the first one first."""
        return (self.objective, *self.also)
