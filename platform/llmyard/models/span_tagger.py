"""A bidirectional encoder that tags entity spans and scores relations between them.

Shapes: B batch, T tokens, E entity starts, R relations, D hidden, H size of a relation's query.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel

from llmyard.models.transformer import sinusoids


class SpanTaggerConfig(PretrainedConfig):  # type: ignore[misc]
    """Shape and labels of a :class:`SpanTagger`.

    Attributes:
        entity_types: Names of the entity types; tag 0 is "outside", 1+2i begins type i, 2+2i goes on in it.
        relations: Names of the relations.
        question_end: Id of the token that ends the question, for a model that reads a question and its context; -1
            for one that reads a single text.
    """

    model_type = "llmyard_span_tagger"

    def __init__(
        self,
        vocab_size: int = 8000,
        hidden_size: int = 128,
        layers: int = 2,
        heads: int = 4,
        feed_forward_size: int = 512,
        max_tokens: int = 256,
        dropout: float = 0.0,
        entity_types: tuple[str, ...] = (),
        relations: tuple[str, ...] = (),
        relation_size: int = 32,
        question_end: int = -1,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.layers, self.heads = vocab_size, hidden_size, layers, heads
        self.feed_forward_size, self.max_tokens, self.dropout = feed_forward_size, max_tokens, dropout
        self.entity_types, self.relations, self.relation_size = list(entity_types), list(relations), relation_size
        self.question_end = question_end
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class SpanTagger(PreTrainedModel):  # type: ignore[misc]
    """BERT's encoder with two heads: BIO tags of entities, and relations between the starts of two entities."""

    config_class = SpanTaggerConfig
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - nothing is tied

    def __init__(self, config: SpanTaggerConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(
            BertConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.feed_forward_size,
                max_position_embeddings=config.max_tokens,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                pad_token_id=config.pad_token_id,
                type_vocab_size=1 if config.question_end < 0 else 3,
            ),
            add_pooling_layer=False,
        )
        self.tags = nn.Linear(config.hidden_size, 1 + 2 * len(config.entity_types))
        size = len(config.relations) * config.relation_size
        with warnings.catch_warnings():  # without relations these are empty, which torch points out
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.subjects, self.objects = nn.Linear(config.hidden_size, size), nn.Linear(config.hidden_size, size)
        self.relation_bias = nn.Parameter(torch.full((len(config.relations),), -2.0))
        self.post_init()
        with torch.no_grad():  # neighbouring positions begin alike: learned in half the steps of random ones
            self.bert.embeddings.position_embeddings.weight.copy_(
                0.1 * sinusoids(config.max_tokens, config.hidden_size)
            )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the tokens' embedding."""
        return self.bert.get_input_embeddings()  # type: ignore[no-any-return]

    def encode(self, tokens_BT: Tensor) -> Tensor:
        """Returns hidden states (B, T, D).

        In training the sequence begins at a random position among the first tenth, so that a text somewhat longer
        than those of the training set does not meet positions that were never learned.
        """
        mask = tokens_BT != self.config.pad_token_id
        length = tokens_BT.shape[1]
        spare = min(self.config.max_tokens - length, self.config.max_tokens // 10)
        start = int(torch.randint(spare + 1, ())) if self.training and spare > 0 else 0
        positions = torch.arange(start, start + length, device=tokens_BT.device)[None]
        kinds_BT = None if self.config.question_end < 0 else self._kinds(tokens_BT, mask)
        output = self.bert(tokens_BT, attention_mask=mask, token_type_ids=kinds_BT, position_ids=positions)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _kinds(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Returns 0 for the question, 1 for the context, 2 for a token of the context that the question holds too.

        The match with the question is the feature without which reading is hardly learned from random weights (Chen et
        al. 2017, Reading Wikipedia to Answer Open-Domain Questions, section 3.2).
        """
        ends_BT = tokens_BT == self.config.question_end
        context_BT = (ends_BT.cumsum(1) - ends_BT.long() > 0) & mask_BT
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
