"""Sizes of models, reckoned from their configs alone: no torch, so that ``check`` answers at once."""

from __future__ import annotations

from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama, Model, TransformerXl, WordVectors

_T5_BUCKETS = 32  # of relative distances, in each of its two stacks


def parameters_of(config: Model, vocab_size: int, max_tokens: int) -> int:
    """Returns the number of weights of a model, counted without making it.

    Exact, but for BERT's heads: those of a task depend on its labels, which are not known yet; two kinds of segments.
    """
    hidden = config.hidden_size
    if isinstance(config, WordVectors):
        return 2 * vocab_size * hidden
    attention = 4 * (hidden * hidden + hidden)
    norm = 2 * hidden
    embedding = vocab_size * hidden
    match config:
        case Gpt2():
            block = attention + 2 * norm + 8 * hidden * hidden + 5 * hidden
            return embedding + max_tokens * hidden + config.layers * block + norm
        case Llama():
            shared = config.head_width * (config.key_value_heads or config.heads)
            feed = 3 * hidden * config.feed_forward_size
            block = 2 * hidden * config.head_width * config.heads + 2 * hidden * shared + feed + 2 * hidden
            return embedding + config.layers * block + hidden
        case TransformerXl():
            feed = 2 * hidden * config.feed_forward_size + config.feed_forward_size + hidden
            block = 5 * hidden * hidden + 2 * hidden + feed + 2 * norm
            return embedding + config.layers * block + (norm if config.norm == "pre" else 0)
        case T5():
            inner = config.heads * (config.head_size or hidden // config.heads)
            feed = (3 if config.gated else 2) * hidden * config.feed_forward_size
            encoder = config.encoder_layers * (4 * hidden * inner + feed + 2 * hidden)
            decoder = config.decoder_layers * (8 * hidden * inner + feed + 3 * hidden)
            return embedding + encoder + decoder + 2 * hidden + 2 * _T5_BUCKETS * config.heads
        case EncoderDecoder():
            feed = 2 * hidden * config.feed_forward_size + config.feed_forward_size + hidden
            encoder = config.encoder_layers * (attention + feed + 2 * norm)
            decoder = config.decoder_layers * (2 * attention + feed + 3 * norm)
            positions = 1 if config.positions == "sinusoidal" else max_tokens * hidden
            return embedding + encoder + decoder + (2 * norm if config.norm == "pre" else 0) + positions
        case Bert():
            feed = 2 * hidden * config.feed_forward_size + config.feed_forward_size + hidden
            return embedding + (max_tokens + 2) * hidden + norm + config.layers * (attention + feed + 2 * norm)


def weights_a_token(hidden_size: int, window: int, negatives: int) -> int:
    """Returns how many weights of word vectors a token of the text meets, where none is passed over.

    A centre has ``window + 1`` neighbours on average; beside each of them stand the drawn ones.
    """
    return hidden_size * (window + 1) * (negatives + 1)


def training_bytes(parameters: int) -> int:
    """Returns the memory of weights, gradients and AdamW's two moments in float32: 16 bytes a weight."""
    return 16 * parameters


# Numbers that a layer keeps for the backward pass, of one token: times its width, times its feed-forward width, and
# times heads and length without and with dropout (where there is none, attention keeps no scores). Counted with
# saved_tensors_hooks on transformers 4 and torch 2.13.
_KEPT = {
    "gpt2": (10.6, 4.0, 0.0, 3.0), "llama": (8.9, 4.0, 0.0, 3.0), "bert": (8.4, 2.0, 0.0, 3.0),
    "t5": (11.2, 1.5, 1.2, 4.6), "transformer": (11.0, 1.5, 0.0, 4.5), "transformer_xl": (9.4, 1.5, 1.0, 3.0),
}  # fmt: skip


def activation_bytes(
    config: Model, vocab_size: int, micro_batch: int, length: int, *, bytes_a_number: int = 4,
    recomputed: bool = False, fused_loss: bool = False,
) -> int:  # fmt: skip
    """Returns about how much memory the activations of a micro-batch take, within a third.

    Args:
        config: The model's shape.
        vocab_size: Rows of the output layer.
        micro_batch: Sequences.
        length: Tokens of each.
        bytes_a_number: 2 for bfloat16 and float16.
        recomputed: With activation checkpointing only what goes into each layer is kept, and one layer whole.
        fused_loss: The logits are never held.
    """
    tokens = micro_batch * length
    if isinstance(config, WordVectors):
        return 4 * tokens * config.hidden_size
    of_hidden, of_feed_forward, of_scores, of_dropped = _KEPT[config.family]
    feed_forward = getattr(config, "feed_forward_size", 4 * config.hidden_size)
    a_layer = of_hidden * config.hidden_size + of_feed_forward * feed_forward
    a_layer += (of_dropped if config.dropout else of_scores) * config.heads * length
    # In an encoder-decoder a token is read by one stack and written by the other.
    layers = getattr(config, "layers", 0) or config.encoder_layers + config.decoder_layers  # type: ignore[union-attr]
    kept = layers * config.hidden_size + a_layer if recomputed else layers * a_layer
    logits = 0 if fused_loss else 3 * 4 * vocab_size  # the logits, their softmax and their gradient in float32
    return round(tokens * (kept * bytes_a_number + logits))


def training_flops(parameters: int, tokens: int) -> float:
    """Returns the floating-point operations of training: 6 a weight and token (Kaplan et al. 2020)."""
    return 6.0 * parameters * tokens
