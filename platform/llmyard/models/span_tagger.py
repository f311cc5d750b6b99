"""A bidirectional encoder that tags entity spans and scores relations between them.

Shapes: B batch, T tokens, E entity starts, R relations, D hidden, H size of a relation's query.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from llmyard.models.text_encoder import TextEncoder, TextEncoderConfig


class SpanTaggerConfig(TextEncoderConfig):
    """Shape and labels of a :class:`SpanTagger`.

    Attributes:
        entity_types: Names of the entity types; tag 0 is "outside", 1+2i begins type i, 2+2i goes on in it.
        relations: Names of the relations.
        question_end: Id of the token that ends the question, for a model that reads a question and its context; -1
            for one that reads a single text.
        max_answer_tokens: Longest answer to a question that is looked for.
    """

    model_type = "llmyard_span_tagger"

    def __init__(
        self,
        entity_types: tuple[str, ...] = (),
        relations: tuple[str, ...] = (),
        relation_size: int = 32,
        question_end: int = -1,
        max_answer_tokens: int = 64,
        **kwargs: Any,
    ) -> None:
        self.entity_types, self.relations, self.relation_size = list(entity_types), list(relations), relation_size
        self.question_end, self.max_answer_tokens = question_end, max_answer_tokens
        super().__init__(**kwargs)


class SpanTagger(TextEncoder):
    """BERT's encoder with two heads: BIO tags of entities, and relations between the starts of two entities."""

    config_class: type[TextEncoderConfig] = SpanTaggerConfig

    def __init__(self, config: SpanTaggerConfig) -> None:
        super().__init__(config, kinds=1 if config.question_end < 0 else 3)
        self.tags = nn.Linear(config.hidden_size, 1 + 2 * len(config.entity_types))
        size = len(config.relations) * config.relation_size
        with warnings.catch_warnings():  # without relations these are empty, which torch points out
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.subjects, self.objects = nn.Linear(config.hidden_size, size), nn.Linear(config.hidden_size, size)
        self.relation_bias = nn.Parameter(torch.full((len(config.relations),), -2.0))
        self.begin()

    def encode(self, tokens_BT: Tensor) -> Tensor:
        """Returns hidden states (B, T, D)."""
        if self.config.question_end < 0:
            return self.hidden(tokens_BT)
        return self.hidden(tokens_BT, self._kinds(tokens_BT, tokens_BT != self.config.pad_token_id))

    def context(self, tokens_BT: Tensor) -> Tensor:
        """Returns where the context of a question stands (B, T): behind the first token that ends a question."""
        ends_BT = tokens_BT == self.config.question_end
        found_BT: Tensor = (ends_BT.cumsum(1) - ends_BT.long() > 0) & (tokens_BT != self.config.pad_token_id)
        return found_BT

    def _kinds(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Returns 0 for the question, 1 for the context, 2 for a token of the context that the question holds too.

        The match with the question is the feature without which reading is hardly learned from random weights (Chen et
        al. 2017, Reading Wikipedia to Answer Open-Domain Questions, section 3.2).
        """
        context_BT = self.context(tokens_BT)
        question_BT = ~context_BT & mask_BT
        same_BTT = tokens_BT[:, :, None] == tokens_BT[:, None, :]
        asked_BT = (same_BTT & question_BT[:, None, :]).any(2)
        kinds_BT: Tensor = context_BT.long() * (1 + asked_BT.long())
        return kinds_BT

    def relate(self, hidden_BTD: Tensor, starts_BE: Tensor) -> Tensor:
        """Returns logits (B, R, E, E): relation r holds from entity i to entity j, by their start tokens."""
        index = starts_BE[..., None].expand(-1, -1, hidden_BTD.shape[-1])
        entity_BED = hidden_BTD.gather(1, index)
        size = self.config.relation_size

        def heads(layer: nn.Linear) -> Tensor:
            batch, count, _ = entity_BED.shape
            return layer(entity_BED).view(batch, count, -1, size).transpose(1, 2)  # type: ignore[no-any-return]

        scores: Tensor = heads(self.subjects) @ heads(self.objects).transpose(-1, -2) / size**0.5
        return scores + self.relation_bias[None, :, None, None]

    def forward(self, tokens_BT: Tensor, starts_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tag logits (B, T, tags) and relation logits (B, R, E, E)."""
        hidden_BTD = self.encode(tokens_BT)
        return self.tags(hidden_BTD), self.relate(hidden_BTD, starts_BE)
