"""What an evaluation asks of a model: what it was tuned for, or another task in plain text; of a checkpoint, or of a
model behind a URL.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from llmyard.core.artifacts import Artifact
from llmyard.core.errors import RequestError
from llmyard.evaluation.endpoint import LiveModel
from llmyard.models.written import shape_of
from llmyard.sources.config import ExampleSource
from llmyard.sources.examples import plan_examples
from llmyard.stages.config import Evaluate, Finetune
from llmyard.stages.examples import checked
from llmyard.stages.origins import training_of
from llmyard.tasks.catalogue import form_of, task_of
from llmyard.tasks.config import AnyTask
from llmyard.tasks.config import Task as TaskConfig
from llmyard.tasks.few_shot import FewShot
from llmyard.tasks.open_questions import checked_open
from llmyard.tasks.task import Record, Task

_TASK: TypeAdapter[AnyTask] = TypeAdapter(TaskConfig)
DEFAULT_ROOM = 1024  # tokens, of a model that nothing bounds


def family_of(checkpoint: Artifact) -> str:
    """Returns the family of a checkpoint's model; older records do not name it."""
    named = checkpoint.details.get("family") or shape_of(checkpoint.local("config.json")).family
    return str(named).removeprefix("llmyard_")


def check_askable(config: Evaluate, checkpoint: Artifact) -> None:
    """Raises RequestError for a checkpoint that cannot be asked a task: it was not taught it, nor reads plain text."""
    if _taught(checkpoint, config) is not None:
        return
    family = family_of(checkpoint)
    if config.task is not None and config.task.kind in ("dialogue", "instruction", "preference"):
        raise RequestError(f"{config.task.kind} is not asked in plain text", "fine-tune the model for it")
    if form_of(family) != "decoder" or family == "transformer_xl":
        raise RequestError(
            f"{checkpoint.reference} is of family {family or 'unknown'!r}: plain text is answered by models that go on "
            "writing (gpt2, llama and their like)",
            "fine-tune it for the task",
        )


def check_comparable(config: Evaluate, checkpoint: Artifact, other: Artifact) -> None:
    """Raises RequestError where two checkpoints do not answer the same questions."""
    if config.task is not None:
        check_askable(config, other)
        return
    kinds = [str(each.details.get("task", "")) for each in (checkpoint, other)]
    if kinds[0] != kinds[1] or not kinds[0]:
        raise RequestError(
            f"{checkpoint.reference} is for {kinds[0] or 'no task'}, {other.reference} for {kinds[1] or 'no task'}",
            "compare checkpoints that were tuned for the same task",
        )


def live_model(config: Evaluate) -> LiveModel | None:
    """Returns the model behind a URL that an evaluation asks; None where it asks a checkpoint.

    Its key is read here, from the environment of who began the job.
    """
    where = config.endpoint
    if where is None:
        return None
    key = os.environ.get(where.key_env, "")
    return LiveModel(where.url, where.model, key, where.streams, where.timeout_seconds)


class Asked:
    """What a checkpoint is asked: what it was tuned for, or another task in plain text.

    Args:
        task: The task.
        data: The examples.
        family: Of the model.
        prefix: Ids before every prompt, where these were tuned.
        shots: Solved examples before every question in plain text; None of a tuned model.
        room: Tokens that the model reads.

    Attributes:
        index: Where what is read is found; None where records bring their texts.
        passages: How many of it are read.
        is_closed: Whether nothing is read at all.
    """

    def __init__(
        self,
        task: AnyTask,
        data: ExampleSource,
        family: str,
        prefix: Sequence[int] = (),
        shots: int | None = None,
        room: int = 0,
    ) -> None:
        self.config, self.data, self.family, self.prefix = task, data, family, tuple(prefix)
        self.shots, self.room = shots, room
        self.index: Artifact | None = None
        self.passages, self.is_closed = 0, False

    def without_texts(self) -> Asked:
        """Returns the same without anything to read."""
        other = copy.copy(self)
        other.is_closed = True
        return other

    @classmethod
    def of(cls, checkpoint: Artifact, config: Evaluate) -> Asked:
        """Returns what a checkpoint is asked in an evaluation."""
        details = checkpoint.details
        family = family_of(checkpoint)
        taught = _taught(checkpoint, config)
        if taught is not None:
            return taught
        if config.task is not None:
            assert config.data is not None
            room = int(details.get("sequence_length", 0)) or DEFAULT_ROOM
            return cls(config.task, config.data, family, shots=config.shots, room=room)
        trained = Finetune.model_validate(training_of(checkpoint))
        task = _TASK.validate_python(details["task_config"])
        return cls(task, config.data or trained.data, family, details.get("prompt_ids", ()))

    @classmethod
    def live(cls, model: LiveModel, config: Evaluate) -> Asked:
        """Returns what a model behind a URL is asked: records where it is llmyard's and made for the task, plain text
        else.
        """
        assert config.task is not None
        assert config.data is not None
        about = model.about()
        if about.get("task") == config.task.kind and "artifact" in about and not config.shots:
            taught = _TASK.validate_python(about.get("task_config") or config.task)
            return cls(taught, config.data, str(about.get("family", "gpt2")))
        if config.task.kind in ("dialogue", "instruction"):
            raise RequestError(
                f"{model.url} has no model of llmyard for {config.task.kind}: that is not asked in plain text",
                "ask an endpoint of `llmyard serve`",
            )
        return cls(config.task, config.data, "gpt2", shots=config.shots)

    def task(self) -> Task:
        """Returns the task; in plain text with its solved examples, which are read here."""
        task = task_of(self.config, self.family, self.prefix)
        if self.shots is None:
            return task
        train = self.training(task)
        few = FewShot(task, train[: self.shots], self.room)
        few.learn_options(train)
        return few

    def training(self, task: Task) -> list[Record]:
        """Returns the training examples."""
        units = plan_examples(self.data, "train")
        return [record for unit in units for record in self.records(asdict(unit), task)]

    def records(self, row: Mapping[str, Any], task: Task) -> list[Record]:
        """Returns the good records of a unit of work; with an index, those without a text of their own too."""
        if self.index is None:
            return checked(self.data, task, row)[0]
        return checked(self.data, task, row, partial(checked_open, check=task.check))[0]


def _taught(checkpoint: Artifact, config: Evaluate) -> Asked | None:
    """Returns one of several tasks of a checkpoint, as it was taught; None where an evaluation asks for another."""
    if config.task is None or config.data is None or config.shots:
        return None
    details = checkpoint.details
    taught = [{"task_config": details.get("task_config"), "prompt_ids": details.get("prompt_ids", ())}]
    for each in [*taught, *details.get("also", ())]:
        if (each["task_config"] or {}).get("kind") == config.task.kind:
            task = _TASK.validate_python(each["task_config"])
            return Asked(task, config.data, family_of(checkpoint), each["prompt_ids"])
    return None
