"""The page with a scaling law: what it says about sizes and tokens, how sure that is, and how far it may be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.core.language import Messages, UserLanguage
from llmyard.stages.plots import Frame
from llmyard.stages.plots import steps as round_numbers
from llmyard.sweeps.scaling import Law, Point, Resampled, extrapolates, held_out, optimal

PAGES: dict[UserLanguage, str] = {"en": "scaling.html", "zh": "scaling.zh.html"}
_MOST_LINES = 8  # sizes or budgets in a picture: more colours cannot be told apart
_MOST_DOTS = 1000
_ALONG = 48  # places of a curve
_WINDOW = 10.0  # so many times below and above the optimum a line of equal compute is drawn
_LOWEST = 0.6  # a band that reaches lower than so much of the least loss is cut off, as it would press all else flat
_NEAR = 1.1  # runs whose compute is a budget within such a factor stand beside its line
_LEAST_SHARE = 0.02  # of E in the lowest loss: below it nothing is known about how low a loss may go
_WITHIN = 1.001  # a budget that is the largest measured compute but for rounding is no extrapolation
# Blue over green to orange: sizes and budgets are ordered; apart for the colour-blind, and seen on light and dark.
_RAMP = ((0, 114, 178), (0, 158, 115), (230, 159, 0), (204, 84, 0))


def pages(
    name: str, points: Sequence[Point], law: Law, bands: Resampled, budgets: Sequence[float] = ()
) -> dict[str, str]:
    """Returns the report as HTML, one page a language, by file name.

    Args:
        name: Of what the sweep made.
        points: That the law was fitted to.
        law: Of all points.
        bands: The laws of resampled points.
        budgets: In FLOPs, for which the best size is told; without any, some up to ten times the largest measured.
    """
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, loader=FileSystemLoader(folder))
    template = environment.get_template("scaling_report.html")
    messages = Messages(folder / "scaling_report.yaml")
    budgets = sorted({*budgets} or _some_budgets(points))
    off = [abs(law.loss(each.parameters, each.tokens) / each.loss - 1) for each in points]
    lowest = min(each.loss for each in points)
    shown: dict[str, Any] = {
        "name": name,
        "count": len(points),
        "runs": len({each.trial for each in points if each.trial is not None}) or len(points),
        "sizes": len({each.parameters for each in points}),
        "compute": [_flops(pick(each.flops for each in points)) for pick in (min, max)],
        "off": _percent(median(off)),
        "worst": _percent(max(off)),
        "numbers": _numbers(law, bands),
        "has_floor": bands.interval(lambda each: each.irreducible)[0] > _LEAST_SHARE * lowest,
        "failed": bands.failed,
        "draws": len(bands.laws),
        "by_tokens": _by_tokens(points, law, bands),
        "by_compute": _by_compute(points, law, bands, budgets),
        "by_size": _by_size(points, law, bands, budgets),
        "rows": [_row(points, law, bands, each) for each in budgets],
        "held_out": _held_out(points),
    }
    made = {}
    for language, page in PAGES.items():
        say = messages.in_language(language)
        other = next(file for key, file in PAGES.items() if key != language)
        made[page] = template.render(shown, say=say, language=language, other_page=other)
    return made


def _some_budgets(points: Sequence[Point]) -> set[float]:
    """Returns four within the measured compute, evenly apart on a log scale, and one beyond.

    The least compute is left out: there is one run, and no optimum to be seen.
    """
    low, high = (math.log(pick(each.flops for each in points)) for pick in (min, max))
    return {*(math.exp(low + share * (high - low)) for share in (0.25, 0.5, 0.75, 1.0)), 10 * math.exp(high)}


def _numbers(law: Law, bands: Resampled) -> dict[str, dict[str, str]]:
    """Returns the law's numbers by their names, each with its interval."""
    figures: dict[str, tuple[Callable[[Law], float], Callable[[float], str]]] = {
        "irreducible": (lambda each: each.irreducible, _fixed),
        "a": (lambda each: each.a, _figure),
        "alpha": (lambda each: each.alpha, _fixed),
        "b": (lambda each: each.b, _figure),
        "beta": (lambda each: each.beta, _fixed),
        "size_exponent": (lambda each: each.size_exponent, _fixed),
        "token_exponent": (lambda each: each.token_exponent, _fixed),
    }
    return {
        name: {"value": text(figure(law))} | dict(zip(("low", "high"), map(text, bands.interval(figure)), strict=True))
        for name, (figure, text) in figures.items()
    }


def _by_tokens(points: Sequence[Point], law: Law, bands: Resampled) -> dict[str, Any]:
    """Returns the picture of the loss by tokens, a line a size."""
    sizes = _spread(sorted({each.parameters for each in points}))
    across = _around([each.tokens for each in points])
    places = _between(*across)
    lines: list[dict[str, Any]] = []
    for number, size in enumerate(sizes):
        bounds = bands.losses([(size, at) for at in places])
        lines.append(
            {"colour": _colour(number, len(sizes)), "name": _amount(size), "edge": [*zip(places, bounds, strict=True)]}
            | {"points": [(at, law.loss(size, at)) for at in places], "dots": _of_size(points, size)}
        )
    frame = _framed(across, [y for line in lines for _, y in line["points"]] + [each.loss for each in points], 320)
    return _drawn(frame, lines, _amount)


def _by_compute(points: Sequence[Point], law: Law, bands: Resampled, budgets: Sequence[float]) -> dict[str, Any]:
    """Returns the picture of the loss by compute: a line a size, and the least loss that any size comes to."""
    sizes = _spread(sorted({each.parameters for each in points}))
    least, most = (pick(each.flops for each in points) for pick in (min, max))
    across = _around([least, most, *(each for each in budgets if each > most)])
    lines: list[dict[str, Any]] = []
    for number, size in enumerate(sizes):
        dots = _of_size(points, size)
        places = _between(*(pick(each.flops for each in dots) for pick in (min, max)))
        curve = [(at, law.loss(size, at / (6 * size))) for at in places]
        lines.append({"colour": _colour(number, len(sizes)), "name": _amount(size), "points": curve, "dots": dots})
    envelope: list[dict[str, Any]] = []
    for kind, low, high in (("best", across[0], most), ("best beyond", most, across[1])):
        places = _between(low, high)
        curve = [(at, law.loss(*optimal(law, at))) for at in places]
        edge = [(at, bands.optimum(at).loss) for at in places]
        envelope.append({"kind": kind, "points": curve, "edge": edge, "colour": "var(--ink)"})
    losses = [y for line in [*lines, *envelope] for _, y in line["points"]] + [each.loss for each in points]
    floor = min(bounds[0] for line in envelope for _, bounds in line["edge"])
    losses.append(max(floor, _LOWEST * min(losses)))
    frame = _framed(across, losses, 320, logarithmic=True)
    drawn = _drawn(frame, [*lines, *envelope], _flops, compute=True)
    return drawn | {"until": frame.at_x(math.log10(most))}


def _by_size(points: Sequence[Point], law: Law, bands: Resampled, budgets: Sequence[float]) -> dict[str, Any]:
    """Returns the picture of the loss by size, a line a budget, with its optimum and how sure that is."""
    budgets = _spread(budgets)
    lines: list[dict[str, Any]] = []
    for number, budget in enumerate(budgets):
        best, tokens = optimal(law, budget)
        curve = [(at, law.loss(at, budget / (6 * at))) for at in _between(best / _WINDOW, best * _WINDOW)]
        near = [each for each in points if 1 / _NEAR < each.flops / budget < _NEAR]
        beyond = extrapolates(points, budget) > _WITHIN
        lines.append(
            {"colour": _colour(number, len(budgets)), "name": _flops(budget), "points": curve, "dots": near}
            | {"kind": "beyond" if beyond else "", "span": bands.optimum(budget).parameters}
            | {"best": (best, law.loss(best, tokens))}
        )
    across = _around([x for line in lines for x, _ in line["points"]], 1.0)
    frame = _framed(across, [y for line in lines for _, y in line["points"]], 340)
    drawn = _drawn(frame, lines, _amount, at=lambda each: each.parameters)
    for shown, line in zip(drawn["lines"], lines, strict=True):
        low, high = (min(max(each, across[0]), across[1]) for each in line["span"])
        size, loss = line["best"]
        ends = {"low": frame.at_x(math.log10(low)), "high": frame.at_x(math.log10(high))}
        place = {"x": frame.at_x(math.log10(size)), "y": frame.at_y(loss)}
        shown["best"] = {"title": _amount(size)} | place | ends
    return drawn


def _row(points: Sequence[Point], law: Law, bands: Resampled, budget: float) -> dict[str, Any]:
    """Returns what is best at a budget, each figure with its interval, and what of it has not been measured."""
    size, tokens = optimal(law, budget)
    band = bands.optimum(budget)
    ratio = tokens / size
    cells = [
        (_amount(size), *map(_amount, band.parameters)),
        (_amount(tokens), *map(_amount, band.tokens)),
        (_figure(ratio), *map(_figure, band.tokens_per_parameter)),
        (_fixed(law.loss(size, tokens)), *map(_fixed, band.loss)),
    ]
    times = extrapolates(points, budget)
    outside = []
    for key, value, measured in (
        ("size", size, [each.parameters for each in points]),
        ("tokens", tokens, [each.tokens for each in points]),
    ):
        outside += [key] if not min(measured) / _WITHIN <= value <= max(measured) * _WITHIN else []
    beyond = f"{times:.1f}" if times < 9.95 else f"{float(f'{times:.3g}'):,.0f}" if times < 1e5 else _flops(times)
    return {"budget": _flops(budget), "cells": cells, "beyond": beyond if times > _WITHIN else "", "outside": outside}


def _held_out(points: Sequence[Point]) -> dict[str, str] | None:
    """Returns how a law without the largest run foretells it; None where the others determine none."""
    try:
        found = held_out(points)
    except RequestError:  # the law of all points is still worth having
        return None
    return {
        "size": _amount(found.run.parameters), "tokens": _amount(found.run.tokens), "beyond": _figure(found.beyond),
        "measured": _fixed(found.run.loss), "predicted": _fixed(found.predicted),
        "error": _signed(found.error), "naive": _signed(found.naive_error),
    }  # fmt: skip


def _of_size(points: Sequence[Point], size: float) -> list[Point]:
    return [each for each in points if each.parameters == size]


def _drawn(
    frame: Frame,
    lines: Sequence[dict[str, Any]],
    text: Callable[[float], str],
    *,
    compute: bool = False,
    at: Any = None,
) -> dict[str, Any]:
    """Returns what the template draws; places across are logarithms.

    Args:
        frame: In which.
        lines: With ``points``, ``colour``, and where there are any ``name``, ``kind``, ``edge`` and ``dots``.
        text: How values across are written.
        compute: Whether they are compute; else tokens.
        at: What of a point they are instead.
    """

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{frame.at_x(math.log10(x)):g},{frame.at_y(y):g}" for x, y in points)

    at = at or ((lambda each: each.flops) if compute else (lambda each: each.tokens))
    shown = []
    for line in lines:
        edge = line.get("edge", [])
        dots = [
            {"x": frame.at_x(math.log10(at(each))), "y": frame.at_y(each.loss)}
            | {"size": _amount(each.parameters), "tokens": _amount(each.tokens), "loss": _fixed(each.loss)}
            for each in _spread(line.get("dots", []), _MOST_DOTS)
        ]
        around = [(x, high) for x, (_, high) in edge] + [(x, low) for x, (low, _) in reversed(edge)]
        shown.append(
            {"points": path(line["points"]), "band": path(around), "dots": dots, "colour": line["colour"]}
            | {"name": line.get("name", ""), "kind": line.get("kind", "")}
        )
    x_ticks = [{"at": frame.at_x(math.log10(each)), "text": text(each)} for each in _round(*frame.x)]
    drawn = frame.drawn([]) | {"lines": shown, "x_ticks": x_ticks}
    if frame.logarithmic:  # within a decade there are no two powers of ten
        ticks = _round(*map(math.log10, frame.y))
        drawn["y_ticks"] = [{"at": frame.at_y(each), "text": _figure(each)} for each in ticks]
    return drawn


def _framed(across: tuple[float, float], losses: Sequence[float], height: int, logarithmic: bool = False) -> Frame:
    low, high = min(losses), max(losses)
    around = 0.04 * (high - low) or 0.5 * low
    low, high = (
        (low * (low / high) ** 0.04, high * (high / low) ** 0.04) if logarithmic else (low - around, high + around)
    )
    return Frame((math.log10(across[0]), math.log10(across[1])), (low, high), logarithmic, height=height)


def _around(values: Sequence[float], margin: float = 1.15) -> tuple[float, float]:
    return min(values) / margin, max(values) * margin


def _between(low: float, high: float) -> list[float]:
    """Returns places from one to the other, evenly apart on a log scale."""
    return [low * (high / low) ** (at / (_ALONG - 1)) for at in range(_ALONG)]


def _round(low: float, high: float) -> list[float]:
    """Returns some round numbers between two that are given as logarithms."""
    whole = range(math.floor(low), math.ceil(high) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [digit * 10.0**power for power in whole for digit in digits]
        found = [each for each in found if low <= math.log10(each) <= high]
        if len(found) >= 4:
            return found[:: math.ceil(len(found) / 9)]
    return round_numbers(10**low, 10**high)


def _spread(rows: Sequence[Any], most: int = _MOST_LINES) -> list[Any]:
    """Returns at most so many rows, evenly apart, the first and last among them."""
    if len(rows) <= most:
        return [*rows]
    return [rows[round(at * (len(rows) - 1) / (most - 1))] for at in range(most)]


def _colour(number: int, count: int) -> str:
    place = number / max(count - 1, 1) * (len(_RAMP) - 1)
    one = min(int(place), len(_RAMP) - 2)
    mixed = (round(a + (place - one) * (b - a)) for a, b in zip(_RAMP[one], _RAMP[one + 1], strict=True))
    return "#" + "".join(f"{each:02x}" for each in mixed)


def _amount(value: float) -> str:
    """Returns parameters or tokens, such as 1.25M; with an exponent where no letter is usual."""
    for limit, unit, letter in ((1e4, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "B"), (1e15, 1e12, "T")):
        if value >= 1 and float(f"{value:.3g}") < limit:
            return f"{float(f'{value / unit:.3g}'):,g}{letter}"
    return _flops(value)


def _flops(value: float) -> str:
    digits, _, power = f"{value:.2g}".partition("e")
    if not power and not 1e-2 < abs(value) < 1e3:
        digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def _figure(value: float) -> str:
    return f"{value:,.3g}" if 1e-3 <= value < 1e3 else f"{value:,.0f}" if 1e3 <= value < 1e5 else _flops(value)


def _fixed(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2g}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")
