"""What a sweep shows in the terminal when it is over."""

from __future__ import annotations

from rich.table import Table

from llmyard.cli.messages import say
from llmyard.core.artifacts import Artifact
from llmyard.sweeps.config import Objective
from llmyard.sweeps.trial import Trial

_SHOWN = 10


def trials_table(sweep: Artifact) -> Table:
    """Returns the best trials of a sweep with their settings, and how many there were."""
    lines = sweep.local("trials.jsonl").read_text(encoding="utf-8").splitlines()
    trials = [Trial.from_json(line) for line in lines]
    objective = Objective.model_validate(sweep.config["objective"])
    ranked = sorted(
        (each for each in trials if each.state == "finished" and each.value(objective) is not None),
        key=lambda each: (objective.cost(each.value(objective) or 0.0), each.number),
    )
    counts = {state: sum(each.state == state for each in trials) for state in ("finished", "pruned", "failed")}
    paths = list(sweep.config["space"])
    table = Table(show_edge=False, pad_edge=False, title=say("trials", **counts), title_justify="left", title_style="")
    for name in (say("trial"), objective.metric, *paths):
        table.add_column(name, overflow="fold")
    for each in ranked[:_SHOWN]:
        values = [_shown(each.values[path]) if path in each.values else "–" for path in paths]
        table.add_row(str(each.number), _shown(each.value(objective)), *values)
    return table


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
