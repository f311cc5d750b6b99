"""A task whose prompts begin with tokens that stand for nothing but what was learned for it (Lester et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmyard.tasks.task import EncodedExample, Labels, Record, Task
from llmyard.tokens.tokenizer import Tokenizer


class Prompted:
    """A task of a model that writes, with some ids before every prompt; all else is the task's own.

    Args:
        task: The task.
        prefix: Ids behind the tokenizer's.
    """

    def __init__(self, task: Task, prefix: Sequence[int]) -> None:
        self._task, self._prefix = task, list(prefix)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # so that it can be pickled
            raise AttributeError(name)
        return getattr(self._task, name)

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the task's prompt behind the prefix."""
        return [*self._prefix, *self._task.prompt(record, tokenizer)]

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns the task's examples behind the prefix."""
        found = self._task.encode(records, tokenizer, labels)
        return [None if made is None else [self._prefixed(each) for each in made] for made in found]

    def _prefixed(self, example: EncodedExample) -> EncodedExample:
        count = len(self._prefix)
        labels = None if example.labels is None else [*[0] * count, *example.labels]
        ids = [*self._prefix, *example.ids]
        return replace(example, ids=ids, target_start=example.target_start + count, labels=labels)
