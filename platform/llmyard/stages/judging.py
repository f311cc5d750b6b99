"""A model in training asked the task's questions: what it is judged by where the task's metric decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmyard.sources.examples import plan_examples
from llmyard.stages.config import Finetune
from llmyard.stages.examples import checked, prompt_ids
from llmyard.tasks.catalogue import task_of

if TYPE_CHECKING:
    from llmyard.stages.training import TrainJob
    from llmyard.tokens.tokenizer import Tokenizer
    from llmyard.training.peers import Peers

BATCH = 32


class Judge:
    """Asks the first examples of the validation split, each worker its share.

    Args:
        job: Whose model it is.
        tokenizer: Of the model.
        peers: All workers.
        beat: Called after each batch: answering may take long.
    """

    def __init__(self, job: TrainJob, tokenizer: Tokenizer, peers: Peers, beat: Callable[[], None]) -> None:
        config = job.config
        assert isinstance(config, Finetune)
        assert config.metric_examples is not None
        self._tokenizer, self._peers, self._labels, self._beat = tokenizer, peers, job.labels, beat
        self._task = task_of(config.task, job.family, prompt_ids(config, job.tokenizer))
        cases = [
            case
            for unit in plan_examples(config.data, "validation")
            for record in checked(config.data, self._task, asdict(unit))[0]
            for case in self._task.cases(record)
        ]
        # Spread over all of them: the first ones may be of one kind, such as the first file's.
        count = min(config.metric_examples, len(cases))
        self._cases = [cases[at * len(cases) // count] for at in range(count)]

    def __call__(self, model: Any) -> dict[str, float]:
        """Returns the task's metric, by its name and as ``validation_metric``; a collective call."""
        from llmyard.generation.answers import answers_of
        from llmyard.generation.torch_engine import TorchEngine

        model.eval()
        own = self._cases[self._peers.rank :: self._peers.world]
        engine = TorchEngine(model, self._tokenizer, device=str(next(model.parameters()).device))
        try:
            answers = []
            for at in range(0, len(own), BATCH):
                answers += answers_of(engine, self._task, own[at : at + BATCH], BATCH, self._labels)
                self._beat()
        finally:
            engine.close()
        everyone = self._peers.gather(answers)
        answered: list[Any] = [None] * len(self._cases)
        for rank, each in enumerate(everyone):
            answered[rank :: self._peers.world] = each
        said = [self._task.prediction(case, answer) for case, answer in zip(self._cases, answered, strict=True)]
        value = self._task.measures(said, self._cases)[self._task.metric].value
        return {f"validation_{self._task.metric}": value, "validation_metric": value}
