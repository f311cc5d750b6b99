"""How the loss falls with the size of a model and the tokens it learns from: a scaling law through small runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llmyard.core.errors import RequestError
from llmyard.sweeps.trial import Trial

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

_FLOPS = 6.0  # for a parameter and a token: two forward, four backward (Kaplan et al. 2020, section 2.1)
_DELTA = 1e-3  # of the Huber loss: beyond a deviation of 0.1 % a point pulls no harder (Hoffmann et al. 2022)
_LEAST_POINTS, _LEAST_DIFFERENT = 6, 3
_LEAST_LAWS = 20  # of fewer a 2.5th percentile says nothing
_SAME = 1.02  # sizes or tokens less than so many times apart are one: a last batch that is cut short is no other run
_IN_STEP = 0.98  # a correlation of log sizes and log tokens above does not let the two be told apart
_EXPONENTS = (0.01, 3.0)  # that a fit may find; at the ends there is no law to speak of
_LEAST_SHARE = 1e-4  # of the lowest loss: less of it that cannot be reduced is none
_REFINED = 10  # of the grid's starting values, the best ones; 40 found nothing better in 90 laws that were tried
_ATTEMPTS = 40  # for each draw that is wanted; most resamples of six points determine no law
_ENDS = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True)
class Point:
    """What a model of some size came to with some tokens: its loss on held-out text, in nats a token."""

    parameters: float
    tokens: float
    loss: float
    trial: int | None = field(default=None, compare=False)  # whose points are drawn together; None: drawn by itself

    @property
    def flops(self) -> float:
        """The compute of its training, C = 6 N D."""
        return _FLOPS * self.parameters * self.tokens


def points_of(trials: Sequence[Trial], metric: str = "validation_loss", *, on_the_way: bool = False) -> list[Point]:
    """Returns the points of the finished trials whose metrics hold ``parameters``, ``tokens`` and a loss.

    Args:
        trials: All.
        metric: The loss.
        on_the_way: Whether what trials reported on the way counts too, where a report holds ``tokens``. Only for a
            constant learning rate: with one that decays, the loss on the way is above that of a run which was planned
            to end there, as the rate is still high. Such losses make short runs look worse than they are, to which
            Hoffmann et al. 2022 (section 2) trace the belief that size should grow faster than data; their own runs
            (section 3.1) have a schedule for each length.
    """
    found = []
    for each in trials:
        if each.state != "finished" or not {"parameters", "tokens", metric} <= {*each.metrics}:
            continue
        size, tokens = each.metrics["parameters"], each.metrics["tokens"]
        rows = [(report.metrics.get("tokens"), report.metrics.get(metric)) for report in each.reports if on_the_way]
        earlier = [(at, loss) for at, loss in rows if at is not None and loss is not None and 0 < at < tokens]
        for at, loss in [*earlier, (tokens, each.metrics[metric])]:
            if math.isfinite(loss):
                found.append(Point(float(size), float(at), float(loss), each.number))
    return found


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3).

    No size and no data take E away; the second term is what a finite model adds, the third what finite data add.
    """

    irreducible: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Returns the loss that a model of such a size comes to with so many tokens."""
        return self.irreducible + self.a * math.pow(parameters, -self.alpha) + self.b * math.pow(tokens, -self.beta)

    @property
    def size_exponent(self) -> float:
        """With which the compute-optimal size grows with compute: a in N = G (C/6)^a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def token_exponent(self) -> float:
        """With which the compute-optimal tokens grow with compute."""
        return self.alpha / (self.alpha + self.beta)


def fit(points: Sequence[Point]) -> Law:
    """Returns the law that fits best, by the Huber loss of log losses (Hoffmann et al. 2022, section 3.3).

    Args:
        points: At least 6, of at least 3 sizes and 3 token counts that do not grow in step.

    Raises:
        RequestError: The points determine no law, or there is none in them.
    """
    problem = _Problem(points)
    law = problem.law(problem.best())
    for name, exponent in (("parameters", law.alpha), ("tokens", law.beta)):
        if not _EXPONENTS[0] * 1.01 < exponent < _EXPONENTS[1] * 0.99:
            what = f"the losses do not fall with {name} as a scaling law would have it (exponent {exponent:.3g})"
            raise RequestError(what, f"add runs with {name} further apart, tune each size, leave out what diverged")
    return law


@dataclass(frozen=True)
class OptimalBand:
    """95 % intervals, (low, high), of what is compute-optimal at a budget."""

    parameters: tuple[float, float]
    tokens: tuple[float, float]
    tokens_per_parameter: tuple[float, float]
    loss: tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """The laws of points drawn with replacement (Efron 1979); Besiroglu et al. 2024 do so for this law.

    What the laws differ by is the noise of the runs and how well their sizes and lengths pin it down. They say nothing
    about whether the law has the right form, which is what matters most far beyond the measured runs.

    Attributes:
        laws: One a draw.
        failed: Draws besides that determined no law or whose fit failed, in place of which others were drawn.
    """

    laws: tuple[Law, ...]
    failed: int

    def interval(self, figure: Callable[[Law], float]) -> tuple[float, float]:
        """Returns the 95 % interval of something that follows from a law."""
        import numpy as np

        low, high = np.percentile([figure(law) for law in self.laws], _ENDS)
        return float(low), float(high)

    def losses(self, at: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
        """Returns (low, high) of the loss for each (parameters, tokens).

        They hold the expected loss; a single run deviates from it by its own noise besides.
        """
        import numpy as np

        rows = np.percentile([[law.loss(*place) for place in at] for law in self.laws], _ENDS, axis=0)
        return tuple((float(low), float(high)) for low, high in rows.T)

    def optimum(self, flops: float) -> OptimalBand:
        """Returns the intervals of what is optimal at a budget."""
        pairs = {law: optimal(law, flops) for law in self.laws}
        return OptimalBand(
            self.interval(lambda law: pairs[law][0]),
            self.interval(lambda law: pairs[law][1]),
            self.interval(lambda law: pairs[law][1] / pairs[law][0]),
            self.interval(lambda law: law.loss(*pairs[law])),
        )


def resample(points: Sequence[Point], draws: int = 200, seed: int = 0) -> Resampled:
    """Returns the laws of points drawn with replacement; points of one trial are drawn together, as their errors are.

    Args:
        points: As for :func:`fit`.
        draws: Laws that are wanted.
        seed: Of the draws.

    Raises:
        RequestError: The points determine no law, or too few draws of them do.
    """
    import numpy as np

    problem = _Problem(points)
    best = problem.best()
    runs = [at if each.trial is None else ("trial", each.trial) for at, each in enumerate(points)]
    places = {run: place for place, run in enumerate(dict.fromkeys(runs))}
    owner = np.array([places[run] for run in runs])
    dice = np.random.default_rng(seed)
    laws: list[Law] = []
    failed = 0
    with _one_thread():
        while len(laws) < draws and failed < _ATTEMPTS * draws:
            counts = np.bincount(dice.integers(len(places), size=len(places)), minlength=len(places))
            weights = counts[owner].astype(float)
            # From the law of all points on: other starting values come to the same place, as a test shows.
            found = None if problem.undetermined(weights) else problem.solved(weights, [best])
            if found is None:
                failed += 1
            else:
                laws.append(problem.law(found))
    if len(laws) < min(draws, _LEAST_LAWS):
        what = f"only {len(laws)} of {len(laws) + failed} resamples of {len(points)} points determine a scaling law"
        raise RequestError(what, "add runs: 15 or more, of several sizes with several token counts each")
    return Resampled(tuple(laws), failed)


def optimal(law: Law, flops: float) -> tuple[float, float]:
    """Returns the parameters and tokens with the least loss among those with 6 N D = C (Hoffmann et al. 2022, eq. 4).

    N = G (C/6)^a and D = (C/6)^b / G with G = (alpha A / (beta B))^(1 / (alpha + beta)).

    Raises:
        RequestError: The budget is no positive number.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise RequestError(f"a budget of {flops} FLOPs", "give a positive number, such as 1e18")
    pairs = math.log(flops / _FLOPS)  # of a parameter and a token, as a logarithm: N and D alone may overflow
    ratio = math.log(law.alpha * law.a) - math.log(law.beta * law.b)
    size = min(max(ratio / (law.alpha + law.beta) + law.size_exponent * pairs, -300.0), 300.0)
    return math.exp(size), math.exp(pairs - size)


def extrapolates(points: Sequence[Point], budget: float) -> float:
    """Returns how many times the largest measured compute a budget is: what is above 1 has not been measured."""
    return budget / max(each.flops for each in points)


@dataclass(frozen=True)
class HeldOut:
    """What the law of the other runs says about the one of the largest compute."""

    run: Point  # with the mean loss where several runs have as much compute
    predicted: float
    beyond: float  # how many times the largest compute of the others it has
    lowest: float  # loss of the others: what one would guess without any law

    @property
    def error(self) -> float:
        """Of the prediction, relative; above 0 where the law was too pessimistic."""
        return self.predicted / self.run.loss - 1.0

    @property
    def naive_error(self) -> float:
        """Of the guess that the run is no better than the best of the others."""
        return self.lowest / self.run.loss - 1.0


def held_out(points: Sequence[Point]) -> HeldOut:
    """Returns how the law of the points without those of the largest compute foretells them.

    Raises:
        RequestError: The others determine no law.
    """
    top = max(points, key=lambda each: each.flops, default=Point(1.0, 1.0, 1.0))
    largest = [each for each in points if each.flops * _SAME > top.flops]
    trials = {each.trial for each in largest} - {None}
    # What the same trials reported on the way would give them away.
    others = [each for each in points if each not in largest and each.trial not in trials]
    law = fit(others)
    predicted = fmean(law.loss(each.parameters, each.tokens) for each in largest)
    run = Point(top.parameters, top.tokens, fmean(each.loss for each in largest))
    return HeldOut(run, predicted, extrapolates(others, top.flops), min(each.loss for each in others))


def _one_thread() -> AbstractContextManager[Any]:
    """Keeps BLAS from waking threads: with five unknowns they wait 10 to 50 times as long as they work."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(1, user_api="blas")  # type: ignore[no-any-return]


class _Problem:
    """The fit, with the sizes and tokens measured from their middle.

    There the logarithms of the three terms hardly depend on the exponents, so that L-BFGS needs tens of steps and does
    not stop on the way, as it did in the original fit (Besiroglu et al. 2024).
    """

    def __init__(self, points: Sequence[Point]) -> None:
        import numpy as np

        for each, name in product(points, ("parameters", "tokens", "loss")):
            value = getattr(each, name)
            if not (math.isfinite(value) and value > 0):
                what = f"a run has {name} {value:g}, which is no positive number: {each}"
                raise RequestError(what, "leave this run out, or set right what it reports")
        self._raw = np.log(np.array([(each.parameters, each.tokens, each.loss) for each in points]).reshape(-1, 3))
        self._middle = self._raw[:, :2].mean(axis=0) if points else np.zeros(2)
        self._sizes, self._tokens = (self._raw[:, :2] - self._middle).T
        self._losses: Array = self._raw[:, 2]

    def undetermined(self, weights: Array) -> tuple[str, str] | None:
        """Returns why the points of some weight determine no law, and the remedy; None where they do."""
        import numpy as np

        rows = self._raw[weights > 0]
        if len(self._raw) < _LEAST_POINTS or len(rows) < _LEAST_POINTS - 1:  # a resample has a point twice or so
            what = f"a scaling law has five unknowns, and {len(rows)} points do not determine it"
            return what, f"finish at least {_LEAST_POINTS} runs that tell `parameters` and `tokens`, better 15 or more"
        for column, what in enumerate(("model sizes", "token counts")):
            count = int((np.diff(np.sort(rows[:, column])) > math.log(_SAME)).sum()) + 1
            if count < _LEAST_DIFFERENT:
                which = f"the points have {count} different {what}, fewer than {_LEAST_DIFFERENT}"
                return which, f"add runs with other {what}, each at least 1.5 times the one before"
        if np.corrcoef(rows[:, :2].T)[0, 1] > _IN_STEP:
            what = "the tokens grow in step with the model sizes, so that what each does cannot be told apart"
            return what, "train each size with several token counts"
        return None

    def best(self) -> Array:
        """Returns the solution for all points, from a grid of starting values.

        Raises:
            RequestError: The points determine no law.
        """
        import numpy as np

        weights = np.ones(len(self._losses))
        reason = self.undetermined(weights)
        if reason is not None:
            raise RequestError(*reason)
        low, middle = math.exp(self._losses.min()), math.exp(np.median(self._losses))
        exponents = (0.1, 0.25, 0.5, 1.0)
        grid = []
        for share, alpha, beta, of_size in product((0.05, 0.4, 0.7, 0.95), exponents, exponents, (0.2, 0.5, 0.8)):
            rest = middle - share * low  # what size and data add to what cannot be reduced, at the middle of the points
            terms = np.log([share * low, of_size * rest, (1 - of_size) * rest])
            grid.append(np.array([*terms, alpha, beta]))
        with _one_thread():
            found = self.solved(weights, sorted(grid, key=lambda start: self._cost(start, weights)[0])[:_REFINED])
        if found is None:
            raise RequestError(f"no scaling law could be fitted to {len(weights)} points", "leave out odd runs")
        return found

    def solved(self, weights: Array, starts: Sequence[Array]) -> Array | None:
        """Returns the best of what L-BFGS finds from some starting values; None where it finds nothing."""
        import numpy as np
        from scipy.optimize import minimize  # type: ignore[import-untyped]

        least = float(self._losses.min())
        bounds = [(least + math.log(_LEAST_SHARE), least), (None, None), (None, None), _EXPONENTS, _EXPONENTS]
        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-10, "gtol": 1e-6}
        found: list[tuple[float, Array]] = []
        for start in starts:
            one: Any = minimize(self._cost, start, (weights,), "L-BFGS-B", jac=True, bounds=bounds, options=options)
            # Status 2 is a line search that gains nothing any more, which is what it should be near the optimum.
            if one.status != 1 and math.isfinite(one.fun) and np.isfinite(one.x).all():
                found.append((float(one.fun), one.x))
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def law(self, solution: Array) -> Law:
        """Returns the law of a solution, its terms measured from one parameter and one token again."""
        e, a, b, alpha, beta = (float(each) for each in solution)
        size, tokens = (float(each) for each in self._middle)
        return Law(math.exp(e), math.exp(a + alpha * size), alpha, math.exp(b + beta * tokens), beta)

    def _cost(self, at: Array, weights: Array) -> tuple[float, Array]:
        """Returns the Huber loss, in units of its delta, of the log of the three terms' sum; and its gradient."""
        import numpy as np

        terms = np.array([at[0] + 0 * self._sizes, at[1] - at[3] * self._sizes, at[2] - at[4] * self._tokens])
        most = terms.max(axis=0)
        shares = np.exp(terms - most)
        total = shares.sum(axis=0)
        shares /= total
        off = (most + np.log(total) - self._losses) / _DELTA
        near = np.clip(off, -1.0, 1.0)
        cost = float(weights @ (near * (off - 0.5 * near)))
        pull = weights * near / _DELTA * shares
        slopes = (-(pull[1] @ self._sizes), -(pull[2] @ self._tokens))
        return cost, np.array([*pull.sum(axis=1), *slopes])
