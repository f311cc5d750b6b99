"""What a running job shows: one live view on a terminal, plain lines elsewhere, and tables at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from llmyard.cli.messages import say
from llmyard.stages.config import AnyStage
from llmyard.stages.stage import StageResult

LINE_EVERY_SECONDS = 10.0
_SESSION = logging.getLogger("llmyard.runtime.session")  # says when it starts Ray


class JobView:
    """Shows the stages of a job while they run.

    Args:
        console: Where to print.
        live: Whether the console is a terminal that can be redrawn.
        stages: How many there are: the bars rest when the last one is done, while Ray still stops.
    """

    def __init__(self, console: Console, live: bool, stages: int) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            disable=not live,
        )
        self._live = live
        self._left = stages
        self._notice = _Notice(self._starting)
        self._start: Any = None

    def _starting(self) -> None:
        if self._live:
            self._start = self._bars.add_task(say("starting_ray"), total=None, note="")
        else:
            self._console.print(say("starting_ray"), highlight=False)

    def stage(self, stage: AnyStage) -> StageView:
        """Returns the view of one stage."""
        name = f"{stage.kind} {stage.output}"
        if self._start is not None:
            self._bars.remove_task(self._start)
            self._start = None
        task = self._bars.add_task(name, total=None, note="")
        return StageView(name, self._bars, task, None if self._live else self._console)

    def result(self, result: StageResult) -> None:
        """Shows that a stage has ended."""
        for task in self._bars.tasks:
            if task.description == f"{result.kind} {result.name}":
                self._bars.update(task.id, total=1, completed=1, note="")
        if result.skipped:
            line = say("skip_line", stage=result.kind, output=result.name, artifact=result.made)
            self._console.print(line, highlight=False)
        elif not self._live:
            self._console.print(f"{result.kind} {result.name}: {result.seconds:.1f} s, {result.made}", highlight=False)
        self._left -= 1
        if not self._left:
            self._bars.stop()

    def __enter__(self) -> JobView:
        self._bars.start()
        _SESSION.setLevel(logging.INFO)
        _SESSION.addHandler(self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _SESSION.removeHandler(self._notice)
        self._bars.stop()


class _Notice(logging.Handler):
    """Calls back at the first message."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(logging.INFO)
        self._call: Callable[[], None] | None = call

    def emit(self, record: logging.LogRecord) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


# Figures of a training that are shown, in this order.
_SHOWN = {
    name: f"figure {name}"
    for name in ("loss", "tokens_per_second", "mfu", "gradient_norm", "data_wait_share", "checkpoint_age")
}


class StageView:
    """The line of one stage."""

    def __init__(self, name: str, bars: Progress, task: Any, console: Console | None) -> None:
        self._name, self._bars, self._task, self._console = name, bars, task, console
        self._printed = 0.0
        self._first: tuple[float, float, float] | None = None  # when progress was first seen, how much, of how much
        self._lock = threading.Lock()

    def update(self, done: float, total: float, note: str = "", **figures: float) -> None:
        """Shows that ``done`` of ``total`` is done, with the note or those figures that there is a text for."""
        note = "  ".join(
            [note] * bool(note) + [say(key, value=figures[name]) for name, key in _SHOWN.items() if name in figures]
        )
        self._bars.update(self._task, completed=done, total=total, note=note)
        with self._lock:
            if self._console is not None and time.monotonic() - self._printed > LINE_EVERY_SECONDS:
                self._printed = time.monotonic()
                left = self._left(done, total)
                self._console.print(f"{self._name}: {done:.0f}/{total:.0f}  {left}{note}".rstrip(), highlight=False)

    def _left(self, done: float, total: float) -> str:
        """Returns about how long it still takes; "" where that cannot be told yet."""
        now = time.monotonic()
        if self._first is None or done < self._first[1] or total != self._first[2]:  # another kind of work has begun
            self._first = now, done, total
        began, before, _ = self._first
        if done <= before:
            return ""
        return say("left", seconds=duration((now - began) * (total - done) / (done - before))) + "  "


def results_table(results: Sequence[StageResult]) -> Table:
    """Returns the table a job ends in: stage, time, key figure beside its baseline, artifact, run."""
    table = Table(show_edge=False, pad_edge=False)
    for key in ("stage", "time", "figure", "baseline", "artifact", "mlflow"):
        justify: Literal["left", "right"] = "right" if key in ("time", "baseline") else "left"
        table.add_column(say(key), overflow="fold", no_wrap=key in ("time", "baseline", "mlflow"), justify=justify)
    for result in results:
        figure, baseline = key_figure(result)
        spent = say("skipped") if result.skipped else duration(result.seconds)
        table.add_row(f"{result.kind} {result.name}", spent, figure, baseline, result.made, result.run_id[:8])
    return table


def key_figure(result: StageResult) -> tuple[str, str]:
    """Returns the figure that says most about a stage's result, and that of its baseline ("" without)."""
    metrics = result.metrics
    if result.kind == "prepare":
        return say("tokens", count=f"{metrics.get('tokens_train', 0):,.0f}"), ""
    if result.kind == "evaluate":
        key = result.artifacts[0].details.get("key_metric")
        if key is None:  # nothing but probes was asked
            name, value = next(iter(metrics.items()))
            return f"{name} {value:.3g}", ""
        split = next(iter(metrics)).partition("/")[0]
        return f"{split} {key} {metrics[f'{split}/{key}']:.3g}", f"{metrics[f'{split}/baseline_{key}']:.3g}"
    if result.kind == "command":
        return next((f"{name} {value:.4g}" for name, value in metrics.items()), ""), ""
    if result.kind == "sweep":
        name = result.artifacts[0].config["objective"]["metric"]
        return f"{name} {metrics[name]:.4g}", ""
    if result.kind == "compress":
        key = str(result.artifacts[0].details.get("key_metric", ""))
        if key not in metrics:
            sizes = (f"{metrics[name] / 1e6:,.1f}" for name in ("bytes", "bytes_original"))
            return "{} MB ({})".format(*sizes), ""
        return f"{key} {metrics[key]:.3g} ({metrics[f'{key}_original']:.3g})", ""
    if result.kind == "deploy":
        return say("replicas", count=f"{metrics['replicas']:.0f}", models=f"{metrics['models']:.0f}"), ""
    if result.kind == "index":
        return say("passages", count=f"{metrics.get('passages', 0):,.0f}"), ""
    return say("validation_loss", loss=f"{metrics.get('validation_loss', float('nan')):.3f}"), ""


def duration(seconds: float) -> str:
    """Returns a time as people write it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def columns(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns plain rows as a table with the keys on top; what has a name in the user's language is shown with it."""
    table = Table(show_edge=False, pad_edge=False)
    for key in rows[0] if rows else ():
        table.add_column(_word(str(key), "column"), overflow="fold")
    for row in rows:
        table.add_row(*(_word(str(value), "state") if key in _WORDED else str(value) for key, value in row.items()))
    return table


_WORDED = ("state", "status", "stage")  # columns whose cells are words of ours


def _word(word: str, kind: str) -> str:
    key = f"{kind} {word}"
    return say(key) if key in say else word
