"""Sizes of models, reckoned from their configs alone: no torch, so that ``check`` answers at once."""

from __future__ import annotations

from llmyard.models.config import Bert, EncoderDecoder, Gpt2


def parameters_of(config: Gpt2 | EncoderDecoder | Bert, vocab_size: int, max_tokens: int) -> int:
    """Returns the number of weights of a model, counted without making it.

    Exact for our Transformer and GPT-2; of the span tagger all but the heads, whose labels are not known yet.
    """
    hidden = config.hidden_size
    attention = 4 * (hidden * hidden + hidden)
    norm = 2 * hidden
    if isinstance(config, Gpt2):
        block = attention + 2 * norm + 8 * hidden * hidden + 5 * hidden
        return vocab_size * hidden + max_tokens * hidden + config.layers * block + norm
    feed = 2 * hidden * config.feed_forward_size + config.feed_forward_size + hidden
    if isinstance(config, EncoderDecoder):
        encoder = config.encoder_layers * (attention + feed + 2 * norm)
        decoder = config.decoder_layers * (2 * attention + feed + 3 * norm)
        return vocab_size * hidden + encoder + decoder + 2 * norm + 1
    return (vocab_size + max_tokens + 1) * hidden + norm + config.layers * (attention + feed + 2 * norm)


def training_bytes(parameters: int) -> int:
    """Returns the memory of weights, gradients and AdamW's two moments in float32: 16 bytes a weight."""
    return 16 * parameters


def training_flops(parameters: int, tokens: int) -> float:
    """Returns the floating-point operations of training: 6 a weight and token (Kaplan et al. 2020)."""
    return 6.0 * parameters * tokens
