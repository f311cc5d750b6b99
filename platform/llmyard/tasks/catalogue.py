"""The tasks there are, by their configs."""

from __future__ import annotations

from llmyard.tasks.config import KnowledgeGraph, Translation
from llmyard.tasks.knowledge_graph import KnowledgeGraphTask
from llmyard.tasks.task import Task
from llmyard.tasks.translation import TranslationTask


def task_of(config: Translation | KnowledgeGraph) -> Task:
    """Returns the task that a config describes."""
    if isinstance(config, Translation):
        return TranslationTask(config)
    return KnowledgeGraphTask(config)
