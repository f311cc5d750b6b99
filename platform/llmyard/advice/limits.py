"""How long sequences may be: the fields of a job's ``task:`` that bound them, from the average length."""

from __future__ import annotations

from typing import get_args

from llmyard.advice.rules import rules
from llmyard.tasks.config import LABELLERS, AnyTask

_ROOM = 2.0  # the longest examples that are kept, relative to the average; rule of thumb
_ROUND = 16
_LEAST = 32
_LABEL = {"classification": 16, "relation_classification": 24, "question_answering": 32}
_MOST = 4096  # what the engine reads at most where a model has no bound of its own


def limits_of(task: str, family: str, tokens: int, context: int) -> dict[str, int]:
    """Returns the fields of ``task:`` that bound lengths, such that prompt and answer fit a model's context.

    Args:
        task: Its name; ``pretraining`` has none.
        family: Of the model: one that labels writes no answer.
        tokens: Of an example, prompt and answer, on average.
        context: Tokens that the model reads at most.
    """
    if task == "pretraining":
        return {}
    most = min(context, _MOST)
    whole = max(_LEAST, min(most, _rounded(_ROOM * tokens)))
    if task in _LABEL or task == "knowledge_graph":
        if family in LABELLERS:
            return {"max_tokens": whole} | ({"overlap_tokens": whole // 4} if task == "question_answering" else {})
        if task == "knowledge_graph":
            answer = whole // 2
            return {"max_tokens": whole - answer, "max_target_tokens": answer}
        answer = _LABEL[task]
        name = "max_answer_tokens" if task == "question_answering" else "max_label_tokens"
        return {"max_tokens": max(_LEAST, min(whole, most - answer)), name: answer}
    answer = max(_ROUND, _ROUND * round(whole * rules().tasks[task].answer_share / _ROUND))
    return {"max_source_tokens": max(_ROUND, whole - answer), "max_target_tokens": answer}


def longest_of(task: str, family: str, limits: dict[str, int]) -> int:
    """Returns the tokens of the longest example, as the task itself reckons them."""
    config = next(each for each in get_args(AnyTask) if each.model_fields["kind"].default == task)
    return int(config(**limits).longest(family))


def _rounded(tokens: float) -> int:
    return _ROUND * -(-round(tokens) // _ROUND)
