"""What all routes of an endpoint share: its models, how long answers may be, what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmyard.generation.model import Model, Written
from llmyard.serving.models import Models
from llmyard.serving.policy import Policy, check_asked
from llmyard.serving.protocol import Telling, TokenLogprob, Usage, shown
from llmyard.serving.refusals import Refused
from llmyard.tasks.passages import Passages
from llmyard.tasks.task import Decoding


@dataclass(frozen=True)
class Service:
    """An endpoint, for its routes.

    Attributes:
        models: That answer, their engines guarded.
        max_new_tokens: More are refused.
        passages: That questions without a text are answered from; None where there is no index.
        policies: Every text that is asked is shown to them.
    """

    models: Models
    max_new_tokens: int
    passages: Passages | None = None
    policies: Sequence[Policy] = ()

    def length(self, asked: int | None, usual: int) -> int:
        """Returns how many tokens an answer may have; refuses more than the endpoint's limit."""
        if asked is None:
            return min(usual, self.max_new_tokens)
        if asked > self.max_new_tokens:
            raise Refused(400, f"max_tokens is {asked}; at most {self.max_new_tokens}")
        return asked

    def check(self, *texts: str | None) -> None:
        """Refuses texts that a policy objects to."""
        check_asked(self.policies, [text for text in texts if text])

    def decoding(self, model: Model, body: Telling, max_tokens: int | None) -> Decoding:
        """Returns how a model writes for a request of its own task."""
        length = self.length(max_tokens, model.decoding.max_new_tokens)
        return replace(model.decoding, max_new_tokens=length, top_logprobs=body.told())


def told(model: Model, written: Written | None, body: Telling) -> list[TokenLogprob] | None:
    """Returns how likely the tokens of an answer were, where the request asked for that."""
    if written is None or not body.logprobs:
        return None
    return [shown(each, model.tokenizer) for each in written.likely]


def counted(prompt_tokens: int, written: Written | None) -> Usage | None:
    """Returns the tokens of an answer; None of a model that labels."""
    return None if written is None else Usage.of(prompt_tokens, written.tokens)
