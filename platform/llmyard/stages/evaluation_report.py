"""The page that people look at after an evaluation: figures with intervals beside a baseline, and the errors sorted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmyard.core.language import Messages
from llmyard.stages.plots import Frame, Line
from llmyard.stages.training_report import PAGES
from llmyard.tasks.open_questions import FOUND, HOME

_WIDTH = 300
_UNBOUNDED = ("perplexity", "bits_per_byte")  # there is no scale to draw them on
_COMPARED = ("other", "undisturbed")  # what the answers stand beside: another model's, and those to texts as they are
_ITEM = 28  # characters of a probe's item; of some the item is a whole sentence


def pages(
    name: str, checkpoint: str, splits: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]
) -> dict[str, str]:
    """Returns the report as HTML, one page a language, by file name.

    Args:
        name: Of the report.
        checkpoint: Whose answers were scored.
        splits: What was found of each split, as ``report.json`` has it.
        asked: What else was found: ``bias`` by probe, ``harness`` by task.
    """
    import yaml
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, loader=FileSystemLoader(folder))
    template = environment.get_template("evaluation_report.html")
    messages = Messages(folder / "evaluation_report.yaml")
    shown = {"name": name, "checkpoint": checkpoint, "splits": [_split(*each) for each in splits.items()]}
    shown |= {"bias": _bias(asked.get("bias", {})), "harness": _harness(asked.get("harness", {}))}
    made = {}
    in_chinese = yaml.safe_load((folder / "evaluation_names.yaml").read_text(encoding="utf-8"))
    for language, page in PAGES.items():
        other = next(file for key, file in PAGES.items() if key != language)
        names = in_chinese if language == "zh" else {}
        say = messages.in_language(language)
        made[page] = template.render(shown, say=say, names=names, language=language, other_page=other)
    return made


def _split(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    intervals, baseline = found.get("intervals", {}), found["baseline"]
    rows = [_row(figure, value, intervals.get(figure), baseline, found) for figure, value in found["metrics"].items()]
    rows.sort(key=lambda row: not row["is_key"])
    return {
        "name": name,
        "examples": found.get("examples"),
        "rows": rows,
        "has_plots": any(row["plot"] for row in rows),
        "baseline_name": found["baseline_name"],
        "against": _against(found),
        "compared": [(name, rows) for name in _COMPARED if (rows := _differences(found, name))],
        "attributions": [_coloured(each) for each in found.get("attributions", [])],
        "graph": found.get("graph"),
        "retrieval": found.get("retrieval"),
        "signatures": found.get("signatures", {}),
        "errors": [_readable(error) for error in found.get("errors", [])],
        "calibration": _calibration(found.get("reliability")),
    }


def _row(
    name: str, value: float, interval: list[float] | None, baseline: Mapping[str, float], found: Mapping[str, Any]
) -> dict[str, Any]:
    floor = baseline.get(name)
    plot = None
    if interval is not None and not name.startswith(_UNBOUNDED):
        # Shares are drawn from 0 to 1, Brier's score from 0 to 2, BLEU and its kin from 0 to 100.
        top = 2.0 if name == "brier" else 1.0 if max(value, interval[1], floor or 0.0) <= 1 else 100.0
        low, high = (_place(each, top) for each in interval)
        plot = {
            "low": low, "width": max(1.0, high - low), "value": _place(value, top),
            "baseline": None if floor is None else _place(floor, top),
        }  # fmt: skip
    return {
        "name": name,
        "is_key": name == found["key_metric"],
        "value": _number(value),
        "interval": "" if interval is None else f"{_number(interval[0])} – {_number(interval[1])}",
        "baseline": "" if floor is None else _number(floor),
        "plot": plot,
    }


def _against(found: Mapping[str, Any]) -> dict[str, Any] | None:
    against = found.get("against_baseline")
    if against is None:
        return None
    values = {key: _number(against[key]) for key in ("difference", "low", "high")}
    word = "better" if against["low"] > 0 else "worse"
    return {"word": word, "numbers": values | {"figure": found["key_metric"], "p": f"{against['p_value']:.2g}"}}


def _differences(found: Mapping[str, Any], other: str) -> list[dict[str, str]]:
    """Returns the figures of other answers to the same examples, and whether the difference may be chance."""
    rows = []
    for name, each in found.get(f"against_{other}", {}).items():
        numbers = {key: _number(each[key]) for key in ("difference", "low", "high")}
        rows.append({"name": name, "other": _number(found[other][name]), "p": f"{each['p_value']:.2g}", **numbers})
    return rows


def _bias(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the probes, each with the items where the difference is largest."""
    rows = []
    for probe, each in found.items():
        numbers = {key: _number(each[key]) for key in ("difference", "low", "high", "share")}
        items = sorted(each["by_item"].items(), key=lambda item: -abs(item[1]))[:5]
        most = ", ".join(f"{_short(item)} {_number(value)}" for item, value in items)
        rows.append({"name": probe, **numbers, "p": f"{each['p_value']:.2g}", "pairs": each["pairs"], "most": most})
    return rows


def _short(item: str) -> str:
    return item if len(item) <= _ITEM else f"{item[:_ITEM]}…"


def _harness(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for task, each in found.items():
        for name, value in each["metrics"].items():
            interval = each["intervals"].get(name)
            ends = "" if interval is None else f"{_number(interval[0])} – {_number(interval[1])}"
            rows.append(
                {"task": task, "name": name, "value": _number(value), "interval": ends, "examples": each["examples"]}
            )
    return rows


def _calibration(bins: list[dict[str, float]] | None) -> dict[str, Any] | None:
    if not bins:
        return None
    frame = Frame((0.0, 1.0), (0.0, 1.0), width=360, height=220)
    points = [(each["confidence"], each["accuracy"]) for each in bins]
    return frame.drawn([Line(points, dotted=True), Line([(0.0, 0.0), (1.0, 1.0)])])


def _coloured(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an input's tokens with how strongly each is shown: -1 against the answer to 1 for it."""
    most = max((abs(each) for each in found["gradients"]), default=0.0) or 1.0
    attended = max(found["attention"], default=0.0) or 1.0
    attention = found["attention"] or [0.0] * len(found["tokens"])
    tokens = [
        {
            "text": text,
            "colour": "0, 158, 115" if gradient > 0 else "213, 94, 0",
            "strength": round(abs(gradient) / most, 3),
            "line": round(share / attended, 3),
            "title": f"{gradient:+.3f}",
        }
        for text, gradient, share in zip(found["tokens"], found["gradients"], attention, strict=True)
    ]
    return {"answer": found["answer"], "tokens": tokens}


def _readable(error: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a kind of error with its examples as texts."""
    examples = [
        {
            "record": {key: _value(key, value) for key, value in each["record"].items() if key != HOME},
            "said": _text(each["said"]),
        }
        for each in error["examples"]
    ]
    return {**error, "examples": examples}


def _value(key: str, value: Any) -> str:
    """Returns a field of a record as text; of the passages that were found a line each, the right ones marked."""
    if key == FOUND and isinstance(value, list):
        return "\n".join(f"{'✓' if each['right'] else '–'} {each['id']}" for each in value) or "∅"
    return "∅" if value is None else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _place(value: float, top: float) -> float:
    return round(4 + (_WIDTH - 8) * min(max(value / top, 0.0), 1.0), 1)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.2f}"
