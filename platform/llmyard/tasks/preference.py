"""Preferences between two replies, to tune a model towards the better one.

Rafailov et al. 2023, Direct Preference Optimization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.metrics.measure import Measure, mean
from llmyard.tasks.config import Preference
from llmyard.tasks.dialogue import Replies
from llmyard.tasks.task import BadExample, EncodedExample, Form, Labels, Record, need
from llmyard.tokens.tokenizer import Tokenizer


class PreferenceTask(Replies):
    """Records: ``messages`` up to the reply, ``chosen`` and ``rejected``.

    An example holds the prompt and both replies, one behind the other; ``pairs`` says how long the chosen one is.
    """

    metric = "accuracy"

    def __init__(self, config: Preference, form: Form) -> None:
        super().__init__(config, form)

    def check(self, record: Record) -> Record:
        """Returns the record if both replies are there and differ."""
        super().check({"messages": [*need(record, "messages", list, self.name), _reply(record, "chosen", self.name)]})
        if need(record, "rejected", str, self.name).strip() == record["chosen"].strip():
            raise BadExample("both replies are the same", "leave the record out")
        return record

    def cases(self, record: Record) -> list[Record]:
        """Returns the record: it is one choice."""
        if "chosen" in record:
            return [record]
        return super().cases(record)

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns prompt, chosen and rejected reply in a row; None where a reply is too long."""
        found: list[list[EncodedExample] | None] = []
        for record in records:
            prompt = self.prompt(record, tokenizer)
            chosen, rejected = (self.target_ids(record[name], tokenizer) for name in ("chosen", "rejected"))
            if max(len(chosen), len(rejected)) > self._target:
                found.append(None)
                continue
            ids = [*prompt, *chosen, *rejected]
            found.append([EncodedExample(ids, target_start=len(prompt), pairs=(len(chosen),))])
        return found

    def choices(self, record: Record) -> list[str]:
        """Returns both replies: the model says which is the likelier."""
        return [record["chosen"], record["rejected"]]

    def measures(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns how often the chosen reply is the likelier one, by the mean of its tokens."""
        pairs = zip(predictions, records, strict=True)
        return {"accuracy": mean([float(said == str(record["chosen"]).strip()) for said, record in pairs])}

    def figures(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
        """There are none but the measures."""
        return {}

    def bucket(self, prediction: str, record: Record) -> str:
        """Returns whether the rejected reply is the likelier one."""
        return "right" if prediction == str(record["chosen"]).strip() else "prefers the rejected reply"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the longer reply, which raters often prefer."""
        return "longer reply", [max(str(each["rejected"]), str(each["chosen"]), key=len).strip() for each in test]


def _reply(record: Record, name: str, task: str) -> Record:
    return {"role": "assistant", "content": need(record, name, str, task)}
