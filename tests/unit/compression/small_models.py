"""Small models of all families, and a task that each learns in a second: the token after x is 3 x + 7."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor
from transformers import RobertaConfig, RobertaForMaskedLM

from llmyard.models.config import Bert, ModelChoice
from llmyard.models.families import ClassHead, SpanHeads, build, build_labeller

VOCABULARY, LENGTH, CLASSES = 48, 12, 5
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "layers": 3},
    "llama": {"family": "llama", "layers": 3, "heads": 4, "key_value_heads": 2, "feed_forward_size": 96},
    "t5": {"family": "t5", "feed_forward_size": 96},
    "gated t5": {"family": "t5", "feed_forward_size": 96, "head_size": 24, "gated": True, "decoder_layers": 3},
    "transformer": {"family": "transformer", "feed_forward_size": 96, "decoder_layers": 3},
    "post-norm transformer": {
        "family": "transformer", "feed_forward_size": 96, "norm": "post", "positions": "learned",
    },
    "transformer_xl": {"family": "transformer_xl", "layers": 3, "feed_forward_size": 96},
    "bert": {"family": "bert", "layers": 3, "feed_forward_size": 96},
}  # fmt: skip
FAMILIES = [*SHAPES, "roberta", "tagger", "classifier"]


def make(name: str) -> Any:
    """Returns a model with random weights; a layer is 64 wide."""
    sizes = {"vocab_size": VOCABULARY, "pad_id": 0, "max_tokens": 32}
    bert = Bert(hidden_size=64, layers=3, feed_forward_size=96)
    match name:
        case "tagger":
            return build_labeller(bert, SpanHeads(("a", "b"), ("r",)), **sizes)
        case "classifier":
            return build_labeller(bert, ClassHead(tuple("abcde"), parts=2), **sizes)
        case "roberta":
            shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
            ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
            return RobertaForMaskedLM(RobertaConfig(**shape, **ids, max_position_embeddings=34))
    config = TypeAdapter(ModelChoice).validate_python({"hidden_size": 64, **SHAPES[name]})
    return build(config, **sizes, end_id=1)


def texts(count: int, seed: int = 0) -> Tensor:
    """Returns token ids (B, T), each following from the one before."""
    ids = [torch.randint(2, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))]
    while len(ids) < LENGTH:
        ids.append(following(ids[-1]))
    return torch.stack(ids, 1)


def following(ids: Tensor) -> Tensor:
    """Returns the token after each."""
    return (3 * ids + 7) % (VOCABULARY - 2) + 2


def batch_of(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Returns a model's arguments."""
    match model.config.model_type:
        case "t5" | "llmyard_transformer":
            return {"input_ids": ids, "decoder_input_ids": ids}
        case "llmyard_span_tagger":
            return {"tokens_BT": ids, "starts_BE": torch.tensor([[0, 3]]).expand(len(ids), -1)}
        case "llmyard_text_classifier":
            return {"tokens_BT": ids, "parts_BT": torch.arange(LENGTH).clamp(max=2).expand_as(ids)}
    return {"input_ids": ids}


def logits(model: Any, ids: Tensor) -> Tensor:
    """Returns what a model says of tokens: (..., classes)."""
    out = model(**batch_of(model, ids))
    if isinstance(out, Tensor):
        return out
    if hasattr(out, "prediction_logits"):
        return out.prediction_logits
    return out[0] if isinstance(out, tuple) else out.logits


def loss(model: Any, ids: Tensor) -> Tensor:
    """Returns the cross-entropy, a mean."""
    wanted = following(ids)
    match model.config.model_type:
        case "llmyard_span_tagger":
            wanted = ids % CLASSES
        case "llmyard_text_classifier":
            wanted = ids[:, 1] % CLASSES
    return F.cross_entropy(logits(model, ids).flatten(0, -2), wanted.flatten())


@cache
def trained_once(name: str) -> Any:
    torch.manual_seed(1)
    model = make(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(70):
        optimizer.zero_grad()
        loss(model, texts(32, step)).backward()
        optimizer.step()
    return model.eval().requires_grad_(True)
