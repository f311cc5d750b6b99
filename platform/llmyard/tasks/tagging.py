"""What the tasks share that a model answers by tagging or labelling only: it writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.tasks.task import Decoding, Labels, Output, Record
from llmyard.tokens.tokenizer import Tokenizer


class Tagging:
    """Answers what only a model that writes is asked."""

    output: Output = "spans"

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Nothing is written."""
        return []

    def excess(self, record: Record, tokenizer: Tokenizer) -> tuple[int, int]:
        """Nothing is too long: what is read is divided."""
        return 0, 0

    def signatures(self, records: Sequence[Record]) -> dict[str, str]:
        """Every figure is computed in one way only."""
        return {}

    def choices(self, record: Record) -> list[str] | None:
        """Nothing is written."""
        return None

    def decoding(self, labels: Labels) -> Decoding:
        """Nothing is written."""
        return Decoding()

    def then(self, record: Record, answer: Any) -> Record | None:
        """Nothing more is asked."""
        return None


def with_read(following: Record, answer: list[Any]) -> list[Any]:
    """Returns the answer to what was asked next, behind what it was asked with: the task's ``then`` made it."""
    return [{"entities": following["read"][-1:], "triples": []}, *answer]
