"""BERT's encoder as the models that label texts share it.

Shapes: B batch, T tokens, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel

from llmyard.models.transformer import sinusoids


class TextEncoderConfig(PretrainedConfig):  # type: ignore[misc]
    """Shape of a :class:`TextEncoder`."""

    def __init__(
        self,
        vocab_size: int = 8000,
        hidden_size: int = 128,
        layers: int = 2,
        heads: int = 4,
        feed_forward_size: int = 512,
        max_tokens: int = 256,
        dropout: float = 0.0,
        pad_token_id: int = 0,
        layer_norm_eps: float = 1e-12,
        **kwargs: Any,
    ) -> None:
        self.layer_norm_eps = layer_norm_eps
        self.vocab_size, self.hidden_size, self.layers, self.heads = vocab_size, hidden_size, layers, heads
        self.feed_forward_size, self.max_tokens, self.dropout = feed_forward_size, max_tokens, dropout
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class TextEncoder(PreTrainedModel):  # type: ignore[misc]
    """An encoder whose heads its subclasses add.

    Args:
        config: Its shape.
        kinds: How many kinds of tokens it tells apart (BERT's segments).
    """

    config_class: type[TextEncoderConfig] = TextEncoderConfig
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - nothing is tied

    def __init__(self, config: TextEncoderConfig, kinds: int) -> None:
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
                layer_norm_eps=config.layer_norm_eps,
                type_vocab_size=kinds,
            ),
            add_pooling_layer=False,
        )

    def begin(self) -> None:
        """Gives all weights their first values; to be called when all heads are there."""
        self.post_init()
        with torch.no_grad():  # neighbouring positions begin alike: learned in half the steps of random ones
            self.bert.embeddings.position_embeddings.weight.copy_(
                0.1 * sinusoids(self.config.max_tokens, self.config.hidden_size)
            )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the tokens' embedding."""
        return self.bert.get_input_embeddings()  # type: ignore[no-any-return]

    def take_encoder(self, weights: dict[str, Tensor]) -> None:
        """Takes over the weights of a pretrained ``BertModel``, but for its pooler.

        A further kind of token begins as the last one that was learned.
        """
        kinds = "embeddings.token_type_embeddings.weight"
        learned = weights[kinds]
        wanted = self.bert.embeddings.token_type_embeddings.weight
        rows = torch.stack([learned[min(kind, len(learned) - 1)] for kind in range(len(wanted))])
        kept = {name: each for name, each in weights.items() if not name.startswith("pooler.")}
        self.bert.load_state_dict({**kept, kinds: rows})

    def hidden(self, tokens_BT: Tensor, kinds_BT: Tensor | None = None) -> Tensor:
        """Returns hidden states (B, T, D).

        In training the sequence begins at a random position among the first tenth, so that a text somewhat longer
        than those of the training set does not meet positions that were never learned.
        """
        mask = tokens_BT != self.config.pad_token_id
        length = tokens_BT.shape[1]
        spare = min(self.config.max_tokens - length, self.config.max_tokens // 10)
        start = int(torch.randint(spare + 1, ())) if self.training and spare > 0 else 0
        positions = torch.arange(start, start + length, device=tokens_BT.device)[None]
        output = self.bert(tokens_BT, attention_mask=mask, token_type_ids=kinds_BT, position_ids=positions)
        return output.last_hidden_state  # type: ignore[no-any-return]
