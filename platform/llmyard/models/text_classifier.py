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
    """BERT's encoder; the largest values over all tokens, the means of each part and, of two parts and more, the
    largest values from the first part to the last, through one hidden layer, to logits. Tokens of a part are told apart
    by BERT's segments.

    What stands between two entities says most of how they are related (Zeng et al. 2015, who pool it apart too).
    """

    config_class: type[TextEncoderConfig] = TextClassifierConfig

    def __init__(self, config: TextClassifierConfig) -> None:
        super().__init__(config, kinds=max(2, config.parts + 1))
        size = config.hidden_size
        self.gather = nn.Linear((2 + config.parts + (config.parts > 1)) * size, size)
        self.drop = nn.Dropout(config.dropout)
        self.classify = nn.Linear(size, len(config.classes))
        self.begin()

    def take_encoder(self, weights: dict[str, Tensor]) -> None:
        """Takes over the weights of a pretrained ``BertModel``, but for its pooler.

        Its second segment was a second sentence, or nothing: parts begin at random, as far from each other as tokens
        are, so that they are told apart at once.
        """
        super().take_encoder(weights)
        embeddings = self.bert.embeddings
        if self.config.parts:
            with torch.no_grad():
                kinds = embeddings.token_type_embeddings.weight
                spread = float(embeddings.word_embeddings.weight.std())
                kinds[1:] = kinds[0] + spread * torch.randn_like(kinds[1:])

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
        if self.config.parts > 1:
            pooled.append(hidden_BTD.masked_fill(~_span(parts_BT != 0)[..., None], least).amax(1))
        gathered_BD = torch.tanh(self.gather(self.drop(torch.cat(pooled, -1))))
        return self.classify(self.drop(gathered_BD))  # type: ignore[no-any-return]


def _span(marked_BT: Tensor) -> Tensor:
    """Returns the tokens from the first marked one to the last; all where none is."""
    after_BT = marked_BT.long().cumsum(1) > 0
    before_BT = marked_BT.long().flip(1).cumsum(1).flip(1) > 0
    return (after_BT & before_BT) | ~marked_BT.any(1, keepdim=True)


def _mean(hidden_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
