"""The models of an endpoint: found by name or task, and told of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from llmyard.generation.model import Model
from llmyard.serving.canary import Split
from llmyard.serving.refusals import Refused

CONVERSING = ("dialogue", "instruction", "preference")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        alias: How it was named when the endpoint began, where that was an alias of the registry.
        created: When it was committed (ISO 8601 UTC), "" where nobody knows.
        lineage: The model and all it was made from, nearest first: ``artifact``, ``kind``, ``created``, ``parents``.
    """

    alias: str | None = None
    created: str = ""
    lineage: tuple[dict[str, Any], ...] = ()


class Models:
    """The models of an endpoint, by name; versions of one artifact are named ``name@version``.

    Args:
        models: Loaded.
        origins: Of each model; none where nothing is known of any.
        splits: Of names under which two versions answer.
    """

    def __init__(
        self,
        models: Sequence[Model],
        origins: Sequence[Origin] = (),
        splits: Mapping[str, Split] = MappingProxyType({}),
    ) -> None:
        count = Counter(model.name for model in models)
        named = [
            replace(model, name=model.reference.rpartition("/")[2]) if count[model.name] > 1 else model
            for model in models
        ]
        self._models = {model.name: model for model in named}
        told = origins or [Origin()] * len(named)
        self._origins = {model.name: origin for model, origin in zip(named, told, strict=True)}
        self._splits = splits

    def changed(self, change: Callable[[Model], Model], splits: Mapping[str, Split]) -> Models:
        """Returns these models, each changed but for its name, and two versions under some names."""
        origins = [self._origins[model.name] for model in self.all()]
        return Models([change(model) for model in self.all()], origins, splits)

    def all(self) -> list[Model]:
        """Returns the models in the order given."""
        return list(self._models.values())

    def named(self, name: str) -> Model:
        """Returns a model by name, of two versions either; refuses an unknown one with 404."""
        model = self._splits[name].choose() if name in self._splits else self._models.get(name)
        if model is None:
            raise Refused(404, f"there is no model {name!r}; there is: {', '.join(self._models)}", code=_NOT_FOUND)
        return model

    def for_task(self, tasks: Sequence[str], name: str | None) -> Model:
        """Returns the named model, or the first for one of some tasks; refuses where none fits."""
        if name is not None:
            model = self.named(name)
            if task_name(model) in tasks:
                return model
            raise Refused(400, f"{name!r} is not made for {tasks[0]}")
        for task in tasks:
            for model in self.all():
                if task_name(model) == task:
                    return self.named(model.name)
        raise Refused(404, f"no model here is made for {tasks[0]}", code=_NOT_FOUND)

    def about(self, model: Model) -> dict[str, Any]:
        """Returns what a list of models says of one; of two versions under a name of the old one."""
        model = self._models[model.name]
        able, origin = model.engine.capabilities(), self._origins[model.name]
        return {
            "id": model.name,
            "object": "model",
            "created": _seconds(origin.created),
            "owned_by": "llmyard",
            "artifact": model.reference,
            "alias": origin.alias,
            "family": able.family.removeprefix("llmyard_"),
            "task": task_name(model),
            "task_config": model.task_config,
            "writes": able.generates,
            "engine": able.engine,
            **self._canary(model.name),
        }

    def _canary(self, name: str) -> dict[str, Any]:
        split = self._splits.get(name)
        if split is None:
            return {}
        told = {"artifact": split.canary.reference, "weight": split.weight, "left_because": split.left_because}
        return {"canary": told}

    def lineage(self, model: Model) -> list[dict[str, Any]]:
        """Returns a model and all it was made from."""
        return list(self._origins[model.name].lineage)


_NOT_FOUND = "model_not_found"


def task_name(model: Model) -> str:
    """Returns the task that a model is for; ``causal_lm`` for a base model."""
    return model.task.name if model.task is not None else "causal_lm"


def _seconds(when: str) -> int:
    """Returns a time in seconds since 1970; 0 for none."""
    return int(datetime.fromisoformat(when).timestamp()) if when else 0
