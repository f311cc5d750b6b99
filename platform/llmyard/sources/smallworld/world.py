"""SmallWorld: the corpus and the task examples of one seed."""

from __future__ import annotations

from typing import Any

from llmyard.core.errors import DataError
from llmyard.sources.smallworld.documents import Corpus, Document
from llmyard.sources.smallworld.lexicon import lexicon
from llmyard.sources.smallworld.tasks import SPLITS, TASKS, example


class SmallWorld:
    """A Chinese and English corpus with ground truth. Every record is a pure function of (seed, documents, its number).

    Args:
        profile: "dev" (2,000 documents), "standard" (20,000) or "large" (1,000,000).
        seed: Another seed is another world.
        documents: How many documents, instead of the profile's number; it also decides where duplicates stand.
        bias: How strongly the trade said of a person depends on he or she in sentences that are added to clean
            documents, 0 to 1 (:mod:`llmyard.sources.smallworld.bias`); None adds none.
    """

    def __init__(
        self, profile: str = "dev", seed: int = 7, documents: int | None = None, bias: float | None = None
    ) -> None:
        profiles: dict[str, int] = lexicon().data["profiles"]
        if profile not in profiles:
            raise DataError(f"smallworld has no profile {profile!r}", f"use one of {', '.join(profiles)}")
        self.profile = profile
        self.seed = seed
        self.documents = profiles[profile] if documents is None else documents
        if self.documents < 1:
            raise DataError(f"smallworld cannot have {self.documents} documents", "ask for one at least")
        if bias is not None and not 0 <= bias <= 1:
            raise DataError(f"smallworld cannot have a bias of {bias}", "give 0 (none) to 1 (complete)")
        self._corpus = Corpus(seed, self.documents, bias)

    def document(self, i: int) -> Document:
        """Document ``i``, ``0 <= i < documents``."""
        if not 0 <= i < self.documents:
            raise DataError(f"this small world has documents 0 to {self.documents - 1}, not {i}")
        return self._corpus.document(i)

    def example(self, task: str, split: str, i: int) -> dict[str, Any]:
        """Record ``i >= 0`` of a split of a task; there is no last one.

        Raises:
            DataError: An unknown task or split, or a negative number.
        """
        if task not in TASKS:
            raise DataError(f"smallworld has no task {task!r}", f"use one of {', '.join(TASKS)}")
        if split not in SPLITS:
            raise DataError(f"smallworld has no split {split!r}", f"use one of {', '.join(SPLITS)}")
        if i < 0:
            raise DataError(f"examples are numbered from 0, not {i}")
        return example(self.seed, task, split, i)
