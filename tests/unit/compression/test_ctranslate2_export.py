"""Checkpoints as CTranslate2 models: they say what the checkpoint says, with its tokenizer's ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import FAMILIES as NAMES
from small_models import VOCABULARY, following, logits, texts
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmyard.compression.ctranslate2_export import FIELD, export, vocabulary, why_not
from llmyard.compression.quantizing import Scheme, quantize
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.families import load, save
from llmyard.tokens.config import CharacterTokenizer
from llmyard.tokens.tokenizer import CONTROL, FILE, Tokenizer

DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
BOTH = {
    "vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
T5S = {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 24, "d_ff": 96, "num_layers": 2, "num_heads": 4}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
OTHERS: dict[str, Callable[[], Any]] = {
    "odd llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            **DECODER, head_dim=24, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 777.0},
        )
    ),
    "llama 3": lambda: LlamaForCausalLM(LlamaConfig(**DECODER, rope_parameters=LLAMA3)),
    "stretched llama": lambda: LlamaForCausalLM(
        LlamaConfig(**DECODER, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**DECODER, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**DECODER)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=24)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BOTH, scale_embedding=True)),
    "marian": lambda: MarianMTModel(MarianConfig(**BOTH, activation_function="swish")),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**T5S)),
    "t5 1.1": lambda: T5ForConditionalGeneration(
        T5Config(**T5S, feed_forward_proj="gated-gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-2)
    ),
}  # fmt: skip
EXPORTED = [name for name in NAMES if name != "transformer_xl"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer with fewer ids than the models: those behind stand for no text, as T5's sentinels."""
    return Tokenizer.train(["abc 你好世界，hello"], CharacterTokenizer(vocab_size=40))


def disturbed(model: Any) -> Any:
    """Returns a model in which no weight is what it was made as: biases, norms and scales count too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.normal_(generator=generator)
    return model.eval()


def saved(model: Any, tokenizer: Tokenizer, folder: Path) -> Path:
    save(model, folder)
    tokenizer.save(folder / FILE)
    return folder


@pytest.mark.parametrize("name", EXPORTED)
def test_a_trained_model_says_the_same(
    name: str, trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = trained(name)
    assert why_not(model) == why_not(model.config) == why_not(model.config.to_dict()) == ""
    exported = export(saved(model, tokenizer, tmp_path / "model"), tmp_path / "exported")
    assert exported.family == model.config.model_type
    assert exported.deviation < 1e-5
    assert (tmp_path / "exported" / FILE).read_bytes() == (tmp_path / "model" / FILE).read_bytes()
    assert exported.bytes == sum(each.stat().st_size for each in (tmp_path / "exported").iterdir())


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_transformers_say_the_same(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = disturbed(OTHERS[name]())
    exported = export(saved(model, tokenizer, tmp_path / "model"), tmp_path / "exported")
    assert exported.deviation < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "t5", "transformer", "post-norm transformer", "tagger"])
def test_smaller_weights(name: str, trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = saved(trained(name), tokenizer, tmp_path / "model")
    found = {
        weights: export(folder, tmp_path / weights, weights)  # type: ignore[arg-type]
        for weights in ("float32", "float16", "int16", "int8", "int8_float32")
    }
    assert found["float16"].deviation < 5e-3
    assert found["int16"].deviation < 2e-2
    assert found["int8"].deviation < 0.1
    sizes = {weights: (tmp_path / weights / "model.bin").stat().st_size for weights in found}
    assert sizes["int8"] < sizes["int16"] < sizes["float32"]
    assert sizes["float16"] < 0.6 * sizes["float32"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_another_program_reads_a_decoder(
    name: str, trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = trained(name)
    export(saved(model, tokenizer, tmp_path / "model"), tmp_path / "exported")
    generator = ctranslate2.Generator(str(tmp_path / "exported"), intra_threads=1)
    ids = texts(4)
    assert np.allclose(np.array(generator.forward_batch(ids.tolist())), logits(model, ids).detach(), atol=1e-4)
    names = json.loads((tmp_path / "exported" / "vocabulary.json").read_text())
    prompt = [names[id_] for id_ in ids[0, :4].tolist()]
    (said,) = generator.generate_batch([prompt], beam_size=1, max_length=6, include_prompt_in_result=False)
    wanted = [int(ids[0, 3])]
    while len(wanted) < 7:
        wanted.append(int(following(torch.tensor(wanted[-1]))))
    assert said.sequences_ids[0] == wanted[1:]  # the rule that it learned


def test_another_program_translates(trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    export(saved(trained("transformer"), tokenizer, tmp_path / "model"), tmp_path / "exported")
    translator = ctranslate2.Translator(str(tmp_path / "exported"), intra_threads=1)
    names = vocabulary(tokenizer, VOCABULARY)
    source = [names[id_] for id_ in texts(1)[0].tolist()]
    (said,) = translator.translate_batch([source], target_prefix=[source[:1]], beam_size=1, max_decoding_length=11)
    assert [names.index(each) for each in said.hypotheses[0]] == texts(1)[0, 1:].tolist()


def test_every_id_has_a_name_of_its_own(tokenizer: Tokenizer) -> None:
    names = vocabulary(tokenizer, VOCABULARY)
    assert len(set(names)) == VOCABULARY
    assert all(names[id_] == tokenizer.name_of(id_) for id_ in range(tokenizer.vocab_size))
    assert set(CONTROL) < set(names)
    assert tokenizer.encode("你好 hello") == [names.index(each) for each in "你好 hello"]
    assert names[-1] == f"<extra_id_{VOCABULARY - 1}>"
    with pytest.raises(RequestError, match="the model 5"):
        vocabulary(tokenizer, 5)


def test_a_name_that_is_taken_is_not_given_again(tokenizer: Tokenizer) -> None:
    parts = json.loads(tokenizer.to_json())
    last = tokenizer.vocab_size + 1  # an id between has no token
    parts["model"]["vocab"][f"<extra_id_{last + 1}>"] = last
    names = vocabulary(Tokenizer.from_json(json.dumps(parts)), last + 3)
    assert names[last - 1 :] == [f"<extra_id_{last - 1}>", f"<extra_id_{last + 1}>", f"<extra_id_{last + 1}>_",
                                 f"<extra_id_{last + 2}>"]  # fmt: skip


def test_what_the_engine_reads(trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = {}
    for name in ("gpt2", "t5", "transformer", "post-norm transformer", "tagger", "roberta"):
        export(saved(trained(name), tokenizer, tmp_path / name), tmp_path / f"{name}-exported")
        found[name] = json.loads((tmp_path / f"{name}-exported" / "config.json").read_text())[FIELD]
    assert {name: (each["form"], each["positions"], each["total"]) for name, each in found.items()} == {
        "gpt2": ("decoder", 32, 33), "t5": ("encoder_decoder", None, None),
        "transformer": ("encoder_decoder", 1024, None), "post-norm transformer": ("encoder_decoder", 32, 33),
        "tagger": ("labeller", 32, 33), "roberta": ("encoder", 33, 34),
    }  # fmt: skip
    assert all(each["vocab_size"] == VOCABULARY and each["pad_id"] == tokenizer.pad_id for each in found.values())
    assert found["tagger"]["labeller"]["entity_types"] == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "llmyard_transformer_xl"}, "memory"),
        ({"model_type": "llmyard_word_vectors"}, "family 'llmyard_word_vectors'"),
        ({"model_type": "opt"}, "family 'opt'"),
        ({"model_type": "gpt2", "activation_function": "tanh"}, "activation 'tanh'"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "attention"),
        ({"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 2}}, "kind 'yarn'"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "part"),
        ({"model_type": "mistral", "sliding_window": 16, "max_position_embeddings": 64}, "sliding window of 16"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_position_embeddings": 64},
         "sliding window"),
        ({"model_type": "bart", "encoder_attention_heads": 4, "decoder_attention_heads": 2}, "heads"),
        ({"model_type": "marian", "share_encoder_decoder_embeddings": False}, "vocabularies"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "relative_key"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, "unpack"),
        ({"model_type": "llama", "llmyard_quantization": {"kind": "int4"}}, "integers already"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_exported_is_said_before(config: dict[str, Any], what: str) -> None:
    assert what in why_not(config)


def test_refuses_what_is_not_whole(trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    from llmyard.training.adapting import adapt
    from llmyard.training.methods import Lora

    adapted = trained("llama")
    adapt(adapted, Lora(rank=2), VOCABULARY)
    assert "merge" in why_not(adapted)
    integers = trained("llama")
    quantize(integers, Scheme("int8_dynamic"))
    assert "integers already" in why_not(integers)
    folder = saved(integers, tokenizer, tmp_path / "integers")
    with pytest.raises(RequestError, match="integers already"):
        export(folder, tmp_path / "exported")
    folder = saved(trained("llama"), tokenizer, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(RequestError, match="adapter"):
        export(folder, tmp_path / "exported")
    with pytest.raises(RequestError, match="memory"):
        export(saved(trained("transformer_xl"), tokenizer, tmp_path / "xl"), tmp_path / "exported")
    with pytest.raises(RequestError, match=r"no config\.json"):
        export(tmp_path / "nothing", tmp_path / "exported")
    with pytest.raises(RequestError, match="no weights 'int4'"):
        export(folder, tmp_path / "exported", "int4")  # type: ignore[arg-type]
    assert not (tmp_path / "exported").exists()


def test_a_model_that_says_something_else_is_not_left_unsaid(
    trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = saved(trained("gpt2"), tokenizer, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():  # a feature that is always 0 outshines all others: 8 bits leave none of these
        if name.endswith("c_fc.weight"):
            tensor[0] = 1e3
        if ".ln_2." in name:
            tensor[0] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert export(folder, tmp_path / "whole").deviation < 1e-3
    with pytest.raises(CorruptArtifact, match="int8 deviates by"):
        export(folder, tmp_path / "exported", "int8")


def test_half_precision_checkpoints_are_exported(
    trained: Callable[[str], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = saved(trained("llama").bfloat16(), tokenizer, tmp_path / "model")
    assert load(folder).dtype == torch.bfloat16
    assert export(folder, tmp_path / "exported").deviation < 1e-5
