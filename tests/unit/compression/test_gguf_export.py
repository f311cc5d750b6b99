"""Checkpoints as GGUF files: read back by the ``gguf`` package and by transformers, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmyard.compression.gguf_export import export, permuted, why_not
from llmyard.compression.gguf_vocabulary import _LLAMA3, _QWEN2, vocabulary
from llmyard.compression.loading import GGUF
from llmyard.compression.loading import load as load_saved
from llmyard.core.errors import RequestError
from llmyard.models.config import Llama
from llmyard.models.families import build, save
from llmyard.tokens.config import BpeTokenizer, CharacterTokenizer, UnigramTokenizer, WordPieceTokenizer
from llmyard.tokens.tokenizer import BYTES, CONTROL, FILE, Tokenizer

TEXTS = ("Malo found a green lamp, 3 of 12.", "马洛找到了一盏绿色的灯。AI技术，3月12日", "don't\nstop. 你好 world!")
EXTRA = 3  # ids of the models that the tokenizer does not have
ROWS = 323


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, BpeTokenizer(vocab_size=ROWS - EXTRA))


def shape(**changes: Any) -> dict[str, Any]:
    usual = {
        "vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    return {**usual, **changes}


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape())),
    "own llama": lambda: build(Llama(hidden_size=64, layers=2, feed_forward_size=96, key_value_heads=2, head_size=24),
                               vocab_size=ROWS, pad_id=0, end_id=1, max_tokens=64),
    "odd llama": lambda: LlamaForCausalLM(
        LlamaConfig(**shape(), attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2, tie_word_embeddings=False,
                    rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    ),
    "llama 3": lambda: LlamaForCausalLM(LlamaConfig(**shape(), rope_parameters=LLAMA3)),
    "stretched llama": lambda: LlamaForCausalLM(
        LlamaConfig(**shape(), rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**shape(), sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape())),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**shape(), head_dim=24)),
}  # fmt: skip


def made(name: str) -> Any:
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return model.eval()


def saved(model: Any, tokenizer: Tokenizer, folder: Path) -> Path:
    save(model, folder)
    tokenizer.save(folder / FILE)
    return folder


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(8, 56).reshape(2, 24)).logits


def read_back(folder: Path) -> Any:
    """Returns the model as transformers reads it; what it does not read of the shape, ``config.json`` says."""
    config = json.loads((folder / "config.json").read_text())
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    }  # fmt: skip
    kind, shaped = classes[config["model_type"]]
    return kind.from_pretrained(str(folder), gguf_file=GGUF, config=shaped.from_pretrained(str(folder))).eval()


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_the_same_numbers(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = made(name)
    assert why_not(model, tokenizer) == why_not(model.config.to_dict()) == ""
    exported = export(saved(model, tokenizer, tmp_path / "model"), tmp_path / "exported", "float32", "a model")
    assert exported.bytes == (tmp_path / "exported" / GGUF).stat().st_size
    assert exported.kept == ()
    found = read_back(tmp_path / "exported")
    state = found.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(found), logits(model))


def test_a_plain_model_is_read_from_the_file_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("own llama", "mistral", "qwen2"):
        model = made(name)
        export(saved(model, tokenizer, tmp_path / name), tmp_path / f"{name}-exported", "float32", "a model")
        assert torch.equal(logits(load_saved(tmp_path / f"{name}-exported")), logits(model))


@pytest.mark.parametrize(("weights", "most"), [("float16", 2e-3), ("q8_0", 3e-2), ("q4_0", 0.4)])
def test_smaller_weights(weights: Any, most: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = made("odd llama")
    folder = saved(model, tokenizer, tmp_path / "model")
    whole = export(folder, tmp_path / "whole", "float32")
    exported = export(folder, tmp_path / "exported", weights)
    assert far(logits(read_back(tmp_path / "exported")), logits(model)) < most
    assert exported.bytes < {"float16": 0.6, "q8_0": 0.35, "q4_0": 0.3}[weights] * whole.bytes
    kinds = {each.name: each.tensor_type.name for each in GGUFReader(tmp_path / "exported" / GGUF).tensors}
    matrix = {"float16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}[weights]
    assert kinds["blk.0.ffn_down.weight"] == matrix
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.0.attn_q.bias"] == "F32"
    assert kinds["token_embd.weight"] == kinds["output.weight"] == {"q4_0": "Q8_0"}.get(weights, matrix)


def test_rows_that_make_no_blocks_keep_more_bits(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**shape(intermediate_size=88))).eval()
    exported = export(saved(model, tokenizer, tmp_path / "model"), tmp_path / "exported", "q8_0")
    assert exported.kept == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert far(logits(read_back(tmp_path / "exported")), logits(model)) < 0.03


def test_tensors_are_where_llama_cpp_looks_for_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = made("llama 3")
    export(saved(model, tokenizer, tmp_path / "model"), tmp_path / "exported", "float32")
    reader = GGUFReader(tmp_path / "exported" / GGUF)
    tensors = {each.name: dequantize(each.data, each.tensor_type) for each in reader.tensors}
    layer = model.model.layers[1]
    assert np.array_equal(tensors["blk.1.attn_v.weight"], layer.self_attn.v_proj.weight.detach())
    # llama.cpp rotates row 2i with row 2i + 1 of a head, transformers row i with row i + half a head.
    queries = layer.self_attn.q_proj.weight.detach().reshape(4, 16, 64)
    written = tensors["blk.1.attn_q.weight"].reshape(4, 16, 64)
    assert np.array_equal(written[:, 0::2], queries[:, :8])
    assert np.array_equal(written[:, 1::2], queries[:, 8:])
    plain = 1e4 ** (-torch.arange(0, 16, 2) / 16)
    assert np.allclose(plain / tensors["rope_freqs.weight"], model.model.rotary_emb.inv_freq)


def test_rows_are_permuted_in_each_head() -> None:
    rows = torch.arange(12)
    assert permuted(rows, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(permuted(rows[:, None].expand(12, 3), 2)[:, 1], permuted(rows, 2))


def test_the_file_says_what_the_model_is(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = saved(made("odd llama"), tokenizer, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages }} 你好")
    exported = export(folder, tmp_path / "exported", name="checkpoint/x@1")
    fields = GGUFReader(tmp_path / "exported" / GGUF).fields

    def said(key: str) -> Any:
        return fields[key].contents()

    assert (exported.architecture, said("general.architecture"), said("general.name")) == (
        "llama", "llama", "checkpoint/x@1"
    )  # fmt: skip
    numbers = {
        "vocab_size": ROWS, "context_length": 64, "embedding_length": 64, "block_count": 2, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16,
        "rope.dimension_count": 16, "rope.freq_base": 777.0,
    }  # fmt: skip
    assert {key: said(f"llama.{key}") for key in numbers} == numbers
    assert said("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-2)
    tokens = said("tokenizer.ggml.tokens")
    assert (said("tokenizer.ggml.model"), said("tokenizer.ggml.pre")) == ("gpt2", "gpt-2")
    assert tokens[: tokenizer.vocab_size] == [tokenizer.name_of(id_) for id_ in range(tokenizer.vocab_size)]
    assert len(tokens) == ROWS
    kinds = said("tokenizer.ggml.token_type")
    assert kinds[: len(CONTROL)] == [3] * len(CONTROL)
    assert kinds[-EXTRA:] == [5] * EXTRA
    assert set(kinds[len(CONTROL) : -EXTRA]) == {1}
    merges = [" ".join(each) for each in json.loads(tokenizer.to_json())["model"]["merges"]]
    assert said("tokenizer.ggml.merges") == merges
    assert said("tokenizer.ggml.eos_token_id") == tokenizer.end_id
    assert said("tokenizer.ggml.padding_token_id") == tokenizer.pad_id
    assert said("tokenizer.ggml.add_bos_token") is False
    assert said("tokenizer.chat_template") == "{{ messages }} 你好"
    export(folder, tmp_path / "other", chat_template="{{ other }}")
    assert GGUFReader(tmp_path / "other" / GGUF).fields["tokenizer.chat_template"].contents() == "{{ other }}"
    assert not why_not(json.loads((tmp_path / "exported" / "config.json").read_text()))


@pytest.mark.parametrize("split_han", [True, False])
def test_texts_become_the_same_tokens_but_for_several_blanks(split_han: bool) -> None:
    own = Tokenizer.train(TEXTS * 3, BpeTokenizer(vocab_size=400, split_han=split_han))
    there = Tokenizer.from_json(own.to_json())  # cuts texts into words as llama.cpp's gpt-2 does
    there._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for text in (*TEXTS, "Malo's lamps: 1, 22 and 333!", "灯2盏AI很好。\n马洛", "a b  \n"):
        assert there.encode(text) == own.encode(text), text
    assert there.encode("a  lamp") != own.encode("a  lamp")
    assert "several blanks" in vocabulary(own, own.vocab_size).differs


def test_tokenizers_of_other_models_are_named(tokenizer: Tokenizer) -> None:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    cuts = {
        "gpt-2": words,
        "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), level]),
        "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_QWEN2), "isolated"), level]),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]),
    }
    for name, cut in cuts.items():
        other = Tokenizer.from_json(tokenizer.to_json())
        other._backend.pre_tokenizer = cut
        other._backend.model.ignore_merges = name == "llama-bpe"
        found = vocabulary(other, ROWS)
        assert (found.pre, found.differs) == (name, "")
    other._backend.pre_tokenizer = cuts["llama-bpe"]
    assert "merges" in vocabulary(other, ROWS).differs
    odd = Tokenizer.from_json(tokenizer.to_json())
    odd._backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), level])
    assert "no counterpart" in why_not(made("llama"), odd)
    odd._backend.pre_tokenizer = words
    odd._backend.normalizer = normalizers.Lowercase()
    with pytest.raises(RequestError, match="no counterpart"):
        vocabulary(odd, ROWS)


def test_a_unigram_tokenizer_is_one_there_too(tmp_path: Path) -> None:
    unigram = Tokenizer.train(TEXTS * 3, UnigramTokenizer(vocab_size=330))
    found = vocabulary(unigram, 332)
    assert (found.model, found.kinds[-1], found.tokens[found.unknown or 0]) == ("t5", 5, "\ufffd")
    pieces = json.loads(unigram.to_json())["model"]["vocab"]
    assert found.tokens[: len(pieces)] == [piece.replace(" ", "▁") for piece, _ in pieces]
    assert found.scores[: len(pieces)] == [score for _, score in pieces]
    assert [found.kinds[found.tokens.index(each)] for each in BYTES] == [6] * 256
    assert "blanks" in found.differs
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape(vocab_size=332))).eval()
    export(saved(model, unigram, tmp_path / "model"), tmp_path / "exported", "float32")
    assert torch.equal(logits(read_back(tmp_path / "exported")), logits(model))
    fields = GGUFReader(tmp_path / "exported" / GGUF).fields
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is False


@pytest.mark.parametrize("config", [CharacterTokenizer(vocab_size=200), WordPieceTokenizer(vocab_size=300)])
def test_tokenizers_without_a_counterpart_are_refused(config: Any, tmp_path: Path) -> None:
    other = Tokenizer.train(TEXTS * 3, config)
    model = made("llama")
    assert "tokenizer" in why_not(model, other)
    with pytest.raises(RequestError, match="tokenizer"):
        export(saved(model, other, tmp_path / "model"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "gpt2"}, "family 'gpt2'"),
        ({"model_type": "llmyard_transformer"}, "family 'llmyard_transformer'"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "yarn"}}, "kind 'yarn'"),
        ({"model_type": "qwen2", "rope_parameters": LLAMA3}, "kind 'llama3'"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "'gelu'"),
        ({"model_type": "mistral", "sliding_window": 16, "max_position_embeddings": 64}, "16 tokens"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, "unpack"),
        ({"model_type": "llama", "llmyard_quantization": {"kind": "int4"}}, "integers already"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_said_before(config: dict[str, Any], what: str) -> None:
    assert what in why_not(config)


def test_refusals(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path / "model")
    with pytest.raises(RequestError, match="no weights 'q5_0'"):
        export(folder, tmp_path / "exported", "q5_0")  # type: ignore[arg-type]
    larger = Tokenizer.train(TEXTS * 3, BpeTokenizer(vocab_size=ROWS + 5))
    with pytest.raises(RequestError, match=f"the model {ROWS}"):
        export(saved(made("llama"), larger, tmp_path / "larger"), tmp_path / "exported")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(RequestError, match="adapter"):
        export(folder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
