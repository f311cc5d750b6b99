"""Word vectors (Mikolov et al. 2013): a token is known by those around it.

Shapes: P pairs, K drawn tokens beside each pair, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel


class WordVectorsConfig(PretrainedConfig):  # type: ignore[misc]
    """Shape of a :class:`WordVectorsModel`."""

    model_type = "llmyard_word_vectors"

    def __init__(
        self,
        vocab_size: int = 8000,
        hidden_size: int = 256,
        pad_token_id: int = 0,
        eos_token_id: int = 1,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**{"pad_token_id": pad_token_id, "eos_token_id": eos_token_id} | kwargs)


class WordVectorsModel(PreTrainedModel):  # type: ignore[misc]
    """Vectors of tokens in the middle of a window, which are kept in the end, and of tokens around them."""

    config_class = WordVectorsConfig
    main_input_name = "centres"
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - two matrices, learned apart

    def __init__(self, config: WordVectorsConfig) -> None:
        super().__init__(config)
        self.inner = nn.Embedding(config.vocab_size, config.hidden_size)
        self.outer = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # As word2vec does, but for the outer vectors: with zeros there, the inner ones get no gradient at first.
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -0.5 / self.config.hidden_size, 0.5 / self.config.hidden_size)

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the vectors of the middle."""
        return self.inner

    def get_output_embeddings(self) -> nn.Embedding:
        """Returns the vectors of what stands around."""
        return self.outer

    def forward(self, centres: Tensor, around: Tensor) -> Tensor:
        """Returns scores (P, 1 + K): how well each token fits around its centre, as the log of the odds.

        Args:
            centres: (P).
            around: The true token first, then drawn ones, (P, 1 + K).
        """
        return torch.bmm(self.outer(around), self.inner(centres)[:, :, None])[:, :, 0]
