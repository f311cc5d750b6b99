"""Models made, saved and loaded: safetensors and a JSON config, no pickles and no remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.config import Bert, EncoderDecoder, Gpt2
from llmyard.models.span_tagger import SpanTagger, SpanTaggerConfig
from llmyard.models.transformer import TransformerConfig, TransformerModel

_CLASSES: dict[str, type[PreTrainedModel]] = {
    "gpt2": GPT2LMHeadModel,
    TransformerConfig.model_type: TransformerModel,
    SpanTaggerConfig.model_type: SpanTagger,
}


def build(
    config: Gpt2 | EncoderDecoder | Bert,
    *,
    vocab_size: int,
    pad_id: int,
    end_id: int,
    max_tokens: int,
    entity_types: tuple[str, ...] = (),
    relations: tuple[str, ...] = (),
    question_end: int = -1,
) -> PreTrainedModel:
    """Returns a model with random weights (from torch's current seed).

    Args:
        config: Its shape.
        vocab_size: Ids of the tokenizer.
        pad_id: Padding token.
        end_id: Token that ends a document or an answer.
        max_tokens: Longest sequence, for models with learned positions.
        entity_types: Of the span tagger.
        relations: Of the span tagger.
        question_end: Of the span tagger: the token that ends a question, -1 where there is none.
    """
    if isinstance(config, Gpt2):
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab_size, n_positions=max_tokens, n_embd=config.hidden_size, n_layer=config.layers,
                n_head=config.heads, resid_pdrop=config.dropout, embd_pdrop=config.dropout, attn_pdrop=config.dropout,
                bos_token_id=end_id, eos_token_id=end_id, pad_token_id=pad_id,
            )
        )  # fmt: skip
    if isinstance(config, EncoderDecoder):
        return TransformerModel(
            TransformerConfig(vocab_size=vocab_size, pad_token_id=pad_id, **config.model_dump(exclude={"family"}))
        )
    return SpanTagger(
        SpanTaggerConfig(
            vocab_size=vocab_size, pad_token_id=pad_id, max_tokens=max_tokens,
            entity_types=entity_types, relations=relations, question_end=question_end,
            **config.model_dump(exclude={"family"}),
        )
    )  # fmt: skip


def load(folder: str | Path) -> PreTrainedModel:
    """Returns the model saved in a folder.

    Raises:
        RequestError: The folder holds no model of a family that llmyard runs.
        CorruptArtifact: Weights are missing.
    """
    try:
        written = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        family = written.get("model_type", "")
        model_class = _CLASSES[family]
    except FileNotFoundError:
        raise RequestError(f"{folder} holds no config.json", "name the folder of a saved model") from None
    except KeyError:
        raise RequestError(f"{folder} is a model of type {family!r}", f"supported: {', '.join(_CLASSES)}") from None
    transformers_logging.disable_progress_bar()
    model, found = model_class.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if found["missing_keys"]:  # transformers would go on with random ones
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise CorruptArtifact(f"{folder} lacks weights: {missing}", "it was saved by another version: train it again")
    return model.eval()


def save(model: PreTrainedModel, folder: str | Path) -> None:
    """Writes ``config.json`` and ``model.safetensors``."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(str(folder), safe_serialization=True)


def label_details(model: Any) -> dict[str, list[str]]:
    """Returns the labels that a model was made for, empty lists for a generative one."""
    config = model.config
    return {"entity_types": getattr(config, "entity_types", []), "relations": getattr(config, "relations", [])}
