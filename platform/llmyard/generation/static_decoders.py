"""Decoding by transformers' own forward passes and caches, for families that :mod:`decoders` does not know: a batch is
written to its end before the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmyard.training.objectives import pad


class StaticDecoder:
    """Causal decoders and encoder-decoders of transformers."""

    joins = False

    def __init__(self, model: Any, pad_id: int, device: torch.device) -> None:
        self._model, self._pad, self._device = model, pad_id, device
        self._batch: _Causal | _Crossing | None = None
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def bytes(self) -> int:
        """What is held is not known here."""
        return 0

    def admit(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Reads the prompts of a batch; the one before has ended."""
        kind = _Crossing if self._model.config.is_encoder_decoder else _Causal
        self._batch = kind(self._model, self._pad)
        logits_BV = self._batch.start([list(prompt) for prompt in prompts], self._device)
        self._rows = len(prompts)
        return logits_BV

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one more token of each row."""
        assert self._batch is not None
        return self._batch.step(tokens_B[:, None])

    def remove(self, row: int) -> None:
        """Takes a row out; the last one stands in its place."""
        assert self._batch is not None
        self._rows -= 1
        rows = [self._rows if each == row else each for each in range(self._rows)]
        if rows:
            self._batch.select(torch.tensor(rows, device=self._device))


class _Crossing:
    """The prompt goes to the encoder; the decoder starts from its last token, the separator."""

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


class _Causal:
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
