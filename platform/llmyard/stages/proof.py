"""Proof, before a checkpoint is registered, that the engine answers with it as the model does by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llmyard.core.artifacts import Artifact
from llmyard.stages.config import Evaluate
from llmyard.stages.held_out import HeldOut
from llmyard.stages.stage import Making

PROMPTS = 500  # held-out ones, or all where there are fewer
_NEW_TOKENS = 64


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
    return asdict(found)
