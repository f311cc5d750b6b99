"""The page that people look at after a compression: what each step gained and lost, and which results are beaten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmyard.core.language import Messages
from llmyard.stages.compress_config import Compress
from llmyard.stages.compressing.tradeoff import Result, described, is_cost, lost, unbeaten
from llmyard.stages.plots import Frame, steps
from llmyard.stages.training_report import PAGES

_WIDTH, _HEIGHT = 460, 300
_ROOM = 0.2  # of the span, around the outermost points


def pages(config: Compress, metric: str, results: Sequence[Result]) -> dict[str, str]:
    """Returns the report as HTML, one page a language, by file name.

    Args:
        config: What was to be done.
        metric: That the results are judged by; "" where they could not be asked.
        results: The original and what each step has made.
    """
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, loader=FileSystemLoader(folder))
    template = environment.get_template("compress_report.html")
    messages = Messages(folder / "compress_report.yaml")
    said = {language: _said(messages.in_language(language), config, metric, results) for language in PAGES}
    timed = [each for each in results if each.speeds]
    shown: dict[str, Any] = {
        "name": config.output,
        "checkpoint": results[0].reference,
        "steps": [described(step) for step in config.steps],
        "said": said,
        "metric": metric,
        "timing": config.timing,
        "streams": [speed.streams for speed in timed[0].speeds] if timed else [],
        "timed": bool(timed),
        "writes": bool(timed) and timed[0].speeds[0].first != timed[0].speeds[0].whole,
        "rows": [_row(metric, each, results[0]) for each in results],
        "fronts": _fronts(metric, results),
    }
    made = {}
    for language, page in PAGES.items():
        other = next(file for key, file in PAGES.items() if key != language)
        made[page] = template.render(shown, say=messages.in_language(language), language=language, other_page=other)
    return made


def _said(say: Callable[..., str], config: Compress, metric: str, results: Sequence[Result]) -> list[str]:
    """Returns what became of it, in sentences."""
    original, result, gate = results[0], results[-1], config.gate
    lines = []
    if original.metric is not None and result.metric is not None:
        change = _change(metric, original, result)
        lines.append(
            say("lost", metric=metric, before=_figure(original.metric), after=_figure(result.metric), change=change)
        )
    times = original.bytes / max(1, result.bytes)
    lines.append(say("smaller", times=f"{times:.2g}") if times >= 1 else say("larger", times=f"{1 / times:.2g}"))
    if result.speeds:
        speed = result.speeds[-1]
        lines.append(say("faster", streams=speed.streams, gain=f"{speed.gain:.2f}"))
    if gate is not None and original.metric is not None and result.metric is not None:
        too_much = lost(metric, original.metric, result.metric) > gate.most_loss
        too_slow = gate.least_speedup is not None and (not result.speeds or result.speeds[-1].gain < gate.least_speedup)
        if too_slow and not too_much:
            lines.append(say("gate_slow", least=f"{gate.least_speedup:g}"))
        else:
            lines.append(say("gate_closed" if too_much else "gate_open", most=f"{gate.most_loss:.1%}"))
    return lines


def _row(metric: str, result: Result, original: Result) -> dict[str, Any]:
    share = None
    if result is not original and result.metric is not None and original.metric is not None:
        share = lost(metric, original.metric, result.metric)
    between = result.interval
    return {
        "name": result.name,
        "reference": result.reference,
        "metric": "–" if result.metric is None else _figure(result.metric),
        "interval": "" if between is None else f"[{_figure(between[0])}, {_figure(between[1])}]",
        "change": "" if share is None else _change(metric, original, result),
        "verdict": "" if not share else "worse" if share > 0 else "better",
        "files": _size(result.bytes),
        "files_times": f"{result.bytes / max(1, original.bytes):.2f}",
        "memory": "–" if result.memory is None else _size(result.memory),
        "speeds": [
            {
                "rate": f"{speed.rate:,.0f}", "gain": f"{speed.gain:.2f}", "first": _milliseconds(speed.first),
                "whole": _milliseconds(speed.whole),
            }
            for speed in result.speeds
        ],
    }  # fmt: skip


def _fronts(metric: str, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns the metric drawn against speed and against size."""
    judged = [each for each in results if each.metric is not None]
    if len(judged) < 2:
        return []
    drawn = []
    timed = [each for each in judged if each.speeds]
    if len(timed) > 1:
        streams = timed[0].speeds[-1].streams
        front = _front(metric, timed, [each.speeds[-1].rate for each in timed], is_more=True)
        drawn.append(front | {"title": "front_speed", "axis": "axis_rate", "streams": streams})
    front = _front(metric, judged, [each.bytes / 1e6 for each in judged], is_more=False)
    return [*drawn, front | {"title": "front_size", "axis": "axis_files", "streams": 0}]


def _front(metric: str, results: Sequence[Result], across: Sequence[float], is_more: bool) -> dict[str, Any]:
    values = [each.metric or 0.0 for each in results]
    costs = [value if is_cost(metric) else -value for value in values]
    members = unbeaten(list(zip([-x if is_more else x for x in across], costs, strict=True)))
    ends = [end for each in results for end in (each.interval or (each.metric or 0.0,))]
    frame = Frame(_around(across), _around([*values, *ends]), width=_WIDTH, height=_HEIGHT)
    middle = (frame.left + frame.right) / 2
    dots = []
    for number, (result, x, y, is_front) in enumerate(zip(results, across, values, members, strict=True)):
        at = frame.at_x(x)
        ends_at = None if result.interval is None else [frame.at_y(end) for end in result.interval]
        dots.append(
            {"number": number, "x": at, "y": frame.at_y(y), "is_front": is_front, "dx": 6 if at < middle else -6}
            | {"anchor": "start" if at < middle else "end", "title": f"{result.name}: {metric} {_figure(y)}, {x:,.4g}"}
            | {"between": ends_at}
        )
    ticks = [{"at": frame.at_x(tick), "text": f"{tick:,.6g}"} for tick in steps(*frame.x, most=5)]
    return frame.drawn([]) | {"dots": dots, "x_ticks": ticks}


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = _ROOM * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def _change(metric: str, original: Result, result: Result) -> str:
    assert original.metric is not None
    assert result.metric is not None
    share = lost(metric, original.metric, result.metric)
    return f"{-share if not is_cost(metric) else share:+.1%}"


def _figure(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _milliseconds(pair: tuple[float, float]) -> str:
    return " / ".join(f"{1000 * each:,.0f}" if each >= 0.1 else f"{1000 * each:.1f}" for each in pair)
