"""The page that people look at after training: the loss with what happened on the way, and what the model wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.language import Messages, UserLanguage
from llmyard.stages.plots import Frame, Line, Mark, framed

if TYPE_CHECKING:
    from llmyard.stages.config import Finetune, Pretrain
    from llmyard.training.history import History

PAGES: dict[UserLanguage, str] = {"en": "report.html", "zh": "report.zh.html"}
_EVENT_COLOURS = {
    "skip": "#8B5A2B", "roll_back": "#D55E00", "stop": "#B00020", "resumed": "#999999", "hung": "#CC79A7",
    "diagnosis": "#6A3D9A",
}  # fmt: skip
_MOST_COLUMNS = 6
_LOSS = "validation_loss"


def pages(config: Pretrain | Finetune, history: History) -> dict[str, str]:
    """Returns the report as HTML, one page a language, by file name.

    Args:
        config: Of the stage.
        history: Of the run.
    """
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, loader=FileSystemLoader(folder))
    template = environment.get_template("training_report.html")
    messages = Messages(folder / "training_report.yaml")
    evaluations = _spread(history.evaluations, _MOST_COLUMNS)
    shown: dict[str, Any] = {
        "name": config.output,
        "loss": _loss(history),
        "plots": _plots(history),
        "marked": [(kind, colour) for kind, colour in _EVENT_COLOURS.items() if any(_of_kind(history, kind))],
        "evaluations": evaluations,
        "figures": list(dict.fromkeys(name for _, row in evaluations for name in row)),
        "events": history.events,
        "layers": _layers(history),
        "samples": history.samples,
    }
    made = {}
    for language, page in PAGES.items():
        say = messages.in_language(language)
        summary = say("nothing")
        if history.points:
            last = history.points[-1]
            summary = say("summary", steps=f"{last.step:,}", planned=f"{config.steps:,}", loss=f"{last.loss:.4g}")
        judged = [row[_LOSS] for _, row in history.evaluations if _LOSS in row]
        summary += say("held_out", loss=f"{judged[-1]:.4g}") if judged else ""
        other = next(file for key, file in PAGES.items() if key != language)
        made[page] = template.render(shown, say=say, language=language, other_page=other, summary=summary)
    return made


def _of_kind(history: History, kind: str) -> list[Mark]:
    return [Mark(each.step, kind, each.what, _EVENT_COLOURS[kind]) for each in history.events if each.kind == kind]


def _loss(history: History) -> dict[str, Any] | None:
    """Returns the large plot: the loss, that on held-out text by source, and events."""
    if not history.points:
        return None
    points = [(each.step, each.loss) for each in history.points]
    lines = [Line(points, "training", bounds=[(each.step, each.least, each.most) for each in history.points])]
    names = dict.fromkeys(name for _, row in history.evaluations for name in row if name.startswith(_LOSS))
    for name in names:
        held_out = [(step, row[name]) for step, row in history.evaluations if name in row]
        lines.append(Line(held_out, "validation", name.removeprefix(_LOSS).replace("/", " "), dotted=True))
    marks = [mark for kind in _EVENT_COLOURS for mark in _of_kind(history, kind)]
    values = [y for line in lines for _, y in line.points]
    places = [x for line in lines for x, _ in line.points] + [mark.x for mark in marks]
    # A few spikes above the first loss are drawn at the edge: they would press all else flat.
    low, high = min(values), max(points[0][1], sorted(values)[round(0.99 * (len(values) - 1))])
    low, high = (low - 0.03 * (high - low), high) if high > low else (low - 0.5, high + 0.5)
    return Frame((min(0, *places), max(places)), (low, high)).drawn(lines, marks)


def _plots(history: History) -> list[tuple[str, dict[str, Any]]]:
    """Returns the small plots."""
    found = []
    for key in ("gradient_norm", "learning_rate", "tokens_per_second"):
        is_norm = key == "gradient_norm"
        points = [(each.step, getattr(each, key)) for each in history.points if not is_norm or each.gradient_norm > 0]
        lines = [Line(points)]
        found.append((key, framed(lines, logarithmic=is_norm).drawn(lines)))
    return found


def _layers(history: History) -> list[dict[str, Any]]:
    """Returns a plot for each kind of statistic and stack: a line for each of some steps, from input to output."""
    found = []
    looked = _spread(history.layers, _MOST_COLUMNS)
    stacks = dict.fromkeys(name.rpartition("/")[0] for _, row in looked for name in row)
    for each in stacks:
        kind, _, stack = each.partition("/")
        lines = [Line(_by_layer(row, each), name=f"{step:,}") for step, row in looked]
        found.append({"kind": kind, "stack": stack, "plot": framed(lines, logarithmic=True).drawn(lines)})
    return found


def _by_layer(row: Mapping[str, float], stack: str) -> list[tuple[float, float]]:
    values = [(name.rpartition("/"), value) for name, value in row.items() if value > 0]
    return sorted((int(number), value) for (of, _, number), value in values if of == stack)


def _spread(rows: list[Any], most: int) -> list[Any]:
    """Returns at most so many rows, evenly apart, the first and last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(at * (len(rows) - 1) / (most - 1))] for at in range(most)]
