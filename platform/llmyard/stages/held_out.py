"""Held-out inputs of a checkpoint, as its engine reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.stages.config import Evaluate
from llmyard.stages.origins import training_of

if TYPE_CHECKING:
    from llmyard.stages.asked import Asked
    from llmyard.tasks.task import Record, Task
    from llmyard.tokens.tokenizer import Tokenizer

_BEGINNING = 32  # tokens of a held-out document that a base model goes on from


def _cases(asked: Asked, task: Task, split: str) -> Iterator[Record]:
    from llmyard.sources.examples import plan_examples

    for unit in plan_examples(asked.data, split):
        for record in asked.records(asdict(unit), task):
            yield from task.cases(record)


@dataclass(frozen=True)
class HeldOut:
    """What a checkpoint is asked; picklable.

    Attributes:
        checkpoint: That is asked.
        questions: An evaluation of it, whose first split is asked; None of a base model.
        shards: Of a base model: what it was trained on.
    """

    checkpoint: Artifact
    questions: Evaluate | None
    shards: Artifact | None = None

    @classmethod
    def of(cls, checkpoint: Artifact, questions: Evaluate, store: ArtifactStore) -> HeldOut | None:
        """Returns what an evaluation asks of a tuned checkpoint, or beginnings of texts for a base model; None where
        nothing is known to ask.
        """
        trained = training_of(checkpoint).get("kind")
        if trained == "finetune" or questions.task is not None:
            return cls(checkpoint, questions)
        shards = next((each for each in checkpoint.parents if each.startswith("shards/")), None)
        return None if shards is None else cls(checkpoint, None, store.get(shards))

    def inputs(self, engine: Any, wanted: int) -> list[Any]:
        """Returns the first ``wanted`` inputs, or all where there are fewer: prompts (token ids), or texts to label
        (``Marked``), cut where the model's positions end.

        Raises:
            RequestError: There are none.
        """
        from llmyard.generation.answers import fitting

        able = engine.capabilities()
        if self.questions is None:
            found = self._beginnings(wanted, min(_BEGINNING, able.max_prompt_tokens))
        else:
            found = self._asked(self.questions, engine.tokenizer, wanted)
            found = found if able.generates else fitting(engine, found)
        if not found:
            split = self.questions.splits[0] if self.questions is not None else "validation"
            raise RequestError(f"split {split!r} of {self.checkpoint.reference} has nothing to ask", "name another")
        return found

    def cases(self, wanted: int) -> tuple[Task, list[Record]]:
        """Returns the task and its first ``wanted`` cases, or all where there are fewer; none of a base model, and of
        one that is asked in plain text.
        """
        from llmyard.stages.asked import Asked

        assert self.questions is not None
        asked = Asked.of(self.checkpoint, self.questions)
        task = asked.task()
        return task, list(islice(_cases(asked, task, self.questions.splits[0]), wanted))

    @property
    def is_taught(self) -> bool:
        """Whether the checkpoint is asked as it was taught: as an endpoint asks it."""
        return self.questions is not None and self.questions.task is None

    def _asked(self, questions: Evaluate, tokenizer: Tokenizer, wanted: int) -> list[Any]:
        from llmyard.stages.asked import Asked

        asked = Asked.of(self.checkpoint, questions)
        task = asked.task()
        found: list[Any] = []
        for case in _cases(asked, task, questions.splits[0]):
            found += [task.prompt(case, tokenizer)] if task.output == "text" else task.inputs(case, tokenizer)
            if len(found) >= wanted:
                return found[:wanted]
        return found

    def _beginnings(self, wanted: int, tokens: int) -> list[Any]:
        from llmyard.tokens.shards import ShardSet
        from llmyard.tokens.views import PackedView

        assert self.shards is not None
        view = PackedView(ShardSet.of(self.shards, "validation"), tokens)
        places = [(shard, row) for shard, rows in enumerate(view.rows) for row in range(rows)]
        spread = [places[at * len(places) // wanted] for at in range(wanted)] if len(places) >= wanted else places
        return [view(shard, row)[:tokens].tolist() for shard, row in spread]
