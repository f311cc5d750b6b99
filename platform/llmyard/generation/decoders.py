"""How each family writes token after token: a start from prompts, steps with a cache, sequences leaving the batch."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from llmyard.models.transformer import DecoderState, TransformerModel
from llmyard.training.objectives import pad


class Decoder(Protocol):
    """Decodes one batch."""

    def start(self, prompts: list[list[int]], device: torch.device) -> Tensor:
        """Returns the logits (B, V) of the first new token of each prompt."""

    def step(self, tokens_B1: Tensor) -> Tensor:
        """Returns the logits (B, V) after one more token of each sequence."""

    def select(self, rows: Tensor) -> None:
        """Keeps some sequences of the batch only."""


def decoder_of(model: Any, pad_id: int) -> Decoder:
    """Returns the decoder for a model's family."""
    if isinstance(model, TransformerModel):
        return EncoderDecoderDecoder(model, pad_id)
    return CrossDecoder(model, pad_id) if model.config.is_encoder_decoder else CausalDecoder(model, pad_id)


class EncoderDecoderDecoder:
    """The prompt goes to the encoder; the decoder starts from its last token, the separator."""

    def __init__(self, model: TransformerModel, pad_id: int) -> None:
        self._model, self._pad = model, pad_id
        self._state: DecoderState | None = None

    def start(self, prompts: list[list[int]], device: torch.device) -> Tensor:
        """Encodes the prompts."""
        self._state = self._model.encode(pad(prompts, self._pad).to(device))
        return self.step(torch.tensor([[prompt[-1]] for prompt in prompts], device=device))

    def step(self, tokens_B1: Tensor) -> Tensor:
        """One decoder step; keys and values of all former ones are kept."""
        assert self._state is not None
        return self._model.decode(tokens_B1, self._state)[:, -1]

    def select(self, rows: Tensor) -> None:
        """Keeps some rows of the state."""
        assert self._state is not None
        self._state = self._state.select(rows)


class CrossDecoder:
    """As :class:`EncoderDecoderDecoder`, of transformers' models (T5, BART)."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model, self._pad = model, pad_id
        self._cache: Any = None
        self._encoded: Any = None
        self._mask = torch.zeros(0)

    def start(self, prompts: list[list[int]], device: torch.device) -> Tensor:
        """Encodes the prompts."""
        ids = pad(prompts, self._pad).to(device)
        self._mask = pad([[1] * len(prompt) for prompt in prompts], 0).to(device)
        self._encoded = self._model.get_encoder()(input_ids=ids, attention_mask=self._mask)
        return self.step(torch.tensor([[prompt[-1]] for prompt in prompts], device=device))

    def step(self, tokens_B1: Tensor) -> Tensor:
        """One decoder step; keys and values of all former ones, and of the encoder's states, are kept."""
        out = self._model(
            encoder_outputs=self._encoded, attention_mask=self._mask, decoder_input_ids=tokens_B1,
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        self._cache = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def select(self, rows: Tensor) -> None:
        """Keeps some rows of the cache and of the encoder's states."""
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        self._encoded.last_hidden_state = self._encoded.last_hidden_state[rows]


class CausalDecoder:
    """Prompts are padded on the left, so that all sequences write in the same column of the cache."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model, self._pad = model, pad_id
        self._cache: Any = None
        self._mask = torch.zeros(0)
        self._positions = torch.zeros(0)

    def start(self, prompts: list[list[int]], device: torch.device) -> Tensor:
        """Reads the prompts."""
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self._pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns = torch.arange(longest, device=device)[None, :]
        self._mask = (columns >= (longest - lengths)[:, None]).long()
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._positions = lengths[:, None]
        # Of a prompt only the last logits are wanted: those of all positions would take B * T * V floats.
        out = self._model(
            input_ids=ids, attention_mask=self._mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        self._cache = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def step(self, tokens_B1: Tensor) -> Tensor:
        """Reads one more token of each sequence; the engine ends a sequence before the model's positions do."""
        self._mask = torch.cat((self._mask, torch.ones_like(tokens_B1)), 1)
        out = self._model(
            input_ids=tokens_B1,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._positions = self._positions + 1
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def select(self, rows: Tensor) -> None:
        """Keeps some rows of the cache."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]
