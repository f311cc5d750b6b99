"""What the torch engine can do with a model."""

from __future__ import annotations

from typing import Any

from llmyard.generation.engine import Capabilities
from llmyard.models.span_tagger import SpanTagger
from llmyard.models.text_classifier import TextClassifier
from llmyard.models.text_encoder import TextEncoder
from llmyard.models.transformer import TransformerModel
from llmyard.models.transformer_xl import TransformerXlModel

MAX_PROMPT_TOKENS = 4096
ANSWERING = "causal decoders, encoder-decoders, span taggers and text classifiers"


def why_not(model: Any) -> str:
    """Returns why this engine does not answer with a model; "" if it does."""
    if model.can_generate() or isinstance(model, (TextEncoder, TransformerModel, TransformerXlModel)):
        return ""
    return f"this engine does not answer with a {type(model).__name__} yet"


def capabilities_of(model: Any, name: str) -> Capabilities:
    """Returns what a model can do; learned positions bound what it reads, sinusoids and relative ones do not."""
    labels, config = isinstance(model, TextEncoder), model.config
    learned = labels or getattr(config, "positions", "") == "learned"
    positions = config.max_tokens if learned else getattr(config, "max_position_embeddings", None)
    total = None if positions is None else int(positions) + 1
    return Capabilities(
        name, config.model_type, not labels, isinstance(model, SpanTagger), positions or MAX_PROMPT_TOKENS, total,
        classifies=isinstance(model, TextClassifier),
    )  # fmt: skip
