"""What a model says of texts without writing: vectors, and how likely answers are.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmyard.generation.decoders import Decoder
from llmyard.models.span_tagger import SpanTagger
from llmyard.models.text_encoder import TextEncoder
from llmyard.models.transformer import TransformerModel


def likelihoods(
    decoder: Decoder, prompt: Sequence[int], options: Sequence[Sequence[int]], device: torch.device
) -> list[float]:
    """Returns how likely each option is behind a prompt: the mean log-probability of its tokens, in nats.

    Args:
        decoder: Of the model; fresh.
        prompt: Token ids.
        options: Token ids of each; none is empty.
        device: Where the model is.
    """
    logits_BV = decoder.start([list(prompt)] * len(options), device)
    sums = torch.zeros(len(options))
    longest = max(map(len, options))
    for place in range(longest):
        # Behind its end an option goes on with its last token, which counts for nothing.
        column = torch.tensor([option[min(place, len(option) - 1)] for option in options], device=device)
        said = logits_BV.float().log_softmax(-1).gather(1, column[:, None])[:, 0].cpu()
        sums += said * torch.tensor([float(place < len(option)) for option in options])
        if place + 1 < longest:
            logits_BV = decoder.step(column[:, None])
    return [float(total) / len(option) for total, option in zip(sums, options, strict=True)]


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
    elif model.config.is_encoder_decoder:
        hidden_BTD = model.get_encoder()(input_ids=tokens_BT, attention_mask=mask_BT).last_hidden_state
    else:
        hidden_BTD = model.base_model(input_ids=tokens_BT).last_hidden_state
    mask = mask_BT[..., None]
    return (hidden_BTD * mask).sum(1) / mask.sum(1)
