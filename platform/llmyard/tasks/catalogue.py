"""The tasks there are, by their configs."""

from __future__ import annotations

from llmyard.tasks.config import KnowledgeGraph, QuestionAnswering, Summarization, Translation
from llmyard.tasks.knowledge_graph import KnowledgeGraphTask
from llmyard.tasks.question_answering import QuestionAnsweringTask
from llmyard.tasks.summarization import SummarizationTask
from llmyard.tasks.task import Task
from llmyard.tasks.translation import TranslationTask

AnyTask = Translation | KnowledgeGraph | Summarization | QuestionAnswering


def task_of(config: AnyTask) -> Task:
    """Returns the task that a config describes."""
    if isinstance(config, Translation):
        return TranslationTask(config)
    if isinstance(config, Summarization):
        return SummarizationTask(config)
    if isinstance(config, QuestionAnswering):
        return QuestionAnsweringTask(config)
    return KnowledgeGraphTask(config)
