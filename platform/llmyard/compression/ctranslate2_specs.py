"""Models as CTranslate2 specifies them: each family's weights by CTranslate2's names.

Where CTranslate2 converts a family itself, its converter names the weights; what it leaves out or takes from elsewhere
is put right here: rotary positions that are scaled, heads of a width of their own, outputs that are scaled or not.

Shapes: D hidden, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from llmyard.models.transformer import TransformerModel, sinusoids

# What transformers calls an activation, and what CTranslate2 does.
ACTIVATIONS = {
    "gelu": "GELU", "gelu_new": "GELUTanh", "gelu_pytorch_tanh": "GELUTanh", "quick_gelu": "GELUSigmoid",
    "relu": "RELU", "silu": "SWISH", "swish": "SWISH",
}  # fmt: skip
ROTARY = ("default", "linear", "llama3")
# Sinusoids are endless, CTranslate2's table of them is not: so many positions, or these times the trained length.
_LEAST_POSITIONS, _TRAINED_TIMES = 1024, 4
_LAYER_NORM_EPSILON = 1e-5  # torch's own


def spec_of(model: Any) -> Any:
    """Returns the specification of a model, filled with its weights; its vocabulary is still missing.

    Args:
        model: Of a family that :func:`llmyard.compression.ctranslate2_export.why_not` lets pass, in float32; its config
            may be changed.
    """
    spec, epsilon = _MAKERS[model.config.model_type](model)
    spec.config.add_attribute("layer_norm_epsilon", epsilon)
    return spec


def table_length(config: Any) -> int:
    """Returns how many positions an exported encoder-decoder of llmyard's own reads (T)."""
    if config.positions == "learned":
        return int(config.max_tokens)
    return max(_LEAST_POSITIONS, _TRAINED_TIMES * int(config.max_tokens))


def _gpt2(model: Any) -> tuple[Any, float]:
    from ctranslate2.converters.transformers import GPT2Loader

    return GPT2Loader().get_model_spec(model), model.config.layer_norm_epsilon


def _llama(model: Any) -> tuple[Any, float]:
    """Returns the specification of a Llama or one of its kin (Mistral, Qwen 2, Qwen 3)."""
    from ctranslate2.converters import transformers as converters
    from ctranslate2.specs import attention_spec, common_spec, transformer_spec

    config = model.config
    scaled = config.rope_parameters["rope_type"] != "default"
    positions = config.max_position_embeddings
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = config.num_key_value_heads
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config.num_hidden_layers, config.num_attention_heads, pre_norm=True, ffn_glu=True, rms_norm=True,
        activation=common_spec.Activation[ACTIVATIONS[config.hidden_act]],
        rotary_dim=0, rotary_interleave=False, rotary_base=config.rope_parameters["rope_theta"],
        rotary_scaling_type=attention_spec.RotaryScalingType.Su if scaled else None,
        original_max_position_embeddings=positions if scaled else 0, max_position_embeddings=positions if scaled else 0,
        num_heads_kv=None if shared == config.num_attention_heads else shared, head_dim=width,
        qk_norm=config.model_type == "qwen3",
    )  # fmt: skip
    if scaled:
        # CTranslate2 computes Llama 3's frequencies with constants of its own; given one by one, all are exact.
        plain = config.rope_parameters["rope_theta"] ** (-torch.arange(0, width, 2).float() / width)
        factors = plain / model.model.rotary_emb.inv_freq.float()
        for layer in spec.decoder.layer:
            layer.self_attention.rotary_scaling_long_factor = factors
            layer.self_attention.rotary_scaling_short_factor = factors
    loader = converters.Qwen3Loader() if config.model_type == "qwen3" else converters.LlamaLoader()
    loader.set_linear(spec.decoder.projection, model.lm_head)
    loader.set_decoder(spec.decoder, model.model)
    return spec, config.rms_norm_eps


def _t5(model: Any) -> tuple[Any, float]:
    from ctranslate2.converters.transformers import T5Loader
    from ctranslate2.specs.model_spec import OPTIONAL

    config = model.config
    spec = T5Loader().get_model_spec(model)
    # The converter goes by whether matrices are tied, which T5 1.1 and mT5 say of themselves otherwise by now.
    scaled = config.model_type == "t5" and config.scale_decoder_outputs
    spec.decoder.scale_outputs = config.d_model**-0.5 if scaled else OPTIONAL
    return spec, config.layer_norm_epsilon


def _bart(model: Any) -> tuple[Any, float]:
    """Returns the specification of a BART or a Marian model; of the latter with its padding's row, which its converter
    takes away, and beginning from the prompt's last token instead of from nothing.
    """
    from ctranslate2.converters.transformers import BartLoader

    model.config.normalize_before = False
    model.config.normalize_embedding = model.config.model_type == "bart"
    return BartLoader().get_model_spec(model), _LAYER_NORM_EPSILON


def _encoder(model: Any) -> tuple[Any, float]:
    """Returns the specification of BERT's encoder: one of llmyard's models that label, or a pretrained one."""
    from ctranslate2.specs import common_spec, transformer_spec

    bert = model.bert if hasattr(model, "bert") else getattr(model, model.base_model_prefix)
    config, embeddings = bert.config, bert.embeddings
    encoder = transformer_spec.TransformerEncoderSpec(
        config.num_hidden_layers, config.num_attention_heads, pre_norm=False, layernorm_embedding=True,
        activation=common_spec.Activation[ACTIVATIONS[config.hidden_act]],
        num_source_embeddings=2, embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )  # fmt: skip
    spec = transformer_spec.TransformerEncoderModelSpec(encoder, pooling_layer=False)
    encoder.scale_embeddings = False
    encoder.embeddings[0].weight = embeddings.word_embeddings.weight
    encoder.embeddings[1].weight = embeddings.token_type_embeddings.weight
    encoder.position_encodings.encodings = embeddings.position_embeddings.weight[unused_positions(config) :]
    _norm(encoder.layernorm_embedding, embeddings.LayerNorm)
    for named, layer in zip(encoder.layer, bert.encoder.layer, strict=True):
        own = layer.attention.self
        _fused(named.self_attention.linear[0], own.query, own.key, own.value)
        _linear(named.self_attention.linear[1], layer.attention.output.dense)
        _norm(named.self_attention.layer_norm, layer.attention.output.LayerNorm)
        _linear(named.ffn.linear_0, layer.intermediate.dense)
        _linear(named.ffn.linear_1, layer.output.dense)
        _norm(named.ffn.layer_norm, layer.output.LayerNorm)
    return spec, config.layer_norm_eps


def unused_positions(config: Any) -> int:
    """Returns how many rows of its positions an encoder passes over: RoBERTa's kin count from behind the padding on."""
    return config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0


def _transformer(model: TransformerModel) -> tuple[Any, float]:
    """Returns the specification of llmyard's own encoder-decoder.

    Embeddings are multiplied by the square root of D, as CTranslate2 does it; the scale of the positions is multiplied
    into their table.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    before = config.norm == "pre"
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers), config.heads, pre_norm=before,
        activation=common_spec.Activation.RELU,
    )  # fmt: skip
    if config.positions == "learned":
        positions_TD = model.position_embedding.weight
    else:
        positions_TD = model.position_scale.detach() * sinusoids(table_length(config), config.hidden_size)
    norms = (model.norm_encoder, model.norm_decoder)
    for side, norm in zip((spec.encoder, spec.decoder), norms, strict=True):
        side.scale_embeddings = math.sqrt(config.hidden_size)
        side.position_encodings.encodings = positions_TD
        if before:
            _norm(side.layer_norm, norm)
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = model.embedding.weight
    spec.decoder.projection.weight = model.embedding.weight
    for named, layer in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        _attention(named.self_attention, layer.attention, layer.around_attention.norm)
        _feed_forward(named.ffn, layer)
    for named, layer in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        _attention(named.self_attention, layer.attention, layer.around_attention.norm)
        _cross_attention(named.attention, layer.cross, layer.around_cross.norm)
        _feed_forward(named.ffn, layer)
    return spec, _LAYER_NORM_EPSILON


def _attention(spec: Any, attention: Any, norm: Any) -> None:
    _fused(spec.linear[0], attention.query, attention.key, attention.value)
    _linear(spec.linear[1], attention.output)
    _norm(spec.layer_norm, norm)


def _cross_attention(spec: Any, attention: Any, norm: Any) -> None:
    _linear(spec.linear[0], attention.query)
    _fused(spec.linear[1], attention.key, attention.value)
    _linear(spec.linear[2], attention.output)
    _norm(spec.layer_norm, norm)


def _feed_forward(spec: Any, layer: Any) -> None:
    _linear(spec.linear_0, layer.feed.inner)
    _linear(spec.linear_1, layer.feed.outer)
    _norm(spec.layer_norm, layer.around_feed.norm)


def _linear(spec: Any, layer: Any) -> None:
    spec.weight = layer.weight
    if layer.bias is not None:
        spec.bias = layer.bias


def _fused(spec: Any, *layers: Any) -> None:
    """Puts layers that read the same into one."""
    spec.weight = torch.cat([layer.weight for layer in layers])
    if all(layer.bias is not None for layer in layers):
        spec.bias = torch.cat([layer.bias for layer in layers])


def _norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = norm.weight, norm.bias


_MAKERS: dict[str, Callable[[Any], tuple[Any, float]]] = {
    "gpt2": _gpt2,
    "llama": _llama, "mistral": _llama, "qwen2": _llama, "qwen3": _llama,
    "t5": _t5, "mt5": _t5,
    "bart": _bart, "marian": _bart,
    "bert": _encoder, "roberta": _encoder, "xlm-roberta": _encoder,
    "llmyard_span_tagger": _encoder, "llmyard_text_classifier": _encoder,
    "llmyard_transformer": _transformer,
}  # fmt: skip
FAMILIES = tuple(_MAKERS)
