"""A bidirectional encoder that chooses a label for a text, or for what two marked parts of it are to each other.

Shapes: B batch, T tokens, P parts, D hidden, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmyard.models.text_encoder import TextEncoder, TextEncoderConfig


class TextClassifierConfig(TextEncoderConfig):
    """Shape and labels of a :class:`TextClassifier`.

    Attributes:
        classes: Names of the labels.
        parts: How many parts of a text are marked; 0 where the label is of the text as a whole.
    """

    model_type = "llmyard_text_classifier"

    def __init__(self, classes: tuple[str, ...] = (), parts: int = 0, **kwargs: Any) -> None:
        self.classes, self.parts = list(classes), parts
        super().__init__(**kwargs)


class TextClassifier(TextEncoder):
    """BERT's encoder; the largest values over all tokens and the means of each part, through one hidden layer, to
    logits. Tokens of a part are told apart by BERT's segments.
    """

    config_class: type[TextEncoderConfig] = TextClassifierConfig

    def __init__(self, config: TextClassifierConfig) -> None:
        super().__init__(config, kinds=max(2, config.parts + 1))
        size = config.hidden_size
        self.gather = nn.Linear((2 + config.parts) * size, size)
        self.drop = nn.Dropout(config.dropout)
        self.classify = nn.Linear(size, len(config.classes))
        self.begin()

    def forward(self, tokens_BT: Tensor, parts_BT: Tensor) -> Tensor:
        """Returns logits (B, C).

        Args:
            tokens_BT: Token ids, padded.
            parts_BT: The part that each token is of, from 1 on; 0 for none.
        """
        hidden_BTD = self.hidden(tokens_BT, parts_BT)
        mask_BT1 = (tokens_BT != self.config.pad_token_id)[..., None]
        least = torch.finfo(hidden_BTD.dtype).min
        pooled = [hidden_BTD.masked_fill(~mask_BT1, least).amax(1), _mean(hidden_BTD, mask_BT1)]
        pooled += [_mean(hidden_BTD, (parts_BT == part)[..., None]) for part in range(1, self.config.parts + 1)]
        gathered_BD = torch.tanh(self.gather(self.drop(torch.cat(pooled, -1))))
        return self.classify(self.drop(gathered_BD))  # type: ignore[no-any-return]


def _mean(hidden_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
