"""Whether an engine answers as the model does by itself: the same greedy tokens, whoever else is in the batch.

The model reads each prompt with the engine's answer behind it, alone, in one pass and without a cache, and is asked at
every place which token it would have written. An answer is the model's own if that is always the engine's: then both
would have gone on alike from token to token.

Shapes: T tokens of prompt and answer, V vocabulary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llmyard.core.errors import LlmyardError
from llmyard.generation.engine import Engine, GenerateRequest
from llmyard.generation.likelihoods import forced
from llmyard.tasks.task import Annotation, Decoding, Marked

NEAR = 1e-3  # logits: two tokens so close are as good as equally likely; sums in another order decide between them


class ParityLost(LlmyardError):
    """An engine does not answer as the model does by itself."""


@dataclass(frozen=True)
class Parity:
    """What was compared.

    Attributes:
        prompts: Answered.
        tokens: Of the answers, their ends included.
        near: Places where engine and model differ and the model's logits of both tokens lie within :data:`NEAR`.
        differing: Numbers of the prompts with any other difference.
    """

    prompts: int
    tokens: int
    near: int
    differing: tuple[int, ...]

    def check(self, engine: str) -> None:
        """Raises ParityLost where an answer differs otherwise than by a near tie."""
        if self.differing:
            raise ParityLost(
                f"{engine} answers {len(self.differing)} of {self.prompts} prompts otherwise than its model does by "
                f"itself; the first is number {self.differing[0]}",
                "see whether prompts, template and weights are those of the evaluation; the alias was not moved",
            )


def parity(engine: Engine, model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, at_once: int = 16) -> Parity:
    """Returns how an engine's greedy answers compare to the model's own.

    Args:
        engine: That answers, ``at_once`` prompts of whatever lengths at a time.
        model: In evaluation mode, on the CPU; not the engine's own object, which may be busy.
        prompts: Token ids.
        new_tokens: Of an answer, at most.
    """
    tokens, near, differing = 0, 0, []
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        for number, answer in enumerate(asyncio.run(_answered(engine, some, new_tokens)), start=start):
            tokens += len(answer)
            missed = _missed(model, prompts[number], answer) if answer else []
            near += missed.count(True)
            if False in missed:
                differing.append(number)
    return Parity(len(prompts), tokens, near, tuple(differing))


def is_near_tie(engine: Engine, model: Any, prompt: Sequence[int], decoding: Decoding) -> bool:
    """Returns whether an answer has a place at which the two likeliest tokens lie within :data:`NEAR`: there another
    batch may take the other one, and go on otherwise from there.

    Args:
        engine: That answers.
        model: In evaluation mode, on the CPU; not the engine's own object.
        prompt: Token ids.
        decoding: How the answer is written.
    """
    request = GenerateRequest("near", prompt, **asdict(decoding))
    (answer,) = asyncio.run(_answered_as(engine, [request]))
    if not answer:
        return False
    with torch.inference_mode():
        best = forced(model, [prompt], [answer], 0, torch.device("cpu"))[0].float().topk(2).values
    return bool(((best[:, 0] - best[:, 1]) < NEAR).any())


def parity_of_labels(engine: Any, other: Any, texts: Sequence[Marked], at_once: int = 16) -> Parity:
    """Returns how an engine labels texts in batches, compared to another one that reads each alone.

    Scores differ in their last digits with the batch; labels, spans and relations must not.
    """
    differing = []
    classifies = engine.capabilities().classifies
    for start in range(0, len(texts), at_once):
        some = texts[start : start + at_once]
        if classifies:
            found = [each.label for each in engine.classify_batch(some)]
            alone = [other.classify_batch([each])[0].label for each in some]
        else:
            found = [_without_scores(each) for each in engine.annotate_batch([each.text for each in some])]
            alone = [_without_scores(other.annotate_batch([each.text])[0]) for each in some]
        differing += [start + at for at, pair in enumerate(zip(found, alone, strict=True)) if pair[0] != pair[1]]
    return Parity(len(texts), 0, 0, tuple(differing))


def _without_scores(found: Annotation) -> Any:
    return tuple((each.type, each.start, each.end) for each in found.entities), found.triples


async def _answered(engine: Engine, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    requests = [GenerateRequest(f"parity-{number}", prompt, new_tokens) for number, prompt in enumerate(prompts)]
    return await _answered_as(engine, requests)


async def _answered_as(engine: Engine, requests: Sequence[GenerateRequest]) -> list[list[int]]:
    """Returns the tokens of each answer, with the one that ended it."""
    end_id = engine.tokenizer.end_id  # type: ignore[attr-defined]

    async def ask(request: GenerateRequest) -> list[int]:
        ids: list[int] = []
        async for delta in engine.generate(request):
            ids += delta.token_ids
            if delta.finish == "stop":
                ids.append(end_id)
        return ids

    return await asyncio.gather(*map(ask, requests))


@torch.inference_mode()
def _missed(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[bool]:
    """Returns of each token that the model would not have written, whether it is as good as the one it would have."""
    logits_TV = forced(model, [prompt], [answer], 0, torch.device("cpu"))[0].float()
    found = []
    for logits_V, written in zip(logits_TV, answer, strict=True):
        if int(logits_V.argmax()) != written:
            found.append(bool(logits_V.max() - logits_V[written] < NEAR))
    return found
