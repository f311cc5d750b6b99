"""Checkpoints packed by GPTQ and AWQ: read back to the numbers that were packed here, bit by bit, from the formats'
descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.pytorch_utils import Conv1D

from llmyard.compression.loading import load as load_saved
from llmyard.compression.packed_weights import PackedLinear, Scheme, is_packed, load, unpacked
from llmyard.compression.quantizing import bytes_of
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.families import save

SHAPE = {
    "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


def signed(word: int) -> int:
    """Returns the int32 with the bits of an unsigned word."""
    return word - 2**32 if word >= 2**31 else word


def words(rows: list[list[int]], bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Packs rows of integers: the first of each word in its lowest bits, or those that an order names."""
    many = 32 // bits
    places = order or tuple(range(many))
    packed = []
    for row in rows:
        packed.append([])
        for at in range(0, len(row), many):
            word = sum(row[at + place] << (bits * number) for number, place in enumerate(places))
            packed[-1].append(signed(word))
    return torch.tensor(packed, dtype=torch.int32)


def chosen(weight_NK: Tensor, bits: int, size: int, groups: list[int]) -> tuple[Any, Any, Tensor, Tensor]:
    """Returns integers (K, N), zeros (G, N), scales (G, N) and the weights (N, K) that they stand for."""
    outputs, inputs = weight_NK.shape
    most, count = 2**bits - 1, inputs // size
    scales = torch.zeros(count, outputs, dtype=torch.float16)
    zeros = [[0] * outputs for _ in range(count)]
    integers = [[0] * outputs for _ in range(inputs)]
    plain = torch.zeros(outputs, inputs)
    for n in range(outputs):
        for g in range(count):
            own = [k for k in range(inputs) if groups[k] == g]
            values = weight_NK[n, own]
            low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
            scales[g, n] = max((high - low) / most, 1e-4)
            step = float(scales[g, n])
            zeros[g][n] = min(most, max(1, round(-low / step)))
            for k in own:
                integers[k][n] = min(most, max(0, round(float(weight_NK[n, k]) / step) + zeros[g][n]))
                plain[n, k] = (integers[k][n] - zeros[g][n]) * step
    return integers, zeros, scales, plain


def packed_gptq(
    weight_NK: Tensor, bits: int, size: int, groups: list[int], version: int
) -> tuple[dict[str, Tensor], Tensor]:
    integers, zeros, scales, plain = chosen(weight_NK, bits, size, groups)
    columns = [list(column) for column in zip(*integers, strict=True)]
    stored = [[zero - (version == 1) for zero in row] for row in zeros]
    parts = {
        "qweight": words(columns, bits).t().contiguous(), "qzeros": words(stored, bits), "scales": scales,
        "g_idx": torch.tensor(groups, dtype=torch.int32),
    }  # fmt: skip
    return parts, plain


def packed_awq(weight_NK: Tensor, size: int) -> tuple[dict[str, Tensor], Tensor]:
    groups = [k // size for k in range(weight_NK.shape[1])]
    integers, zeros, scales, plain = chosen(weight_NK, 4, size, groups)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {"qweight": words(integers, 4, order), "qzeros": words(zeros, 4, order), "scales": scales}, plain


def in_order(inputs: int, size: int) -> list[int]:
    return [k // size for k in range(inputs)]


def shuffled(inputs: int, size: int) -> list[int]:
    places = torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs)).tolist()
    return [place // size for place in places]


Packer = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
PACKERS: dict[str, tuple[dict[str, Any], Packer]] = {
    "gptq": (GPTQ, lambda each: packed_gptq(each, 4, 32, in_order(each.shape[1], 32), 1)),
    "gptq_v2": (
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        lambda each: packed_gptq(each, 4, 32, in_order(each.shape[1], 32), 2),
    ),
    "gptq of 8 bits": ({**GPTQ, "bits": 8}, lambda each: packed_gptq(each, 8, 32, in_order(each.shape[1], 32), 1)),
    "gptq by activations": (
        {**GPTQ, "desc_act": True},
        lambda each: packed_gptq(each, 4, 32, shuffled(each.shape[1], 32), 1),
    ),
    "gptq of one group": (
        {**GPTQ, "group_size": -1},
        lambda each: packed_gptq(each, 4, each.shape[1], [0] * each.shape[1], 1),
    ),
    "gptq of small groups": (
        {**GPTQ, "group_size": 16},
        lambda each: packed_gptq(each, 4, 16, in_order(each.shape[1], 16), 1),
    ),
    "awq": (AWQ, lambda each: packed_awq(each, 32)),
}  # fmt: skip


def write(model: Any, folder: Path, said: dict[str, Any], pack: Packer, shards: int = 1) -> None:
    """Writes a model's checkpoint with its layers' matrices packed; the model gets what they stand for."""
    folder.mkdir()
    tensors = {name: each.detach().clone() for name, each in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, (torch.nn.Linear, Conv1D)) and "lm_head" not in name:
            turned = isinstance(layer, Conv1D)
            weight = layer.weight.detach().t() if turned else layer.weight.detach()
            parts, plain = pack(weight)
            layer.weight.data.copy_(plain.t() if turned else plain)
            del tensors[f"{name}.weight"]
            tensors |= {f"{name}.{part}": each for part, each in parts.items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    config = model.config.to_dict() | {"quantization_config": said}
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = sorted(tensors)
    where = {name: f"model-{at % shards + 1:05}-of-{shards:05}.safetensors" for at, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})).eval()


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    ids = torch.arange(2, 26).reshape(2, 12)
    return model(input_ids=ids).logits


@pytest.mark.parametrize("kind", PACKERS)
def test_weights_are_those_that_were_packed(kind: str, tmp_path: Path) -> None:
    said, pack = PACKERS[kind]
    model = llama()
    write(model, tmp_path / "packed", said, pack)
    assert is_packed(tmp_path / "packed")
    tensors = unpacked(tmp_path / "packed")
    assert set(tensors) == {name for name in model.state_dict() if name != "lm_head.weight"} | (
        set() if model.config.tie_word_embeddings else {"lm_head.weight"}
    )
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert unpacked(tmp_path / "packed", torch.bfloat16)["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", PACKERS)
def test_the_model_is_a_plain_one(kind: str, tmp_path: Path) -> None:
    said, pack = PACKERS[kind]
    model = llama(tie_word_embeddings=kind == "awq")
    write(model, tmp_path / "packed", said, pack, shards=3)
    loaded = load(tmp_path / "packed")
    assert torch.equal(logits(loaded), logits(model))
    save(loaded, tmp_path / "plain")
    assert not is_packed(tmp_path / "plain")
    assert torch.equal(logits(load_saved(tmp_path / "plain")), logits(model))


def test_biases_and_turned_matrices_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 32}
    gpt2 = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=1)).eval()
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()
    for name, model in (("gpt2", gpt2), ("qwen2", qwen2)):
        with torch.no_grad():
            for each, parameter in model.named_parameters():
                if each.endswith("bias"):
                    parameter.normal_()
        write(model, tmp_path / name, *PACKERS["gptq"])
        assert torch.equal(logits(load(tmp_path / name)), logits(model))


@pytest.mark.parametrize("kind", ["gptq", "gptq_v2", "awq"])
def test_integers_can_be_kept(kind: str, tmp_path: Path) -> None:
    model = llama()
    write(model, tmp_path / "packed", *PACKERS[kind])
    kept = load(tmp_path / "packed", integers=True)
    layer = kept.model.layers[0].mlp.down_proj
    plain = model.model.layers[0].mlp.down_proj.weight.detach()
    # Scales and zeros are rounded to bfloat16, the integers are not.
    assert float((layer.weights() - plain).abs().max()) < float(plain.abs().max()) / 64
    assert bytes_of(kept) < bytes_of(model) / 2
    wanted = logits(model)
    assert float((logits(kept) - wanted).norm() / wanted.norm()) < 0.05
    save(kept, tmp_path / "saved")  # as llmyard's own quantised models are
    assert torch.equal(logits(load_saved(tmp_path / "saved")), logits(kept))


@pytest.mark.parametrize("kind", ["gptq by activations", "gptq of small groups", "gptq of 8 bits"])
def test_integers_that_fit_no_layer_become_numbers(kind: str, tmp_path: Path) -> None:
    model = llama()
    write(model, tmp_path / "packed", *PACKERS[kind])
    assert torch.equal(logits(load(tmp_path / "packed", integers=True)), logits(model))


def test_a_zero_of_nothing_wraps_around() -> None:
    # Version 1 stores zeros less one: a zero of 0 is there the largest number.
    parts = {
        "qweight": words([[5] * 8] * 8, 4).t().contiguous(), "qzeros": words([[15] * 8], 4),
        "scales": torch.full((1, 8), 0.5, dtype=torch.float16),
    }  # fmt: skip
    assert torch.equal(PackedLinear.read(Scheme("gptq", 4, 1), parts).weights(), torch.full((8, 8), 2.5))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({**GPTQ, "bits": 2}, "gptq, 2 bits"),
        ({**GPTQ, "bits": 3}, "gptq, 3 bits"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "format marlin"),
        ({**GPTQ, "is_marlin_format": True}, "gptq, 4 bits"),
        ({**GPTQ, "pack_dtype": "int16"}, "gptq, 4 bits"),
        ({**GPTQ, "dynamic": {"+:.*down.*": {"bits": 8}}}, "other bits in some layers"),
        ({**AWQ, "version": "gemv"}, "awq, 4 bits, format gemv"),
        ({**AWQ, "version": "exllama"}, "format exllama"),
        ({**AWQ, "bits": 8}, "awq, 8 bits"),
        ({**AWQ, "zero_point": False}, "awq"),
        ({"quant_method": "hqq", "bits": 4}, "hqq"),
        ({"load_in_4bit": True}, "an unknown method"),
    ],
    ids=str,
)
def test_other_formats_are_refused_by_name(said: dict[str, Any], found: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": said}))
    assert is_packed(tmp_path)
    with pytest.raises(RequestError, match=found) as caught:
        unpacked(tmp_path)
    assert "not packed" in caught.value.remedy
    with pytest.raises(RequestError, match=found):
        load(tmp_path)


def test_a_plain_checkpoint_is_none(tmp_path: Path) -> None:
    save(llama(), tmp_path)
    assert not is_packed(tmp_path)
    assert not is_packed(tmp_path / "nothing")
    with pytest.raises(RequestError, match="is not packed"):
        unpacked(tmp_path)


def test_damage_is_said(tmp_path: Path) -> None:
    write(llama(), tmp_path / "packed", *PACKERS["gptq"])
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    for change, what in (
        ({"quantization_config": {**GPTQ, "bits": 8}}, "is not packed as its config says"),
        ({"hidden_size": 32}, "do not fit its config"),
        ({"num_hidden_layers": 2}, "lacks weights: model.layers.1"),
        ({"num_hidden_layers": 0}, "no place for"),
    ):
        (tmp_path / "packed" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CorruptArtifact, match=what):
            load(tmp_path / "packed")
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "packed" / "model.safetensors")
    with pytest.raises(CorruptArtifact, match="no packed layer"):
        load(tmp_path / "packed")
    (tmp_path / "packed" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"holds no model\.safetensors"):
        load(tmp_path / "packed")
