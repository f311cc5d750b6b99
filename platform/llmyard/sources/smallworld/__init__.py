"""A small world told in Chinese and English: a seeded corpus with ground truth, computed record by record."""

from llmyard.sources.smallworld.documents import Document
from llmyard.sources.smallworld.tasks import SPLITS, TASKS
from llmyard.sources.smallworld.world import SmallWorld

__all__ = ["SPLITS", "TASKS", "Document", "SmallWorld"]
