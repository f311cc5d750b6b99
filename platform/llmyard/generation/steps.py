"""One pass of a decoder through its layers, with attention left to its caller: over prompts, or over what is written.

transformers' own forward passes build masks, caches and outputs anew for each token, which on a CPU costs as much as a
small model's arithmetic. These call the same layers.

Shapes: B rows, T tokens, D hidden, N heads, G heads of keys and values, H head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from llmyard.models.transformer import sinusoids
from llmyard.models.transformer_xl import TransformerXlModel


class Attend(Protocol):
    """Attention of the tokens that are read to themselves and to what is there."""

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Returns (B, T, N * H) of queries (B, N, T, H), keys and values (B, G, T, H)."""


Pass = Callable[[Any, Tensor, Tensor, Attend], Tensor]


def pass_of(model: Any) -> Pass | None:
    """Returns what reads tokens with a causal decoder, None for a family that is not known here: a function of the
    model, ids (B, T), positions (B, T) and attention, to hidden states (B, T, D).
    """
    config = model.config
    if config.model_type == "gpt2" and not (config.add_cross_attention or config.reorder_and_upcast_attn):
        return gpt2
    windows = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if config.model_type in ("llama", "mistral", "qwen2", "qwen3") and windows is None:
        return llama
    return None


def gpt2(model: Any, ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
    """GPT-2 (Radford et al. 2019)."""
    body = model.transformer
    x_BTD = body.wte(ids_BT) + body.wpe(positions_BT)
    for number, block in enumerate(body.h):
        attention = block.attn
        parts = attention.c_attn(block.ln_1(x_BTD)).chunk(3, -1)
        q, k, v = (_split(part, attention.num_heads) for part in parts)
        x_BTD = x_BTD + attention.c_proj(attend(number, q, k, v, attention.scaling))
        x_BTD = x_BTD + block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(x_BTD))))
    return body.ln_f(x_BTD)  # type: ignore[no-any-return]


def llama(model: Any, ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
    """Llama and its kin (Touvron et al. 2023): Mistral without a window, Qwen 2 and 3."""
    body = model.model
    x_BTD = body.embed_tokens(ids_BT)
    cos_BTH, sin_BTH = body.rotary_emb(x_BTD, position_ids=positions_BT)
    cos, sin = cos_BTH[:, None], sin_BTH[:, None]
    for number, layer in enumerate(body.layers):
        attention = layer.self_attn
        read = layer.input_layernorm(x_BTD)
        heads = (*read.shape[:-1], -1, attention.head_dim)
        q, k = attention.q_proj(read).view(heads), attention.k_proj(read).view(heads)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = (_rotated(each.transpose(1, 2), cos, sin) for each in (q, k))
        v = attention.v_proj(read).view(heads).transpose(1, 2)
        x_BTD = x_BTD + attention.o_proj(attend(number, q, k, v, attention.scaling))
        x_BTD = x_BTD + layer.mlp(layer.post_attention_layernorm(x_BTD))
    return body.norm(x_BTD)  # type: ignore[no-any-return]


def _split(x_BTD: Tensor, heads: int) -> Tensor:
    """Returns (B, N, T, H)."""
    batch, length, hidden = x_BTD.shape
    return x_BTD.view(batch, length, heads, hidden // heads).transpose(1, 2)


def _rotated(x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Returns x with its halves turned by their angles (Su et al. 2021, "RoFormer")."""
    one, two = x_BNTH.chunk(2, -1)
    return x_BNTH * cos + torch.cat((-two, one), -1) * sin


class Distances:
    """What a Transformer-XL's layers make of distances, computed once for all tokens that are written."""

    def __init__(self, model: TransformerXlModel) -> None:
        self._model: Any = model
        self._known: list[Tensor] = []

    def __call__(self, layer: int, most: int) -> Tensor:
        """Returns W_r R of a layer for the distances 0 to ``most`` - 1 (N, H, S)."""
        if not self._known or self._known[0].shape[-1] < most:
            hidden, count = self._model.config.hidden_size, max(64, 2 * most)
            table_SD = sinusoids(count, hidden).to(self._model.embedding.weight)
            self._known = [
                _split(each.attention.position(table_SD)[None], each.attention.heads)[0].transpose(1, 2).contiguous()
                for each in self._model.layers
            ]
        return self._known[layer][..., :most]


def transformer_xl_step(
    model: Any,
    ids_B1: Tensor,
    distances: Distances,
    places_B: Tensor,
    there_BS: Tensor,
    put: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Returns the hidden states (B, 1, D) of one more token of each text: Transformer-XL (Dai et al. 2019), whose keys
    reach back as far as its memory does.

    Args:
        model: The model.
        ids_B1: The tokens.
        distances: Of the model.
        places_B: Their places.
        there_BS: Where each row has a token, the new one included.
        put: Takes a layer's new keys and values, and returns all of each row.
    """
    columns_S = torch.arange(there_BS.shape[1], device=there_BS.device)
    apart_BS = places_B[:, None] - columns_S[None, :]
    seen_BS = there_BS & (apart_BS <= model.config.memory_length)
    apart_BS = apart_BS.clamp(min=0)
    x_B1D = model.embedding(ids_B1) * math.sqrt(model.config.hidden_size)
    for number, layer in enumerate(model.layers):
        attention = layer.attention
        read = layer.norm_attention(x_B1D) if layer.before else x_B1D
        parts = (part(read) for part in (attention.query, attention.key, attention.value))
        q, k, v = (_split(part, attention.heads) for part in parts)
        keys, values = put(number, k, v)
        by_distance = (q + attention.position_bias) @ distances(number, there_BS.shape[1])
        places = apart_BS[:, None, None, :].expand(-1, attention.heads, -1, -1)
        bias = by_distance.gather(-1, places) / math.sqrt(q.shape[-1])
        bias = bias.masked_fill(~seen_BS[:, None, None, :], -math.inf)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q + attention.content_bias, keys, values, attn_mask=bias
        )
        made = attention.output(mixed.transpose(1, 2).flatten(2))
        if layer.before:
            x_B1D = x_B1D + made
            x_B1D = x_B1D + layer.feed(layer.norm_feed(x_B1D))
        else:
            x_B1D = layer.norm_attention(x_B1D + made)
            x_B1D = layer.norm_feed(x_B1D + layer.feed(x_B1D))
    return model.norm(x_B1D)  # type: ignore[no-any-return]
