"""Models made, saved and loaded: safetensors and a JSON config, no pickles and no remote code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaForMaskedLM,
)
from transformers.utils import logging as transformers_logging

from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama, Model, TransformerXl, WordVectors
from llmyard.models.span_tagger import SpanTagger, SpanTaggerConfig
from llmyard.models.text_classifier import TextClassifier, TextClassifierConfig
from llmyard.models.text_encoder import TextEncoder
from llmyard.models.transformer import TransformerConfig, TransformerModel
from llmyard.models.transformer_xl import TransformerXlConfig, TransformerXlModel
from llmyard.models.width import begin_at_width
from llmyard.models.word_vectors import WordVectorsConfig, WordVectorsModel

_CLASSES: dict[str, type[PreTrainedModel]] = {
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "t5": T5ForConditionalGeneration,
    "bert": BertForPreTraining,
    "roberta": RobertaForMaskedLM,
    "xlm-roberta": XLMRobertaForMaskedLM,
    TransformerConfig.model_type: TransformerModel,
    TransformerXlConfig.model_type: TransformerXlModel,
    SpanTaggerConfig.model_type: SpanTagger,
    TextClassifierConfig.model_type: TextClassifier,
    WordVectorsConfig.model_type: WordVectorsModel,
}


def build(config: Model, *, vocab_size: int, pad_id: int, end_id: int, max_tokens: int) -> PreTrainedModel:
    """Returns a model with random weights (from torch's current seed), with the head of its pretraining.

    Args:
        config: Its shape.
        vocab_size: Ids of the tokenizer, and of the sentinels where the objective has some.
        pad_id: Padding token.
        end_id: Token that ends a document or an answer.
        max_tokens: Longest sequence, for models with learned positions.
    """
    ids: dict[str, Any] = {"vocab_size": vocab_size, "pad_token_id": pad_id}
    ends = {"bos_token_id": end_id, "eos_token_id": end_id}
    match config:
        case Gpt2():
            gpt2 = GPT2LMHeadModel(
                GPT2Config(
                    **ids, **ends, n_positions=max_tokens, n_embd=config.hidden_size, n_layer=config.layers,
                    n_head=config.heads, resid_pdrop=config.dropout, embd_pdrop=config.dropout,
                    attn_pdrop=config.dropout,
                )
            )  # fmt: skip
            begin_at_width(gpt2, config)
            return gpt2
        case Llama():
            llama = LlamaForCausalLM(
                LlamaConfig(
                    **ids, **ends, hidden_size=config.hidden_size, intermediate_size=config.feed_forward_size,
                    num_hidden_layers=config.layers, num_attention_heads=config.heads,
                    num_key_value_heads=config.key_value_heads or config.heads, max_position_embeddings=max_tokens,
                    head_dim=config.head_width,
                    attention_dropout=config.dropout, tie_word_embeddings=True,
                )
            )  # fmt: skip
            begin_at_width(llama, config)
            return llama
        case TransformerXl():
            return TransformerXlModel(
                TransformerXlConfig(**ids, eos_token_id=end_id, **config.model_dump(exclude={"family"}))
            )
        case T5():
            return T5ForConditionalGeneration(
                T5Config(
                    **ids, eos_token_id=end_id, decoder_start_token_id=pad_id, d_model=config.hidden_size,
                    d_kv=config.head_size or config.hidden_size // config.heads, d_ff=config.feed_forward_size,
                    num_layers=config.encoder_layers, num_decoder_layers=config.decoder_layers,
                    num_heads=config.heads, dropout_rate=config.dropout,
                    feed_forward_proj="gated-gelu" if config.gated else "relu",
                )
            )  # fmt: skip
        case EncoderDecoder():
            shape = config.model_dump(exclude={"family"})
            return TransformerModel(TransformerConfig(**ids, eos_token_id=end_id, max_tokens=max_tokens, **shape))
        case WordVectors():
            return WordVectorsModel(WordVectorsConfig(**ids, eos_token_id=end_id, hidden_size=config.hidden_size))
        case Bert():
            return BertForPreTraining(
                BertConfig(
                    **ids, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
                    num_attention_heads=config.heads, intermediate_size=config.feed_forward_size,
                    max_position_embeddings=max_tokens, hidden_dropout_prob=config.dropout,
                    attention_probs_dropout_prob=config.dropout,
                )
            )  # fmt: skip


def build_labeller(config: Bert, heads: Heads, *, vocab_size: int, pad_id: int, max_tokens: int) -> TextEncoder:
    """Returns an encoder that labels what it reads, with random weights (from torch's current seed).

    Args:
        config: Its shape.
        heads: What it finds.
        vocab_size: Ids of the tokenizer.
        pad_id: Padding token.
        max_tokens: Longest sequence.
    """
    shape = config.model_dump(exclude={"family"})
    return heads.on(vocab_size=vocab_size, pad_token_id=pad_id, max_tokens=max_tokens, **shape)


def labeller_from(base: PreTrainedModel, heads: Heads) -> TextEncoder:
    """Returns an encoder that labels, as it was pretrained; its heads are random (from torch's current seed).

    Args:
        base: As pretrained; one of BERT's kin becomes a BERT, which computes the same.
        heads: What it finds.
    """
    shape = base.config
    model = heads.on(
        vocab_size=shape.vocab_size, pad_token_id=shape.pad_token_id,
        max_tokens=shape.max_position_embeddings - unused_positions(shape),
        hidden_size=shape.hidden_size, layers=shape.num_hidden_layers, heads=shape.num_attention_heads,
        feed_forward_size=shape.intermediate_size, dropout=shape.hidden_dropout_prob,
        layer_norm_eps=shape.layer_norm_eps,
    )  # fmt: skip
    model.take_encoder(_encoder_weights(base))
    return model


def is_encoder(model: Any) -> bool:
    """Returns whether a model was pretrained by filling gaps: a BERT, or one of its kin."""
    return isinstance(model, (BertForPreTraining, RobertaForMaskedLM, XLMRobertaForMaskedLM))


def unused_positions(config: Any) -> int:
    """Returns how many rows of its positions a model passes over: RoBERTa counts from behind the padding's id on."""
    return 2 if config.model_type in ("roberta", "xlm-roberta") else 0


def _encoder_weights(base: Any) -> dict[str, Tensor]:
    """Returns the weights of a pretrained encoder by BERT's names."""
    weights: dict[str, Tensor] = getattr(base, base.base_model_prefix).state_dict()
    positions = "embeddings.position_embeddings.weight"
    return {**weights, positions: weights[positions][unused_positions(base.config) :]}


@dataclass(frozen=True)
class SpanHeads:
    """Spans of some types, and relations between them.

    Attributes:
        entity_types: Of the spans.
        relations: Between spans.
        question_end: The token that ends a question, -1 where there is none.
        max_answer_tokens: Longest answer that is looked for.
    """

    entity_types: tuple[str, ...]
    relations: tuple[str, ...] = ()
    question_end: int = -1
    max_answer_tokens: int = 64

    def on(self, **shape: Any) -> SpanTagger:
        """Returns the model of a shape."""
        return SpanTagger(SpanTaggerConfig(**vars(self), **shape))


@dataclass(frozen=True)
class ClassHead:
    """One label.

    Attributes:
        classes: Its names.
        parts: How many parts of a text are marked.
    """

    classes: tuple[str, ...]
    parts: int = 0

    def on(self, **shape: Any) -> TextClassifier:
        """Returns the model of a shape."""
        return TextClassifier(TextClassifierConfig(**vars(self), **shape))


Heads = SpanHeads | ClassHead


def like(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Returns the model that a folder's ``config.json`` describes with the weights of its base: the base itself, or its
    encoder with random heads.
    """
    written = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    wanted = _class_of(folder, written.get("model_type", ""))
    if isinstance(base, wanted) or not issubclass(wanted, TextEncoder):
        base.config.vocab_size = written["vocab_size"]
        return base
    model = wanted(wanted.config_class.from_pretrained(str(folder)))
    model.take_encoder(_encoder_weights(base))
    return model


def load(folder: str | Path, gguf: str | None = None) -> PreTrainedModel:
    """Returns the model saved in a folder: of llmyard's families, or any other that transformers itself knows.

    Args:
        folder: Of the model.
        gguf: File there to read the weights from; None takes those in safetensors.

    Raises:
        RequestError: The folder holds no model, or one that needs code of its own.
        CorruptArtifact: Weights are missing.
    """
    model_class = _written_class(folder)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a table of what is missing; here it is one error
    where: dict[str, Any] = {"use_safetensors": True}
    if gguf is not None:  # with the config beside it: of the file's own, transformers misreads biases and head sizes
        where = {"gguf_file": gguf, "config": model_class.config_class.from_pretrained(str(folder))}
    try:
        model, found = model_class.from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True, **where
        )
    except RuntimeError as error:  # what transformers raises for weights of other sizes
        first = str(error).strip().partition("\n")[0]
        said = f"the weights in {folder} do not fit its config: {first}"
        raise CorruptArtifact(said, "it was saved by another version: train it again") from None
    if found["missing_keys"]:  # transformers would go on with random ones
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise CorruptArtifact(f"{folder} lacks weights: {missing}", "it was saved by another version: train it again")
    return model.eval()


def unfilled(folder: str | Path) -> PreTrainedModel:
    """Returns the model that a folder's ``config.json`` describes, with weights that mean nothing yet.

    Raises:
        RequestError: The folder holds no model, or one that needs code of its own.
    """
    model_class = _written_class(folder)
    config = model_class.config_class.from_pretrained(str(folder))
    with torch.random.fork_rng(devices=[]):  # its weights are not drawn from the caller's seed
        made: PreTrainedModel = model_class(config).eval()
        return made


def _written_class(folder: str | Path) -> Any:
    try:
        written = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{folder} holds no config.json", "name the folder of a saved model") from None
    return _class_of(folder, written.get("model_type", ""))


def _class_of(folder: str | Path, family: str) -> Any:
    """Returns the class, with the head of its pretraining, that loads a family."""
    if family in _CLASSES:
        return _CLASSES[family]
    from transformers.models.auto import modeling_auto

    for names in (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    ):
        found = names.get(family)
        if found:
            import transformers

            return getattr(transformers, found if isinstance(found, str) else found[0])
    raise RequestError(
        f"{folder} is a model of type {family!r}",
        f"supported are {', '.join(_CLASSES)} and the language models of transformers; code of its own is not run",
    )


def save(model: PreTrainedModel, folder: str | Path) -> None:
    """Writes ``config.json`` and ``model.safetensors``."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(str(folder), safe_serialization=True)
