"""Transformer-XL (Dai et al. 2019): segments read one after another, each attending to the hidden states of those
before it, with positions relative to the query.

Shapes: B batch, T segment length, M memory length, S = M + T, D hidden, N heads, H head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from llmyard.models.transformer import FeedForward, sinusoids


class TransformerXlConfig(PretrainedConfig):  # type: ignore[misc]
    """Shape of a :class:`TransformerXlModel`."""

    model_type = "llmyard_transformer_xl"

    def __init__(
        self,
        vocab_size: int = 8000,
        hidden_size: int = 256,
        heads: int = 4,
        layers: int = 4,
        feed_forward_size: int = 1024,
        memory_length: int = 256,
        norm: str = "pre",
        dropout: float = 0.0,
        pad_token_id: int = 0,
        eos_token_id: int = 1,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.heads, self.layers = vocab_size, hidden_size, heads, layers
        self.feed_forward_size, self.memory_length = feed_forward_size, memory_length
        self.norm, self.dropout = norm, dropout
        super().__init__(**{"pad_token_id": pad_token_id, "eos_token_id": eos_token_id} | kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """As other models of transformers call it."""
        return self.layers


def relative_shift(scores_BNTS: Tensor) -> Tensor:
    """Returns scores whose column is a key where it was a distance.

    Column c of the input belongs to the distance S - 1 - c of query and key; the query of row i stands at place
    S - T + i, so its key j is at the input's column j + T - 1 - i (Dai et al. 2019, appendix B). What is right of the
    diagonal is of no meaning and must be masked.
    """
    batch, heads, length, seen = scores_BNTS.shape
    padded = F.pad(scores_BNTS, (1, 0)).view(batch, heads, seen + 1, length)
    return padded[:, :, 1:].reshape(batch, heads, length, seen)


class RelativeAttention(nn.Module):
    """softmax((q + u)·k + (q + v)·W_r R_distance): content and position of each key, with their own biases."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.position, self.output = (
            nn.Linear(hidden, hidden, bias=False) for _ in range(5)
        )
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, hidden // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, hidden // heads))

    def forward(self, x_BTD: Tensor, memory_BMD: Tensor | None, distances_SD: Tensor) -> Tensor:
        """Returns (B, T, D).

        Args:
            x_BTD: The segment.
            memory_BMD: What stood before it.
            distances_SD: Sinusoids of the distances S - 1 to 0.
        """
        seen_BSD = x_BTD if memory_BMD is None else torch.cat((memory_BMD, x_BTD), 1)
        length, seen = x_BTD.shape[1], seen_BSD.shape[1]
        query, keys, values = (
            self._split(part) for part in (self.query(x_BTD), self.key(seen_BSD), self.value(seen_BSD))
        )
        positions_1NSH = self._split(self.position(distances_SD)[None])
        by_distance = (query + self.position_bias) @ positions_1NSH.transpose(2, 3)
        later = torch.ones(length, seen, dtype=torch.bool, device=x_BTD.device).triu(seen - length + 1)
        size = query.shape[-1]
        bias = (relative_shift(by_distance) / math.sqrt(size)).masked_fill(later, -math.inf)
        mixed = F.scaled_dot_product_attention(
            query + self.content_bias, keys, values, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BTD: Tensor) -> Tensor:
        batch, length, hidden = x_BTD.shape
        return x_BTD.view(batch, length, self.heads, hidden // self.heads).transpose(1, 2)


class Layer(nn.Module):
    """Relative attention and feed-forward, each with a residual; normalised before (as is usual now) or after."""

    def __init__(self, config: TransformerXlConfig) -> None:
        super().__init__()
        self.before = config.norm == "pre"
        self.norm_attention, self.norm_feed = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.attention = RelativeAttention(config.hidden_size, config.heads, config.dropout)
        self.feed = FeedForward(config.hidden_size, config.feed_forward_size, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, memory_BMD: Tensor | None, distances_SD: Tensor) -> Tensor:
        if self.before:
            memory = None if memory_BMD is None else self.norm_attention(memory_BMD)
            x_BTD = x_BTD + self.dropout(self.attention(self.norm_attention(x_BTD), memory, distances_SD))
            return x_BTD + self.dropout(self.feed(self.norm_feed(x_BTD)))  # type: ignore[no-any-return]
        x_BTD = self.norm_attention(x_BTD + self.dropout(self.attention(x_BTD, memory_BMD, distances_SD)))
        return self.norm_feed(x_BTD + self.dropout(self.feed(x_BTD)))  # type: ignore[no-any-return]


@dataclass
class TransformerXlOutput(ModelOutput):  # type: ignore[misc]
    """Attributes:
    loss: Mean cross-entropy, where labels were given.
    logits: (B, T, V).
    memories: For each layer what the next segment attends to, (B, up to M, D).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    memories: tuple[Tensor, ...] | None = None


class TransformerXlModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model whose context reaches back over segments; one embedding for input and output."""

    config_class = TransformerXlConfig
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - one matrix, used twice; nothing to tie

    def __init__(self, config: TransformerXlConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden_size) if config.norm == "pre" else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RelativeAttention):
            nn.init.normal_(module.content_bias, std=0.02)
            nn.init.normal_(module.position_bias, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the tokens' embedding."""
        return self.embedding

    def forward(
        self,
        input_ids: Tensor,
        memories: Sequence[Tensor] | None = None,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> TransformerXlOutput:
        """Returns logits and the memories for the segment after this one.

        Args:
            input_ids: (B, T).
            memories: What the segment before gave; None at the beginning of a text. No gradient goes through them.
            labels: (B, T), the tokens themselves (they are shifted here); -100 is not counted.
            attention_mask: All ones; rows of different lengths have no common place in the memories.

        Raises:
            ValueError: There is padding.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("a Transformer-XL reads no padded batches: give prompts of one length, or one at a time")
        hidden_BTD, kept = self.read(input_ids, memories)
        logits = hidden_BTD @ self.embedding.weight.T
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return TransformerXlOutput(loss=loss, logits=logits, memories=kept)

    def read(self, input_ids: Tensor, memories: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the hidden states (B, T, D) behind the last layer, and the memories for the segment after it."""
        x_BTD = self.dropout(self.embedding(input_ids) * math.sqrt(self.config.hidden_size))
        before = memories[0].shape[1] if memories else 0
        seen = before + input_ids.shape[1]
        distances_SD = sinusoids(seen, self.config.hidden_size).flip(0).to(x_BTD.device, x_BTD.dtype)
        distances_SD = self.dropout(distances_SD)
        kept: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            memory = memories[number] if memories else None
            kept.append(self._remembered(memory, x_BTD))
            x_BTD = layer(x_BTD, memory, distances_SD)
        return self.norm(x_BTD), tuple(kept)

    def _remembered(self, memory_BMD: Tensor | None, x_BTD: Tensor) -> Tensor:
        length = self.config.memory_length
        whole = x_BTD if memory_BMD is None else torch.cat((memory_BMD, x_BTD), 1)
        return whole[:, max(0, whole.shape[1] - length) :].detach()

    def prepare_inputs_for_generation(self, input_ids: Tensor, memories: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns what the next step reads: of a text in memory, its last token only."""
        return {"input_ids": input_ids if memories is None else input_ids[:, -1:], "memories": memories}

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        kept = cast(dict[str, Any], super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs))
        return {**kept, "memories": outputs.memories}
