"""The tasks there are, by their configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from llmyard.tasks.classification import ClassificationTask
from llmyard.tasks.config import (
    KIN,
    AnyTask,
    Classification,
    Dialogue,
    Instruction,
    KnowledgeGraph,
    Preference,
    QuestionAnswering,
    RelationClassification,
    Summarization,
    Translation,
)
from llmyard.tasks.dialogue import dialogue
from llmyard.tasks.knowledge_graph import knowledge_graph
from llmyard.tasks.preference import PreferenceTask
from llmyard.tasks.question_answering import question_answering
from llmyard.tasks.relation_classification import RelationClassificationTask
from llmyard.tasks.soft_prompt import Prompted
from llmyard.tasks.summarization import summarization
from llmyard.tasks.task import FORMS, Form, Task
from llmyard.tasks.translation import TranslationTask


def form_of(family: str) -> Form:
    """Returns how models of a family read and write; families that llmyard does not know write on, as decoders do."""
    return FORMS.get(kin_of(family), "decoder")


def kin_of(family: str) -> str:
    """Returns the family of ours that models of a family are tuned as: itself, where it is one."""
    return KIN.get(family, family)


def task_of(config: AnyTask, family: str, prefix: Sequence[int] = ()) -> Task:
    """Returns the task that a config describes, for models of a family.

    Args:
        config: Of the task.
        family: Of the model.
        prefix: Ids before every prompt, where these were tuned.
    """
    task = _task_of(config, form_of(family))
    return cast(Task, Prompted(task, prefix)) if prefix else task


def _task_of(config: AnyTask, form: Form) -> Task:
    match config:
        case Translation():
            return TranslationTask(config, form)
        case Summarization():
            return summarization(config, form)
        case QuestionAnswering():
            return question_answering(config, form)
        case KnowledgeGraph():
            return knowledge_graph(config, form)
        case Classification():
            return ClassificationTask(config, form)
        case RelationClassification():
            return RelationClassificationTask(config, form)
        case Dialogue() | Instruction():
            return dialogue(config, form)
        case Preference():
            return PreferenceTask(config, form)
