"""The page that people look at after a sweep: the best setting, how the trials went, and what mattered."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llmyard.core.errors import RequestError
from llmyard.core.language import Messages
from llmyard.stages.plots import Frame, powers
from llmyard.stages.plots import steps as round_numbers
from llmyard.stages.training_report import PAGES
from llmyard.sweeps.config import Dimension, Objective, Searching
from llmyard.sweeps.space import at_step, steps, unit
from llmyard.sweeps.trial import Trial, best_of, front_of

_T = TypeVar("_T")

_MOST_CURVES = 60
_MOST_DRAWN = 1000  # dots or lines of the other pictures: beyond it a browser grows slow and nothing more is seen
_MOST_ROWS = 200
_MOST_LABELS = 12  # of the choices on an axis
_CELL, _WHY = 36, 240  # characters of a setting and of a reason in the table; the whole stands in the title
_LOG_SPAN = 20.0  # figures that are so many times apart are drawn on a log scale
_FAR_OUT = 10.0  # a figure so many times as far behind the best as three quarters of all are is drawn at the edge
_HUGE = 1e100  # a figure above is no number to draw: spans would not fit a float
_GOOD, _MIDDLE, _BAD = (0, 114, 178), (150, 158, 166), (230, 159, 0)  # blue to orange: apart for the colour-blind
_STATES = ("finished", "pruned", "failed", "running")


def pages(
    name: str, config: Searching, trials: Sequence[Trial], importance: Mapping[str, float], spent: Mapping[str, float]
) -> dict[str, str]:
    """Returns the report as HTML, one page a language, by file name.

    Args:
        name: Of what the sweep made.
        config: What was searched.
        trials: All, in any order.
        importance: Of each path, as a share of 1; empty where it is not known.
        spent: ``seconds`` on the clock, ``trial_seconds`` of all trials together, and their ``steps``.
    """
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, loader=FileSystemLoader(folder))
    template = environment.get_template("sweep_report.html")
    messages = Messages(folder / "sweep_report.yaml")
    trials = sorted(trials, key=lambda each: each.number)
    best = best_of(trials, config.objective)
    front = front_of(trials, config.objectives) if config.also else []
    counts: Counter[str] = Counter(each.state for each in trials)
    shown: dict[str, Any] = {
        "name": name,
        "total": len(trials),
        "counts": {state: counts[state] for state in _STATES},
        "config": config,
        "best": None if best is None else _best(config, best),
        "steps": f"{spent.get('steps', 0):,.0f}",
        "history": _history(config.objective, trials, best),
        "curves": _curves(config.objective, trials, best),
        "parallel": _parallel(config, trials),
        "importance": _bars(importance),
        "front": _front(config, trials, front),
        "columns": _columns(config),
        "rows": [_row(config, each, best, front) for each in _ordered(config.objective, trials)[:_MOST_ROWS]],
    }
    made = {}
    for language, page in PAGES.items():
        say = messages.in_language(language)
        times = {key: _duration(say, spent.get(key, 0.0)) for key in ("seconds", "trial_seconds")}
        other = next(file for key, file in PAGES.items() if key != language)
        made[page] = template.render(shown, say=say, language=language, other_page=other, times=times)
    return made


def _best(config: Searching, trial: Trial) -> dict[str, Any]:
    figures = [(each, _number(trial.value(each))) for each in config.objectives]
    values = [(path, _setting(trial, path)) for path in config.space if path in trial.values]
    return {"number": trial.number, "figures": figures, "values": values, "artifact": trial.artifact, "run": trial.run}


def _history(objective: Objective, trials: Sequence[Trial], best: Trial | None) -> dict[str, Any] | None:
    """Returns the picture of each trial's figure by its number, with the best so far."""
    found = [(each, value) for each in trials if (value := _figure(each, objective)) is not None]
    if not found:
        return None
    scale = _scale([value for _, value in found], objective)
    frame = _framed((-0.5, max(each.number for each, _ in found) + 0.5), scale)
    leading: list[tuple[float, float]] = []
    for each, value in found:
        if each.state == "finished" and (not leading or objective.cost(value) < objective.cost(leading[-1][1])):
            leading += [(each.number, leading[-1][1])] if leading else []
            leading.append((each.number, value))
    if leading:
        leading.append((frame.x[1], leading[-1][1]))
    drawn = _spread(found, _MOST_DRAWN, best)
    dots = [
        {"x": frame.at_x(each.number), "y": frame.at_y(value), "trial": each.number, "state": each.state}
        | {"value": _number(value), "is_best": best is not None and each.number == best.number}
        for each, value in drawn
    ]
    has_pruned = any(each.state == "pruned" for each, _ in found)
    return _axes(frame) | {"dots": dots, "line": _path(frame, leading), "has_pruned": has_pruned, "all": len(found)}


def _curves(objective: Objective, trials: Sequence[Trial], best: Trial | None) -> dict[str, Any] | None:
    """Returns the picture of the figures that trials reported by their steps, the best one's on top."""
    having = [(each, points) for each in trials if (points := _reported(each, objective))]
    if not having:
        return None
    chosen = _spread(having, _MOST_CURVES, best)
    scale = _scale([value for _, points in chosen for _, value in points], objective)
    frame = _framed((0, max(points[-1][0] for _, points in chosen)), scale)
    lines = []
    for each, points in chosen:
        kind = "best" if best is not None and each.number == best.number else each.state
        last = (frame.at_x(points[-1][0]), frame.at_y(points[-1][1]))
        # A line of one point cannot be seen, and of those that ended early it is told where.
        dot = last if len(points) == 1 or kind in ("pruned", "failed") else None
        lines.append({"trial": each.number, "kind": kind, "points": _path(frame, points), "dot": dot})
    order = ("pruned", "failed", "running", "finished", "best")
    lines.sort(key=lambda line: order.index(line["kind"]))
    kinds = [kind for kind in reversed(order) if any(line["kind"] == kind for line in lines)]
    return _axes(frame) | {"lines": lines, "kinds": kinds, "all": len(having)}


def _parallel(config: Searching, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Returns the picture with an axis a dimension and the objective as the last: a line a finished trial, by rank."""
    objective = config.objective
    ranked = _ranked(objective, trials)
    if not ranked:
        return None
    left, right, top, bottom = 70, 84, 46, 250
    goal = _scale([value for _, value in ranked], objective)
    scales = [*config.space.items(), (objective.metric, goal)]
    longest = max(len(path.rpartition(".")[2]) for path, _ in scales)
    gap = max(116.0, min(6.8 * longest, 170.0), (720 - left - right) / (len(scales) - 1))
    drawn = _spread(ranked, _MOST_DRAWN)
    lines = []
    missing = [False] * len(scales)
    faint = min(1.0, math.sqrt(80 / len(drawn)))  # many lines would make one blot
    for rank, (trial, value) in enumerate(drawn):
        share = rank / max(len(drawn) - 1, 1)
        points = []
        for at, (path, dimension) in enumerate(scales):
            is_goal = at == len(scales) - 1
            place = unit(dimension, value) if is_goal else _place(dimension, trial, path)
            missing[at] |= place is None
            height = bottom + 20 if place is None else bottom - place * (bottom - top)
            points.append(f"{left + at * gap:.1f},{height:.1f}")
        lines.append(
            {"trial": trial.number, "value": _number(value), "points": " ".join(points), "colour": _colour(share)}
            | {"is_best": rank == 0, "opacity": f"{1 if rank == 0 else faint * (0.85 - 0.4 * share):.2f}"}
        )
    axes = []
    for at, (path, dimension) in enumerate(scales):
        of, _, last = path.rpartition(".") if at < len(scales) - 1 else ("", "", path)
        widest = int(gap / 6.5)
        ticks = [
            {"y": f"{bottom - place * (bottom - top):.1f}", "text": _clipped(text, widest - 3), "title": text}
            for place, text in _ticks(dimension)
        ]
        axes.append(
            {"x": f"{left + at * gap:.1f}", "name": _clipped(last, widest), "of": _clipped(of[::-1], widest)[::-1]}
            | {"title": path, "ticks": ticks, "has_missing": missing[at]}
        )
    return {
        "width": round(left + right + gap * (len(scales) - 1)), "height": bottom + 40, "top": top, "bottom": bottom,
        "axes": axes, "lines": lines[::-1], "has_missing": any(missing), "all": len(ranked),
        "scale": [_colour(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
    }  # fmt: skip


def _front(config: Searching, trials: Sequence[Trial], front: Sequence[Trial]) -> dict[str, Any] | None:
    """Returns the picture of the first two objectives with the Pareto front, and the front as rows."""
    if not front:
        return None
    one, two = config.objectives[:2]
    found = [
        (each, (x, y))
        for each in trials
        if each.state == "finished" and (x := _figure(each, one)) is not None and (y := _figure(each, two)) is not None
    ]
    if not found:
        return None
    across = _scale([x for _, (x, _) in found], one)
    is_log = across.kind == "loguniform"
    placed = (lambda x: math.log10(min(max(x, across.low or x), across.high or x))) if is_log else (lambda x: x)
    low, high = across.low or 0.0, across.high or 0.0
    frame = _framed((placed(low), placed(high)), _scale([y for _, (_, y) in found], two), height=320)
    members = {each.number for each in front}
    ahead = [pair for pair in found if pair[0].number in members]
    behind = [pair for pair in found if pair[0].number not in members]
    dots = [
        {"x": frame.at_x(min(max(placed(x), frame.x[0]), frame.x[1])), "y": frame.at_y(y), "trial": each.number}
        | {"is_front": each.number in members, "values": f"{one.metric} {_number(x)}, {two.metric} {_number(y)}"}
        for each, (x, y) in [*_spread(behind, _MOST_DRAWN), *_spread(ahead, _MOST_DRAWN)]
    ]
    # In steps, not straight: nothing between two members has been reached. Of three objectives there is no such line.
    joined: list[tuple[float, float]] = []
    if len(config.objectives) == 2:
        for _, (x, y) in sorted(ahead, key=lambda pair: one.cost(pair[1][0])):
            joined += [(placed(x), joined[-1][1])] if joined else []
            joined.append((placed(x), y))
    ticks = powers(low, high) if is_log else round_numbers(low, high)
    rows = [_row(config, each, None, front) for each in _ordered(one, front)[:_MOST_ROWS]]
    shown = {"dots": dots, "line": _path(frame, joined), "rows": rows}
    x_ticks = [{"at": frame.at_x(placed(tick)), "text": _number(tick)} for tick in ticks]
    return _axes(frame) | shown | {"x_ticks": x_ticks, "x_name": one, "y_name": two, "all": len(front)}


def _bars(importance: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Returns paths with their share in percent as text and as the width of a bar, the weightiest first."""
    found = sorted(((path, each) for path, each in importance.items() if math.isfinite(each)), key=lambda x: -x[1])
    most = max((each for _, each in found), default=0.0)
    return [(path, f"{100 * each:.1f}", f"{100 * max(each, 0) / most:.1f}") for path, each in found if most > 0]


def _columns(config: Searching) -> list[tuple[str, str, str]]:
    """Returns the heads of the settings' columns, each with its path and the class of its cells."""
    ends = Counter(path.rpartition(".")[2] for path in config.space)
    found = []
    for path, dimension in config.space.items():  # the last part of a path says enough where no other ends so
        end = path.rpartition(".")[2]
        kind = "number" if all(_is_number(each) for each in dimension.choices) else ""
        found.append((end if ends[end] == 1 else path, path, kind))
    return found


def _row(config: Searching, trial: Trial, best: Trial | None, front: Sequence[Trial]) -> dict[str, Any]:
    figures = [(_number(value), value) for value in (trial.value(each) for each in config.objectives)]
    return {
        "number": trial.number, "state": trial.state, "figures": figures, "artifact": trial.artifact,
        "values": [_setting(trial, path) for path in config.space],
        "seconds": f"{trial.seconds:,.1f}" if trial.seconds < 100 else f"{trial.seconds:,.0f}",
        "exact_seconds": trial.seconds, "steps": f"{trial.steps:,}", "exact_steps": trial.steps,
        "why": _clipped(trial.why, _WHY), "whole_why": trial.why,
        "is_best": best is not None and trial.number == best.number,
        "is_front": any(each.number == trial.number for each in front),
    }  # fmt: skip


def _setting(trial: Trial, path: str) -> dict[str, Any]:
    """Returns a setting as short text, as whole text, and as the number to sort by; "–" where a trial has none."""
    if path not in trial.values:
        return {"text": "–", "title": "", "sort": ""}
    value = trial.values[path]
    return {"text": _clipped(_text(value), _CELL), "title": _whole(value), "sort": value if _is_number(value) else ""}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ordered(objective: Objective, trials: Sequence[Trial]) -> list[Trial]:
    """Returns the finished trials from the best on, then the pruned, the failed and those that still run."""

    def place(trial: Trial) -> tuple[int, float, int]:
        value = trial.value(objective) if trial.state == "finished" else None
        return _STATES.index(trial.state), math.inf if value is None else objective.cost(value), trial.number

    return sorted(trials, key=place)


def _ranked(objective: Objective, trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    found = [each for each in _ordered(objective, trials) if each.state == "finished"]
    return [(each, value) for each in found if (value := _figure(each, objective)) is not None]


def _figure(trial: Trial, objective: Objective) -> float | None:
    """Returns a finished trial's figure, or the last number that a pruned one reported; None where it has none."""
    if trial.state not in ("finished", "pruned"):
        return None
    value = trial.value(objective)
    if value is None and trial.state == "pruned":
        points = _reported(trial, objective)
        value = points[-1][1] if points else None
    return value if value is not None and abs(value) < _HUGE else None


def _reported(trial: Trial, objective: Objective) -> list[tuple[int, float]]:
    found = [(each.step, each.metrics.get(objective.metric)) for each in trial.reports]
    return [(step, value) for step, value in found if value is not None and abs(value) < _HUGE]  # NaN is not below


def _scale(values: Sequence[float], objective: Objective) -> Dimension:
    """Returns the scale to draw figures on: with room at both ends, and a few that are far out left beyond them."""
    is_log = min(values) > 0 and max(values) > _LOG_SPAN * min(values)
    costs = sorted(objective.cost(math.log(each) if is_log else each) for each in values)
    usual = costs[math.ceil(0.75 * (len(costs) - 1))]
    fence = usual + _FAR_OUT * (usual - costs[0])
    within = [value for value in values if objective.cost(math.log(value) if is_log else value) <= fence]
    if usual > costs[0] and len(within) < len(values):
        return _scale(within, objective)  # what spans so much may have been those alone
    low, high = sorted((objective.cost(costs[0]), objective.cost(costs[-1])))
    around = 0.06 * (high - low) or 0.5 * abs(low) or 0.5
    low, high = low - around, high + around
    if is_log:
        return Dimension(kind="loguniform", low=math.exp(low), high=math.exp(high))
    return Dimension(kind="uniform", low=low, high=high)


def _framed(x: tuple[float, float], scale: Dimension, height: int = 240) -> Frame:
    return Frame(x, (scale.low or 0.0, scale.high or 0.0), scale.kind == "loguniform", height=height)


def _axes(frame: Frame) -> dict[str, Any]:
    return frame.drawn([]) | {"is_log": frame.logarithmic}


def _path(frame: Frame, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{frame.at_x(x):g},{frame.at_y(y):g}" for x, y in points)


def _place(dimension: Dimension, trial: Trial, path: str) -> float | None:
    """Returns where a trial lies on an axis; None where it has no such setting."""
    try:
        return unit(dimension, trial.values[path]) if path in trial.values else None
    except RequestError:  # a choice of another space than this one: the page is still worth having
        return None


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    """Returns places from 0 to 1 with what stands there."""
    if dimension.kind == "choice":
        count = steps(dimension) or 1
        shown = [at_step(dimension, at) for at in range(0, count, math.ceil(count / _MOST_LABELS))]
        return [(unit(dimension, each), _text(each)) for each in shown]
    low, high = dimension.low or 0.0, dimension.high or 0.0
    whole = dimension.kind in ("int", "logint")
    if low == high or not math.isfinite(high - low):
        found = [*dict.fromkeys((low, high))]
    elif dimension.kind in ("loguniform", "logint") and high >= 10 * low:
        found = powers(low, high)
    else:
        found = round_numbers(low, high, whole=whole)
    return [(unit(dimension, each), f"{each:.0f}" if whole and each < 1e6 else _number(each)) for each in found]


def _spread(rows: Sequence[_T], most: int, best: Trial | None = None) -> list[_T]:
    """Returns at most so many rows, evenly apart; that of the best trial, if it is among them, is never left out."""
    if len(rows) <= most:
        return [*rows]
    chosen = {round(at * (len(rows) - 1) / (most - 1)) for at in range(most)}
    for at, row in enumerate(rows):
        if best is not None and isinstance(row, tuple) and row[0] is best and at not in chosen:
            chosen = {*chosen - {min(chosen, key=lambda other: abs(other - at))}, at}
    return [rows[at] for at in sorted(chosen)]


def _colour(share: float) -> str:
    """Returns the colour of a rank, from the best at 0 to the worst at 1."""
    one, two = (_GOOD, _MIDDLE) if share < 0.5 else (_MIDDLE, _BAD)
    way = share * 2 % 1 if share < 1 else 1.0
    return "#" + "".join(f"{round(a + way * (b - a)):02x}" for a, b in zip(one, two, strict=True))


def _text(value: Any) -> str:
    """Returns a setting as one would write it in a job file, numbers briefly."""
    if isinstance(value, float) and math.isfinite(value):
        return _number(value)
    return _whole(value)


def _whole(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    digits, _, power = text.partition("e")
    return f"{digits}e{int(power)}" if power else digits


def _clipped(text: str, most: int) -> str:
    """Returns a text that is no wider than so many Latin letters."""
    width = 0
    for at, letter in enumerate(text):
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > most:
            return f"{text[: max(at - 1, 1)]}…"
    return text


def _duration(say: Any, seconds: float) -> str:
    if seconds < 120:
        return str(say("seconds_long", seconds=_number(round(seconds, 1))))
    hours, minutes = divmod(round(seconds / 60), 60)
    return str(say("hours_long" if hours else "minutes_long", hours=f"{hours:,}", minutes=minutes))
