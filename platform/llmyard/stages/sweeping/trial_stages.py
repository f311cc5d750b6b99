"""Which stages a trial runs of its own, and which all trials share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmyard.stages.config import AnyStage, Pipeline, Sweep, stages_of, trial_job

# Fields that name what another stage makes.
_REFERENCES = frozenset({
    "shards", "tokenizer", "init", "checkpoint", "compare_to", "embedding_init", "teacher", "back_translate", "index",
})  # fmt: skip
_TAKES = "takes"  # of a command: references by names of its own


def own_places(sweep: Sweep) -> list[int]:
    """Returns the places of the job's stages that differ between trials: those in which something is searched, or whose
    seed is another one, and all that take what these make.
    """
    stages = stages_of(sweep.job)
    if not isinstance(sweep.job, Pipeline):
        return [0]
    names = [stage.output for stage in stages]
    touched = {_place(path, names) for path in sweep.space}
    own: list[int] = []
    for place, stage in enumerate(stages):
        is_seeded = sweep.seeds > 1 and stage.kind in ("pretrain", "finetune")
        taken = {_bare(name) for name in _named(stage.model_dump(mode="json"))}
        if place in touched or is_seeded or taken & {names[before] for before in own}:
            own.append(place)
    return own


def shared_stages(sweep: Sweep) -> list[AnyStage]:
    """Returns the stages that are the same in all trials; they run once, before the first one."""
    own = own_places(sweep)
    return [stage for place, stage in enumerate(stages_of(sweep.job)) if place not in own]


def trial_stages(sweep: Sweep, number: int, values: Mapping[str, Any], seed: int = 0) -> list[AnyStage]:
    """Returns the stages of one trial, with outputs of their own.

    Args:
        sweep: Of the trial.
        number: Of the trial.
        values: What it sets, by path.
        seed: Which of the sweep's seeds, from 0 on.

    Raises:
        ValueError: The job does not take these values together.
    """
    stages = stages_of(trial_job(sweep.job, dict(values)))
    own = own_places(sweep)
    ending = f"-{sweep.output}-{number:04d}" + (f"-{seed}" if sweep.seeds > 1 else "")
    renamed = {stages[place].output: f"{stages[place].output}{ending}" for place in own}
    found: list[AnyStage] = []
    for place in own:
        data = _renamed(stages[place].model_dump(mode="json", exclude_unset=True), renamed)
        data["output"] = renamed[stages[place].output]
        data.pop("register_as", None)  # the sweep registers the best one
        if sweep.seeds > 1 and stages[place].kind in ("pretrain", "finetune"):
            data["seed"] = int(getattr(stages[place], "seed", 0)) + seed
        found.append(type(stages[place]).model_validate(data))
    return found


def _place(path: str, names: list[str]) -> int:
    part = path.split(".")[1]
    return int(part) if part.isdecimal() else names.index(part)


def _named(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            if key in _REFERENCES and isinstance(value, str):
                yield value
            elif key == _TAKES and isinstance(value, dict):
                yield from value.values()
            else:
                yield from _named(value)
    elif isinstance(data, list):
        for each in data:
            yield from _named(each)


def _renamed(data: Any, names: Mapping[str, str]) -> Any:
    if isinstance(data, dict):
        found: dict[str, Any] = {}
        for key, value in data.items():
            if key in _REFERENCES and isinstance(value, str):
                found[key] = _new_name(value, names)
            elif key == _TAKES and isinstance(value, dict):
                found[key] = {name: _new_name(each, names) for name, each in value.items()}
            else:
                found[key] = _renamed(value, names)
        return found
    return [_renamed(each, names) for each in data] if isinstance(data, list) else data


def _new_name(reference: str, names: Mapping[str, str]) -> str:
    kind, slash, name = reference.rpartition("/")
    return f"{kind}{slash}{names.get(name, name)}"


def _bare(name: str) -> str:
    return name.rpartition("/")[2]
