"""Shapes of the models that can be trained from random weights; the vocabulary comes from the tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config


class _Attention(Config):
    hidden_size: int = Field(256, ge=8, le=65_536)
    heads: int = Field(4, ge=1, le=512)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self


class Gpt2(_Attention):
    """A causal decoder of GPT-2's shape (Radford et al. 2019)."""

    family: Literal["gpt2"] = "gpt2"
    layers: int = Field(4, ge=1, le=512)


class EncoderDecoder(_Attention):
    """The encoder-decoder Transformer (Vaswani et al. 2017), pre-norm, with sinusoidal positions."""

    family: Literal["transformer"] = "transformer"
    encoder_layers: int = Field(2, ge=1, le=128)
    decoder_layers: int = Field(2, ge=1, le=128)
    feed_forward_size: int = Field(1024, ge=8)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class Bert(_Attention):
    """A bidirectional encoder of BERT's shape (Devlin et al. 2019), with the head that its task needs."""

    family: Literal["bert"] = "bert"
    layers: int = Field(2, ge=1, le=512)
    feed_forward_size: int = Field(512, ge=8)


Model = Annotated[Gpt2 | EncoderDecoder | Bert, Field(discriminator="family")]
