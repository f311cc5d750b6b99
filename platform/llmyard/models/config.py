"""Shapes of the models that can be trained from random weights; the vocabulary comes from the tokenizer."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmyard.core.config import Config


class _Attention(Config):
    hidden_size: int = Field(256, ge=8, le=65_536)
    heads: int = Field(4, ge=1, le=512)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if getattr(self, "head_size", None) is None and self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self


_BASE_WIDTH = Field(
    None,
    ge=8,
    description="The hidden_size at which the learning rate was found: first weights and rates become such that it is "
    "good at this hidden_size too (muP; AdamW only, heads of one size, feed_forward_size in proportion).",
)


class Gpt2(_Attention):
    """A causal decoder of GPT-2's and GPT-3's shape (Radford et al. 2019, Brown et al. 2020)."""

    family: Literal["gpt2"] = "gpt2"
    base_width: int | None = _BASE_WIDTH
    layers: int = Field(4, ge=1, le=512)


class Llama(_Attention):
    """A causal decoder of Llama's shape: rotary positions, RMS norm, gated feed-forward (Touvron et al. 2023)."""

    family: Literal["llama"] = "llama"
    base_width: int | None = _BASE_WIDTH
    layers: int = Field(4, ge=1, le=512)
    key_value_heads: int | None = Field(None, ge=1, description="Fewer than heads share keys and values; unset: heads.")
    feed_forward_size: int = Field(688, ge=8)
    head_size: int | None = Field(None, ge=2, description="Unset: hidden_size / heads.")

    @property
    def head_width(self) -> int:
        """Numbers of a head."""
        return self.head_size or self.hidden_size // self.heads

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of key_value_heads {self.key_value_heads}")
        if self.head_width % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.head_width}")
        return self


class TransformerXl(_Attention):
    """A causal decoder that remembers the segments before (Dai et al. 2019)."""

    family: Literal["transformer_xl"] = "transformer_xl"
    layers: int = Field(4, ge=1, le=512)
    feed_forward_size: int = Field(1024, ge=8)
    memory_length: int = Field(256, ge=0, description="Hidden states kept of earlier segments.")
    norm: Literal["pre", "post"] = Field("pre", description="post: as published; pre: trains without warm-up.")


class EncoderDecoder(_Attention):
    """The encoder-decoder Transformer (Vaswani et al. 2017)."""

    family: Literal["transformer"] = "transformer"
    encoder_layers: int = Field(2, ge=1, le=128)
    decoder_layers: int = Field(2, ge=1, le=128)
    feed_forward_size: int = Field(1024, ge=8)
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    norm: Literal["pre", "post"] = Field("pre", description="post: as published; pre: trains without warm-up.")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class T5(_Attention):
    """An encoder-decoder of T5's shape: relative position biases, RMS norm (Raffel et al. 2020)."""

    family: Literal["t5"] = "t5"
    encoder_layers: int = Field(2, ge=1, le=128)
    decoder_layers: int = Field(2, ge=1, le=128)
    feed_forward_size: int = Field(1024, ge=8)
    head_size: int | None = Field(None, ge=1, description="Unset: hidden_size / heads.")
    gated: bool = Field(False, description="Gated GELU instead of ReLU, as in T5 1.1.")


class Bert(_Attention):
    """A bidirectional encoder of BERT's shape (Devlin et al. 2019), with the head that its task needs."""

    family: Literal["bert"] = "bert"
    layers: int = Field(2, ge=1, le=512)
    feed_forward_size: int = Field(512, ge=8)


class WordVectors(Config):
    """Two vectors for each token, as the middle of a window and as what stands around it (Mikolov et al. 2013)."""

    family: Literal["word_vectors"] = "word_vectors"
    hidden_size: int = Field(256, ge=8, le=65_536)


Model = Gpt2 | Llama | TransformerXl | EncoderDecoder | T5 | Bert | WordVectors


def learns_positions(config: Model) -> bool:
    """Returns whether a model has a vector for each position, and so reads no longer sequences than it was made for."""
    return isinstance(config, (Gpt2, Bert)) or getattr(config, "positions", "") == "learned"


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Returns the published shapes by name."""
    import yaml

    text = Path(__file__).with_name("presets.yaml").read_text(encoding="utf-8")
    read: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return read


def expanded(value: Any) -> Any:
    """Returns a model's fields with those of its ``preset`` filled in; a field that is given wins.

    Raises:
        ValueError: There is no such preset.
    """
    if not isinstance(value, dict) or "preset" not in value:
        return value
    name = value["preset"]
    if name not in presets():
        near = get_close_matches(str(name), presets(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no preset {name!r}{hint} (known: {', '.join(presets())})")
    return {**presets()[name], **{key: each for key, each in value.items() if key != "preset"}}


ModelChoice = Annotated[Annotated[Model, Field(discriminator="family")], BeforeValidator(expanded)]
