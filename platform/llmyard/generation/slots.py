"""Keys and values of the texts that are being written, one row each, as long as each is.

Rows come and go at any time: a new one stands behind the last, and the last one takes the place of one that goes.

Shapes: B rows, T tokens read at once, S tokens there, N heads, G heads of keys and values, H head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_FIRST = 32  # tokens of room to begin with; it doubles


class Slots:
    """Keys and values of all layers.

    Args:
        layers: Of the model.
        like: A tensor on the device and in the type that they are kept in.
    """

    def __init__(self, layers: int, like: Tensor) -> None:
        self._like, self._layers = like, layers
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.lengths = torch.zeros(0, dtype=torch.long, device=like.device)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def bytes(self) -> int:
        """What is held."""
        return sum(each.numel() * each.element_size() for each in (*self._keys, *self._values))

    def append(self, keys: Sequence[Tensor], values: Sequence[Tensor], lengths: Sequence[int]) -> None:
        """Takes new rows: of each layer (b, G, S, H), of which a row's first ``length`` tokens count."""
        before, size = len(self), max(lengths)
        self._grow(before + len(lengths), size, keys[0], values[0])
        for there, new in ((self._keys, keys), (self._values, values)):
            for layer, each in enumerate(new):
                there[layer][before : before + len(lengths), :, :size] = each[:, :, :size]
        self.lengths = torch.cat((self.lengths, torch.tensor(lengths, device=self._like.device)))

    def extend(self) -> tuple[Tensor, Tensor]:
        """Makes room for one more token of each row; returns its place (B) and which tokens are then there (B, S)."""
        places_B = self.lengths
        self.lengths = places_B + 1
        longest = int(self.lengths.max())
        self._grow(len(self), longest, self._keys[0], self._values[0])
        columns_S = torch.arange(longest, device=self._like.device)
        return places_B, columns_S[None, :] <= places_B[:, None]

    def put(
        self, layer: int, places_B: Tensor, keys_BGH: Tensor, values_BGH: Tensor, seen: int
    ) -> tuple[Tensor, Tensor]:
        """Writes one token of each row; returns a layer's keys and values (B, G, S, H), S being ``seen``."""
        rows_B = torch.arange(len(places_B), device=places_B.device)
        self._keys[layer][rows_B, :, places_B] = keys_BGH
        self._values[layer][rows_B, :, places_B] = values_BGH
        return self.get(layer, seen)

    def get(self, layer: int, seen: int) -> tuple[Tensor, Tensor]:
        """Returns a layer's keys and values (B, G, S, H)."""
        count = len(self)
        return self._keys[layer][:count, :, :seen], self._values[layer][:count, :, :seen]

    def remove(self, row: int) -> None:
        """Takes a row out; the last one stands in its place."""
        last = len(self) - 1
        if row != last:
            length = int(self.lengths[last])
            for each in (*self._keys, *self._values):
                each[row, :, :length] = each[last, :, :length]
            self.lengths[row] = self.lengths[last]
        self.lengths = self.lengths[:last]

    def _grow(self, rows: int, size: int, keys: Tensor, values: Tensor) -> None:
        if not self._keys:
            self._keys = [self._room(0, 0, keys) for _ in range(self._layers)]
            self._values = [self._room(0, 0, values) for _ in range(self._layers)]
        there_rows, _, there_size, _ = self._keys[0].shape
        if rows <= there_rows and size <= there_size:
            return
        rows = max(rows, min(2 * there_rows, 32)) if rows > there_rows else there_rows
        size = max(size, 2 * there_size, _FIRST) if size > there_size else there_size
        for held, shape in ((self._keys, keys), (self._values, values)):
            for layer, old in enumerate(held):
                new = self._room(rows, size, shape)
                new[:there_rows, :, :there_size] = old
                held[layer] = new

    def _room(self, rows: int, size: int, shape: Tensor) -> Tensor:
        # Zeros: what stands where nothing was written is masked, but nothing times infinity would not be nothing.
        return self._like.new_zeros(rows, shape.shape[1], size, shape.shape[3])


class Reading:
    """Attention while prompts are read, padded behind: keeps their keys and values for :meth:`Slots.append`."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Returns (B, T, N * H): each token sees those before it, so the padding is seen by none that counts."""
        self.keys.append(keys)
        self.values.append(values)
        shared = queries.shape[1] != keys.shape[1]
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=shared)
        return mixed.transpose(1, 2).flatten(2)


class Stepping:
    """Attention of one more token of each row to all that its row holds."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.places_B, self.there_BS = slots.extend()
        self._mask = None if bool(self.there_BS.all()) else self.there_BS[:, None, None, :]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Returns (B, 1, N * H) of queries (B, N, 1, H), keys and values (B, G, 1, H)."""
        return attended(queries, *self.put(layer, keys, values), self._mask, scale)

    def put(self, layer: int, k_BG1H: Tensor, v_BG1H: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the token's key and value; returns all of each row (B, G, S, H)."""
        return self._slots.put(layer, self.places_B, k_BG1H[:, :, 0], v_BG1H[:, :, 0], self.there_BS.shape[1])


def attended(
    q_BN1H: Tensor, keys_BGSH: Tensor, values_BGSH: Tensor, mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """Returns (B, 1, N * H) of one query of each row; heads that share keys are read as several queries of one head.

    Args:
        q_BN1H: Queries.
        keys_BGSH: Keys.
        values_BGSH: Values.
        mask: True where a row has a token, or what is added to the scores; broadcast to (B, G, N / G, S).
        scale: Of the scores; by default 1 / sqrt(H).
    """
    batch, heads, _, size = q_BN1H.shape
    grouped = q_BN1H.reshape(batch, keys_BGSH.shape[1], -1, size)
    mixed: Any = F.scaled_dot_product_attention(grouped, keys_BGSH, values_BGSH, attn_mask=mask, scale=scale)
    return mixed.reshape(batch, 1, heads * size)  # type: ignore[no-any-return]
