"""Proof, before a checkpoint is registered, that it answers alike wherever it is asked: the model by itself, the engine
in mixed batches, evaluation, and an endpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact
from llmyard.stages.config import Evaluate
from llmyard.stages.held_out import HeldOut
from llmyard.stages.stage import Making

if TYPE_CHECKING:
    from llmyard.generation.requests import QueueingEngine

PROMPTS = 500  # held-out ones, or all where there are fewer
_NEW_TOKENS = 64
_AT_ONCE = 24


@dataclass(frozen=True)
class ProofWork:
    """What is compared; picklable.

    Attributes:
        held_out: The checkpoint that the engine answers with, and what it is asked.
        model: That answers by itself: the same, or what it was exported from.
    """

    held_out: HeldOut
    model: Artifact


def proven(checkpoint: Artifact, model: Artifact, questions: Evaluate, making: Making) -> dict[str, Any]:
    """Returns what was compared; for a checkpoint that answers nothing, why nothing was.

    Raises:
        ParityLost: An answer differs.
    """
    from llmyard.runtime.tasks import run_task

    held_out = HeldOut.of(checkpoint, questions, making.context.store)
    if held_out is None:
        return {"skipped": "nothing is known to ask it"}
    making.progress.update(0, 1, "parity")
    found: dict[str, Any] = run_task(prove, ProofWork(held_out, model), 1, 0)
    return found


def prove(work: ProofWork) -> dict[str, Any]:
    """Returns what was compared, in a process of the cluster."""
    from llmyard.generation.engine import Unanswering
    from llmyard.generation.model import engine_of, model_of
    from llmyard.generation.parity import parity, parity_of_labels

    checkpoint = work.held_out.checkpoint
    try:
        engine = engine_of(checkpoint, threads=1)
    except Unanswering as error:
        return {"skipped": error.what}
    asked = work.held_out.inputs(engine, PROMPTS)
    if engine.capabilities().generates:
        found = parity(engine, model_of(work.model), asked, _NEW_TOKENS)
    else:
        found = parity_of_labels(engine, engine_of(work.model, threads=1), asked)
    found.check(checkpoint.reference)
    told = asdict(found)
    if work.held_out.is_taught:
        told["endpoint"] = _over_http(work, engine)
    return told


def _over_http(work: ProofWork, engine: QueueingEngine) -> dict[str, int]:
    """Returns how many cases an endpoint was asked, how many of them it refused (too long, where evaluation cuts), and
    how many answers differ where two tokens were equally likely.

    Raises:
        ParityLost: Another answer differs from that of evaluation.
    """
    from llmyard.generation.answers import answers_of
    from llmyard.generation.model import Model, labels_of, model_of
    from llmyard.generation.parity import ParityLost, is_near_tie
    from llmyard.serving.in_process import said_over_http

    checkpoint = work.held_out.checkpoint
    task, cases = work.held_out.cases(PROMPTS)
    if not cases or task.choices(cases[0]) is not None:
        return {"cases": 0}  # one of given answers is taken, which endpoints are not asked for
    evaluated = answers_of(engine, task, cases, _AT_ONCE, labels_of(checkpoint))
    said = said_over_http(Model.of(checkpoint, engine), cases)
    pairs = list(zip(evaluated, said, strict=True))
    taken = [at for at, (_, other) in enumerate(pairs) if other is not None]
    different = [at for at in taken if without_scores(pairs[at][0]) != without_scores(pairs[at][1])]
    near: list[int] = []
    if different and task.output == "text":
        alone, decoding = model_of(work.model), task.decoding(labels_of(checkpoint))
        prompts = {at: task.prompt(cases[at], engine.tokenizer) for at in different}
        near = [at for at, prompt in prompts.items() if is_near_tie(engine, alone, prompt, decoding)]
    lost = [at for at in different if at not in near]
    if lost:
        one, other = pairs[lost[0]]
        raise ParityLost(
            f"an endpoint with {checkpoint.reference} answers {len(lost)} of {len(cases)} cases otherwise than its "
            f"evaluation; the first is number {lost[0]}: {one!r:.80}, and {other!r:.80}",
            "see whether both prompt alike; the alias was not moved",
        )
    return {"cases": len(cases), "refused": len(cases) - len(taken), "near": len(near)}


def without_scores(answer: Any) -> Any:
    """Returns an answer without probabilities and scores, whose last digits depend on who else is in a batch."""
    if isinstance(answer, list):
        return [without_scores(each) for each in answer]
    if isinstance(answer, tuple):
        return without_scores(list(answer))
    if isinstance(answer, dict):
        return {name: without_scores(each) for name, each in answer.items() if name not in ("score", "shares")}
    return answer
