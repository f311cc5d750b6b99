"""What a model says of texts without writing: vectors, and how likely answers are.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmyard.generation.engine import Capabilities, Unsupported
from llmyard.models.span_tagger import SpanTagger
from llmyard.models.text_encoder import TextEncoder
from llmyard.models.transformer import TransformerModel
from llmyard.models.transformer_xl import TransformerXlModel
from llmyard.training.objectives import pad

MAX_BATCH = 32
MAX_SCORED_TOKENS = 4096  # of answers at once: their logits are a float for each entry of the vocabulary


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a text is behind a prompt.

    Attributes:
        total: Log-probability of its tokens, in nats.
        tokens: How many there are.
        is_likeliest: Whether the model, asked greedily, writes it.
    """

    total: float
    tokens: int
    is_likeliest: bool

    @property
    def mean(self) -> float:
        """Log-probability of a token, in nats: so short and long answers can be compared."""
        return self.total / self.tokens


def fitted(
    able: Capabilities, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Sequence[int]]:
    """Returns the prompts, without their beginnings where they do not fit into the positions beside their answers.

    Raises:
        Unsupported: The model does not write; an empty prompt or answer; an answer that leaves no room for a prompt.
    """
    if not able.generates:
        raise Unsupported(f"{able.model} does not write, it {able.does}", f"use its {able.route}")
    total = able.max_total_tokens
    rooms = [able.max_prompt_tokens if total is None else total - len(answer) for answer in answers]
    if not all(prompts) or not all(answers) or min(rooms, default=1) < 1:
        said = "an empty prompt or answer" if min(rooms) >= 1 else f"an answer of {max(map(len, answers))} tokens"
        raise Unsupported(f"{able.model} cannot score {said}", "give 1 token at least, and what fits its positions")
    return [prompt[-min(room, able.max_prompt_tokens) :] for prompt, room in zip(prompts, rooms, strict=True)]


def likelihoods(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> list[Likelihood]:
    """Returns how likely each answer is behind its prompt; those of like length are read together.

    Args:
        model: That writes.
        prompts: Token ids, at least one each; with the answer no more than the model has positions.
        answers: Token ids, at least one each.
        pad_id: Padding token.
        device: Where the model is.
    """
    lengths = [(len(answer), len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    found: dict[int, Likelihood] = {}
    at = 0
    while at < len(order):
        batch = order[at : at + max(1, min(MAX_BATCH, MAX_SCORED_TOKENS // lengths[order[at]][0]))]
        asked = [prompts[each] for each in batch], [answers[each] for each in batch]
        found.update(zip(batch, _scored(model, *asked, pad_id, device), strict=True))
        at += len(batch)
    return [found[each] for each in range(len(order))]


def _scored(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> list[Likelihood]:
    target_BT = pad(answers, 0).to(device)
    logits_BTV = forced(model, prompts, answers, pad_id, device).float()
    inside_BT = pad([[1] * len(answer) for answer in answers], 0).to(device)
    said_BT = logits_BTV.gather(-1, target_BT[..., None])[..., 0] - logits_BTV.logsumexp(-1)
    totals = (said_BT * inside_BT).sum(1).tolist()
    likeliest = ((logits_BTV.argmax(-1) == target_BT) | (inside_BT == 0)).all(1).tolist()
    return [
        Likelihood(total, len(answer), greedy) for total, greedy, answer in zip(totals, likeliest, answers, strict=True)
    ]


def forced(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> Tensor:
    """Returns the logits (B, T, V) of each token of the answers; what stands behind an answer's end is no matter."""
    read = [[*prompt[-1:], *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    if isinstance(model, TransformerModel):
        return model.decode(pad(read, pad_id).to(device), model.encode(pad(prompts, pad_id).to(device)))
    if isinstance(model, TransformerXlModel):
        return _recurrent(model, prompts, answers, device)
    if model.config.is_encoder_decoder:
        mask = pad([[1] * len(prompt) for prompt in prompts], 0).to(device)
        return model(  # type: ignore[no-any-return]
            input_ids=pad(prompts, pad_id).to(device), attention_mask=mask,
            decoder_input_ids=pad(read, pad_id).to(device), use_cache=False,
        ).logits  # fmt: skip
    # Padded on the left: all answers end in the last column, and of the prompts no logits are made.
    whole = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    longest, most = max(map(len, whole)), max(map(len, answers))
    ids = torch.tensor([[pad_id] * (longest - len(each)) + each for each in whole], device=device)
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in whole], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=most
    ).logits
    shifts = torch.tensor([most - len(answer) for answer in answers], device=device)
    columns = (torch.arange(most, device=device)[None, :] + shifts[:, None]).clamp(max=most - 1)
    return logits.gather(1, columns[..., None].expand(-1, -1, logits.shape[-1]))  # type: ignore[no-any-return]


def _recurrent(
    model: TransformerXlModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    """Returns the logits (B, T, V) of a model with a memory: each prompt is one segment, each token after it another,
    as the engine reads them.
    """
    logits_BTV = torch.zeros(len(prompts), max(map(len, answers)), model.config.vocab_size, device=device)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        out = model(torch.tensor([[*prompt]], device=device))
        for place, token in enumerate(answer):
            logits_BTV[row, place] = out.logits[0, -1]
            if place + 1 < len(answer):
                out = model(torch.tensor([[token]], device=device), memories=out.memories)
    return logits_BTV


def vectors_of(model: Any, tokens_BT: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Returns a vector for each text (B, D): the mean of the last hidden states of its tokens.

    Of an encoder-decoder those of the encoder.
    """
    mask_BT = tokens_BT != pad_id
    if isinstance(model, SpanTagger):
        hidden_BTD = model.encode(tokens_BT)
    elif isinstance(model, TextEncoder):
        hidden_BTD = model.hidden(tokens_BT)
    elif isinstance(model, TransformerModel):
        hidden_BTD = model.memory(tokens_BT)
    elif isinstance(model, TransformerXlModel):
        hidden_BTD = model.read(tokens_BT)[0]
    elif model.config.is_encoder_decoder:
        hidden_BTD = model.get_encoder()(input_ids=tokens_BT, attention_mask=mask_BT).last_hidden_state
    else:
        hidden_BTD = model.base_model(input_ids=tokens_BT).last_hidden_state
    mask = mask_BT[..., None]
    return (hidden_BTD * mask).sum(1) / mask.sum(1)
