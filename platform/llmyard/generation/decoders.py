"""How each family writes token after token, texts joining and leaving between two tokens.

Shapes: B rows (texts that are being written), T tokens, S source tokens, V vocabulary, N heads, H head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from llmyard.generation.slots import Reading, Slots, Stepping, attended
from llmyard.generation.static_decoders import StaticDecoder
from llmyard.generation.steps import Distances, Pass, pass_of, transformer_xl_step
from llmyard.models.transformer import TransformerModel
from llmyard.models.transformer_xl import TransformerXlModel
from llmyard.training.objectives import pad

Prompts = Sequence[Sequence[int]]


class Decoder(Protocol):
    """Writes texts, a row each.

    Attributes:
        joins: Whether prompts may be admitted while others are being written.
    """

    joins: bool

    def __len__(self) -> int:
        """Returns the number of rows."""

    @property
    def bytes(self) -> int:
        """What is held for the rows."""

    def admit(self, prompts: Prompts) -> Tensor:
        """Reads prompts, whose rows stand behind the others from then on; returns the logits (b, V) of their first
        tokens. Where it fails no row is added.
        """

    def step(self, tokens_B: Tensor) -> Tensor:
        """Returns the logits (B, V) after one more token of each row."""

    def remove(self, row: int) -> None:
        """Takes a row out; the last one stands in its place."""


def decoder_of(model: Any, pad_id: int, device: torch.device) -> Decoder:
    """Returns the decoder of a model."""
    if isinstance(model, TransformerModel):
        return TransformerDecoder(model, pad_id, device)
    if isinstance(model, TransformerXlModel):
        return TransformerXlDecoder(model, pad_id, device)
    if isinstance(model, T5ForConditionalGeneration):
        return T5Decoder(model, pad_id, device)
    read = None if model.config.is_encoder_decoder else pass_of(model)
    return StaticDecoder(model, pad_id, device) if read is None else CausalDecoder(model, read, pad_id, device)


class _Rows:
    """What all decoders here have: keys and values of what is written."""

    joins = True

    def __init__(self, model: Any, layers: int, pad_id: int, device: torch.device) -> None:
        self._model, self._pad, self._device = model, pad_id, device
        self._slots = Slots(layers, next(iter(model.parameters())))

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """What is held for the rows."""
        return self._slots.bytes

    def remove(self, row: int) -> None:
        """Takes a row out; the last one stands in its place."""
        self._slots.remove(row)

    def _padded(self, prompts: Prompts) -> tuple[Tensor, list[int]]:
        return pad(prompts, self._pad).to(self._device), [len(prompt) for prompt in prompts]


def _last(x_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
    """Returns the states (B, D) of each row's last token."""
    rows = torch.arange(len(lengths), device=x_BTD.device)
    return x_BTD[rows, torch.tensor(lengths, device=x_BTD.device) - 1]


class CausalDecoder(_Rows):
    """GPT-2, Llama and their kin."""

    def __init__(self, model: Any, read: Pass, pad_id: int, device: torch.device) -> None:
        super().__init__(model, model.config.num_hidden_layers, pad_id, device)
        self._read, self._head = read, model.get_output_embeddings()

    def admit(self, prompts: Prompts) -> Tensor:
        """Reads prompts, padded behind."""
        ids_BT, lengths = self._padded(prompts)
        reading = Reading()
        positions_BT = torch.arange(ids_BT.shape[1], device=self._device)[None].expand(len(prompts), -1)
        hidden_BTD = self._read(self._model, ids_BT, positions_BT, reading)
        logits_BV: Tensor = self._head(_last(hidden_BTD, lengths))
        self._slots.append(reading.keys, reading.values, lengths)
        return logits_BV

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one more token of each row."""
        stepping = Stepping(self._slots)
        hidden_B1D = self._read(self._model, tokens_B[:, None], stepping.places_B[:, None], stepping)
        return self._head(hidden_B1D[:, 0])  # type: ignore[no-any-return]


class TransformerXlDecoder(_Rows):
    """Transformer-XL: a prompt is one segment; each further token sees as far back as the memory reaches."""

    def __init__(self, model: Any, pad_id: int, device: torch.device) -> None:
        super().__init__(model, model.config.layers, pad_id, device)
        self._distances = Distances(model)

    def admit(self, prompts: Prompts) -> Tensor:
        """Reads prompts, padded behind: no token sees what stands there."""
        ids_BT, lengths = self._padded(prompts)
        seen: list[Tensor] = []
        hooks = [
            layer.attention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
            for layer in self._model.layers
        ]
        try:
            hidden_BTD, _ = self._model.read(ids_BT)
        finally:
            for hook in hooks:
                hook.remove()
        heads = [(layer.attention, _heads(layer.attention.heads)) for layer in self._model.layers]
        keys = [split(attention.key(x_BTD)) for (attention, split), x_BTD in zip(heads, seen, strict=True)]
        values = [split(attention.value(x_BTD)) for (attention, split), x_BTD in zip(heads, seen, strict=True)]
        logits_BV: Tensor = _last(hidden_BTD, lengths) @ self._model.embedding.weight.T
        self._slots.append(keys, values, lengths)
        return logits_BV

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one more token of each row."""
        stepping = Stepping(self._slots)
        hidden_B1D = transformer_xl_step(
            self._model, tokens_B[:, None], self._distances, stepping.places_B, stepping.there_BS, stepping.put
        )
        logits_BV: Tensor = hidden_B1D[:, 0] @ self._model.embedding.weight.T
        return logits_BV


def _heads(count: int) -> Any:
    """Returns what divides (B, T, D) into (B, N, T, H)."""
    return lambda x_BTD: x_BTD.unflatten(-1, (count, -1)).transpose(1, 2)


class _Crossing(_Rows):
    """Encoder-decoders: a prompt goes to the encoder, the decoder starts from its last token, the separator. Keys and
    values of the source are made once.
    """

    def __init__(self, model: Any, layers: int, pad_id: int, device: torch.device) -> None:
        super().__init__(model, layers, pad_id, device)
        self._sources = Slots(layers, next(iter(model.parameters())))

    @property
    def bytes(self) -> int:
        """What is held for the rows."""
        return self._slots.bytes + self._sources.bytes

    def remove(self, row: int) -> None:
        """Takes a row out of both."""
        self._slots.remove(row)
        self._sources.remove(row)

    def admit(self, prompts: Prompts) -> Tensor:
        """Encodes prompts and reads their separators."""
        ids_BS, lengths = self._padded(prompts)
        keys, values = self._encoded(ids_BS, lengths)
        starts_B = torch.tensor([prompt[-1] for prompt in prompts], device=self._device)
        # Rows of their own first: where anything fails the others are not touched.
        own = self._alone()
        own._sources.append(keys, values, lengths)
        none = [each[:, :, :0] for each in keys]
        own._slots.append(none, none, [0] * len(prompts))
        logits_BV = own.step(starts_B)
        written = own._slots.lengths.tolist()
        pairs = [own._slots.get(layer, 1) for layer in range(len(keys))]
        self._slots.append([key for key, _ in pairs], [value for _, value in pairs], written)
        self._sources.append(keys, values, lengths)
        return logits_BV

    def _alone(self) -> _Crossing:
        """Returns another one of this kind, without rows."""
        raise NotImplementedError

    def _source(self) -> tuple[int, Tensor | None]:
        """Returns the longest source, and where each row has a token (B, 1, 1, S); None where all are as long."""
        longest = int(self._sources.lengths.max())
        columns_S = torch.arange(longest, device=self._device)
        there_BS = columns_S[None, :] < self._sources.lengths[:, None]
        return longest, None if bool(there_BS.all()) else there_BS[:, None, None, :]

    def _encoded(self, ids_BS: Tensor, lengths: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the keys and values of sources for each layer (B, N, S, H)."""
        raise NotImplementedError

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one more token of each row."""
        raise NotImplementedError


class TransformerDecoder(_Crossing):
    """The encoder-decoder Transformer of Vaswani et al. 2017."""

    def __init__(self, model: Any, pad_id: int, device: torch.device) -> None:
        super().__init__(model, model.config.decoder_layers, pad_id, device)
        self._places = model.positions(0, 0)

    def _alone(self) -> _Crossing:
        return TransformerDecoder(self._model, self._pad, self._device)

    def _encoded(self, ids_BS: Tensor, lengths: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        memory_BSD = self._model.memory(ids_BS)
        pairs = [layer.cross.keys_values(memory_BSD) for layer in self._model.decoder_layers]
        return [key for key, _ in pairs], [value for _, value in pairs]

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one more token of each row."""
        model = self._model
        stepping = Stepping(self._slots)
        longest, source_mask = self._source()
        x_B1D = model.placed(tokens_B[:, None], self._positions(stepping))
        for number, layer in enumerate(model.decoder_layers):
            own, cross = layer.attention, layer.cross
            read = layer.around_attention.enter(x_B1D)
            mixed = stepping(number, own.split(own.query(read)), *own.keys_values(read))
            x_B1D = layer.around_attention.leave(x_B1D, own.output(mixed))
            read = layer.around_cross.enter(x_B1D)
            keys, values = self._sources.get(number, longest)
            mixed = attended(cross.split(cross.query(read)), keys, values, source_mask)
            x_B1D = layer.around_cross.leave(x_B1D, cross.output(mixed))
            x_B1D = layer.around_feed.leave(x_B1D, layer.feed(layer.around_feed.enter(x_B1D)))
        logits_BV: Tensor = model.norm_decoder(x_B1D)[:, 0] @ model.embedding.weight.T
        return logits_BV

    def _positions(self, stepping: Stepping) -> Tensor:
        """Returns what stands for each row's place (B, 1, D), from a table that is made once."""
        needed, config = stepping.there_BS.shape[1], self._model.config
        if len(self._places) < needed:
            bound = config.max_tokens if config.positions == "learned" else 2 * needed
            self._places = self._model.positions(0, max(needed, min(bound, 2 * needed)))
        found: Tensor = self._places[stepping.places_B][:, None]
        return found


class T5Decoder(_Crossing):
    """T5 and mT5 (Raffel et al. 2020): no scale on the scores, a bias by distance instead of positions."""

    def __init__(self, model: Any, pad_id: int, device: torch.device) -> None:
        super().__init__(model, model.config.num_decoder_layers, pad_id, device)

    def _alone(self) -> _Crossing:
        return T5Decoder(self._model, self._pad, self._device)

    def _encoded(self, ids_BS: Tensor, lengths: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        columns_S = torch.arange(ids_BS.shape[1], device=self._device)
        mask_BS = (columns_S[None, :] < torch.tensor(lengths, device=self._device)[:, None]).long()
        memory_BSD = self._model.encoder(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
        attentions = [block.layer[1].EncDecAttention for block in self._model.decoder.block]
        split = _heads(self._model.config.num_heads)
        return [split(each.k(memory_BSD)) for each in attentions], [split(each.v(memory_BSD)) for each in attentions]

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one more token of each row."""
        decoder, split = self._model.decoder, _heads(self._model.config.num_heads)
        stepping = Stepping(self._slots)
        bias_BN1S = self._bias(stepping)
        longest, source_mask = self._source()
        x_B1D = decoder.embed_tokens(tokens_B[:, None])
        for number, block in enumerate(decoder.block):
            own, cross = block.layer[0], block.layer[1]
            attention, read = own.SelfAttention, own.layer_norm(x_B1D)
            keys, values = stepping.put(number, split(attention.k(read)), split(attention.v(read)))
            x_B1D = x_B1D + attention.o(attended(split(attention.q(read)), keys, values, bias_BN1S, 1.0))
            attention, read = cross.EncDecAttention, cross.layer_norm(x_B1D)
            keys, values = self._sources.get(number, longest)
            x_B1D = x_B1D + attention.o(attended(split(attention.q(read)), keys, values, source_mask, 1.0))
            feed = block.layer[2]
            x_B1D = x_B1D + feed.DenseReluDense(feed.layer_norm(x_B1D))
        hidden_BD = decoder.final_layer_norm(x_B1D)[:, 0]
        if self._model.config.scale_decoder_outputs:
            hidden_BD = hidden_BD * self._model.model_dim**-0.5
        return self._model.lm_head(hidden_BD)  # type: ignore[no-any-return]

    def _bias(self, stepping: Stepping) -> Tensor:
        """Returns what is added to the scores of each row's tokens (B, N, 1, S)."""
        attention = self._model.decoder.block[0].layer[0].SelfAttention
        columns_S = torch.arange(stepping.there_BS.shape[1], device=self._device)
        buckets_BS = attention._relative_position_bucket(
            columns_S[None, :] - stepping.places_B[:, None],
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias_BNS = attention.relative_attention_bias(buckets_BS).permute(0, 2, 1)
        return bias_BNS.masked_fill(~stepping.there_BS[:, None, :], -math.inf)[:, :, None, :]  # type: ignore[no-any-return]
