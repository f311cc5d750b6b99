"""The encoder-decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017).

Shapes: B batch, S source length, T target length, D hidden, N heads, H head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput


class TransformerConfig(PretrainedConfig):  # type: ignore[misc]
    """Shape of a :class:`TransformerModel`."""

    model_type = "llmyard_transformer"

    def __init__(
        self,
        vocab_size: int = 8000,
        hidden_size: int = 256,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        feed_forward_size: int = 1024,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        positions: str = "sinusoidal",
        norm: str = "pre",
        max_tokens: int = 512,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.positions, self.norm, self.max_tokens = positions, norm, max_tokens
        self.vocab_size, self.hidden_size, self.heads = vocab_size, hidden_size, heads
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers
        self.feed_forward_size, self.dropout, self.label_smoothing = feed_forward_size, dropout, label_smoothing
        fixed = {"pad_token_id": pad_token_id, "decoder_start_token_id": pad_token_id, "is_encoder_decoder": True}
        super().__init__(**fixed | kwargs)


def sinusoids(length: int, hidden: int, start: int = 0) -> Tensor:
    """Returns positions (length, hidden): sin and cos of pos / 10000^(2i/D) (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(start, start + length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, hidden, 2, dtype=torch.float32) * (-math.log(10_000.0) / hidden))
    table = torch.zeros(length, hidden)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : hidden // 2]
    return table


class Attention(nn.Module):
    """Multi-head scaled dot-product attention: softmax(QKᵀ/√H)V for each head."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.value, self.output = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def split(self, x_BTD: Tensor) -> Tensor:
        """Returns (B, N, T, H)."""
        batch, length, hidden = x_BTD.shape
        return x_BTD.view(batch, length, self.heads, hidden // self.heads).transpose(1, 2)

    def keys_values(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the keys and values of a sequence, each (B, N, S, H)."""
        return self.split(self.key(x_BSD)), self.split(self.value(x_BSD))

    def forward(self, x_BTD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """Returns (B, T, D); ``mask`` is True where attention is allowed, broadcast to (B, N, T, S)."""
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            self.split(self.query(x_BTD)), keys, values, attn_mask=mask, is_causal=causal, dropout_p=drop
        )
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """max(0, xW₁ + b₁)W₂ + b₂ at each position."""

    def __init__(self, hidden: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer, self.dropout = nn.Linear(hidden, inner), nn.Linear(inner, hidden), dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.outer(F.dropout(F.relu(self.inner(x_BTD)), self.dropout, self.training))  # type: ignore[no-any-return]


class Sublayer(nn.Module):
    """A residual around attention or feed-forward, normalised before it (pre) or after (post, as published).

    Of a deep stack of post-norm layers the gradients of the first ones vanish without warm-up (Xiong et al. 2020).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm, self.dropout, self.before = nn.LayerNorm(config.hidden_size), config.dropout, config.norm == "pre"

    def enter(self, x_BTD: Tensor) -> Tensor:
        """Returns what attention or feed-forward reads."""
        return self.norm(x_BTD) if self.before else x_BTD

    def leave(self, x_BTD: Tensor, made_BTD: Tensor) -> Tensor:
        """Returns the sum of what went in and what was made of it."""
        summed = x_BTD + F.dropout(made_BTD, self.dropout, self.training)
        return summed if self.before else self.norm(summed)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.around_attention, self.around_feed = Sublayer(config), Sublayer(config)
        self.attention = Attention(config.hidden_size, config.heads, config.dropout)
        self.feed = FeedForward(config.hidden_size, config.feed_forward_size, config.dropout)

    def forward(self, x_BSD: Tensor, mask: Tensor) -> Tensor:
        read = self.around_attention.enter(x_BSD)
        x_BSD = self.around_attention.leave(x_BSD, self.attention(read, *self.attention.keys_values(read), mask))
        return self.around_feed.leave(x_BSD, self.feed(self.around_feed.enter(x_BSD)))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the source, feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.around_attention, self.around_cross, self.around_feed = (Sublayer(config) for _ in range(3))
        self.attention = Attention(config.hidden_size, config.heads, config.dropout)
        self.cross = Attention(config.hidden_size, config.heads, config.dropout)
        self.feed = FeedForward(config.hidden_size, config.feed_forward_size, config.dropout)

    def forward(self, x_BTD: Tensor, layer: LayerCache, source_mask: Tensor) -> Tensor:
        read = self.around_attention.enter(x_BTD)
        keys, values = layer.extend(*self.attention.keys_values(read))
        length, seen = x_BTD.shape[1], keys.shape[2]
        mask = None
        # A single new token sees all before it; a whole sequence needs the causal mask, which torch aligns with the
        # first key: several tokens after others need it shifted.
        if 1 < length < seen:
            mask = torch.ones(length, seen, dtype=torch.bool, device=x_BTD.device).tril(seen - length)
        mixed = self.attention(read, keys, values, mask, causal=1 < length == seen)
        x_BTD = self.around_attention.leave(x_BTD, mixed)
        read = self.around_cross.enter(x_BTD)
        x_BTD = self.around_cross.leave(x_BTD, self.cross(read, *layer.source, source_mask))
        return self.around_feed.leave(x_BTD, self.feed(self.around_feed.enter(x_BTD)))


@dataclass
class LayerCache:
    """Keys and values of one decoder layer: those of the source, and those of the target so far."""

    source: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.target is not None:
            keys, values = torch.cat((self.target[0], keys), 2), torch.cat((self.target[1], values), 2)
        self.target = (keys, values)
        return self.target


@dataclass
class DecoderState:
    """What is kept between decoding steps."""

    layers: list[LayerCache]
    source_mask: Tensor
    length: int = 0

    def select(self, rows: Tensor) -> DecoderState:
        """Returns the state of some sequences of the batch only."""
        layers = [
            LayerCache(
                (layer.source[0][rows], layer.source[1][rows]),
                None if layer.target is None else (layer.target[0][rows], layer.target[1][rows]),
            )
            for layer in self.layers
        ]
        return DecoderState(layers, self.source_mask[rows], self.length)


class TransformerEncoder(nn.Module):
    """The encoder as transformers' ``generate`` calls it."""

    def __init__(self, model: TransformerModel) -> None:
        super().__init__()
        self._memory = model.memory

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self._memory(input_ids))


class TransformerModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """An encoder-decoder with one embedding shared by source, target and output."""

    config_class = TransformerConfig
    main_input_name = "input_ids"
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - one matrix, used thrice; nothing to tie

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, hidden, padding_idx=config.pad_token_id)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        before = config.norm == "pre"
        self.norm_encoder, self.norm_decoder = (nn.LayerNorm(hidden) if before else nn.Identity() for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.max_tokens, hidden)
        else:
            # Positions at full strength drown the tokens at first: with 0.15, learned further (Li et al. 2019), a small
            # translator came from BLEU 16 to 41 in the same 350 steps.
            self.position_scale = nn.Parameter(torch.tensor(0.15))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)
            if module.padding_idx is not None:
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the tokens' embedding."""
        return self.embedding

    def _embed(self, ids_BT: Tensor, start: int = 0) -> Tensor:
        return self.placed(ids_BT, self.positions(start, ids_BT.shape[1]))

    def positions(self, start: int, length: int) -> Tensor:
        """Returns what is added to the tokens at places from ``start`` on (length, D).

        Raises:
            ValueError: They are more than were learned.
        """
        if self.config.positions == "learned":
            if start + length > self.config.max_tokens:
                raise ValueError(
                    f"{start + length} tokens are more than the {self.config.max_tokens} learned positions"
                )
            return self.position_embedding.weight[start : start + length]
        waves = sinusoids(length, self.config.hidden_size, start).to(self.embedding.weight.device)
        return self.position_scale * waves

    def placed(self, ids_BT: Tensor, positions: Tensor) -> Tensor:
        """Returns tokens as the layers read them (B, T, D), with what stands for their places."""
        scaled = self.embedding(ids_BT) * math.sqrt(self.config.hidden_size)
        return self.dropout(scaled + positions)  # type: ignore[no-any-return]

    def memory(self, source_BS: Tensor) -> Tensor:
        """Returns the encoder's output (B, S, D) for a batch of padded sources."""
        source_mask = self._source_mask(source_BS)
        x_BSD = self._embed(source_BS)
        for layer in self.encoder_layers:
            x_BSD = layer(x_BSD, source_mask)
        return self.norm_encoder(x_BSD)  # type: ignore[no-any-return]

    def _source_mask(self, source_BS: Tensor) -> Tensor:
        mask: Tensor = source_BS != self.config.pad_token_id
        return mask[:, None, None, :]

    def encode(self, source_BS: Tensor) -> DecoderState:
        """Returns the decoder's starting state for a batch of padded sources."""
        return self._state(self.memory(source_BS), self._source_mask(source_BS))

    def _state(self, memory_BSD: Tensor, source_mask: Tensor) -> DecoderState:
        layers = [LayerCache(layer.cross.keys_values(memory_BSD)) for layer in self._decoder_layers()]
        return DecoderState(layers, source_mask)

    def _decoder_layers(self) -> Iterator[DecoderLayer]:
        return iter(self.decoder_layers)  # type: ignore[arg-type]

    def decode(self, target_BT: Tensor, state: DecoderState) -> Tensor:
        """Returns logits (B, T, V) for the next tokens after ``target_BT``, and extends ``state`` by them."""
        x_BTD = self._embed(target_BT, state.length)
        for layer, cache in zip(self._decoder_layers(), state.layers, strict=True):
            x_BTD = layer(x_BTD, cache, state.source_mask)
        state.length += target_BT.shape[1]
        return self.norm_decoder(x_BTD) @ self.embedding.weight.T  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Returns logits (B, T, V): at each target position those of the token after it.

        Args:
            input_ids: Padded sources (B, S); None where ``encoder_outputs`` are given instead.
            decoder_input_ids: Targets so far (B, T).
            attention_mask: 1 where a source has a token (B, S); by default where it is not the padding token.
            encoder_outputs: What the encoder made of the sources, so that they are read once.
        """
        assert decoder_input_ids is not None
        if input_ids is not None:
            mask = self._source_mask(input_ids)
        elif attention_mask is not None:
            mask = attention_mask[:, None, None, :] != 0
        else:
            raise ValueError("encoder_outputs alone do not tell which places are padding: give attention_mask too")
        memory_BSD: Tensor = self.memory(input_ids) if input_ids is not None else encoder_outputs[0]
        logits = self.decode(decoder_input_ids, self._state(memory_BSD, mask))
        return Seq2SeqLMOutput(logits=logits, encoder_last_hidden_state=memory_BSD)

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        """Returns the encoder, for transformers' ``generate``."""
        return TransformerEncoder(self)

    def prepare_inputs_for_generation(self, decoder_input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Returns what the next step reads. Keys and values are kept by llmyard's own engine only."""
        kept = {name: kwargs.get(name) for name in ("attention_mask", "encoder_outputs")}
        return {"decoder_input_ids": decoder_input_ids, **kept}
