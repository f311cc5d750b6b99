"""Whole models quantised: what changes, what they say then, and what is saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import FAMILIES, VOCABULARY, batch_of, logits, loss, make, texts
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from llmyard.compression.int8 import has_int8_kernel
from llmyard.compression.quantized_linear import FIELD, QuantizedLinear
from llmyard.compression.quantizing import Scheme, bytes_of, prepare, quantize, restore
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.generation.decoders import decoder_of
from llmyard.models.families import load, save

Trained = Callable[[str], Any]
KINDS = ["int8_dynamic", "int8_static", "int4"]
FORGIVEN = {"int8_dynamic": 0.03, "int8_static": 0.04, "int4": 0.25}  # of the logits


def quantized(model: Any, kind: str, **settings: Any) -> Any:
    """Returns the report."""
    batches = [batch_of(model, texts(16, seed)) for seed in range(3)] if kind == "int8_static" else ()
    return quantize(model, Scheme(kind, **{"group_size": 32, **settings}), batches)  # type: ignore[arg-type]


def said(model: Any, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return logits(model, ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_says_nearly_the_same_and_is_saved_to_the_bit(
    name: str, kind: str, trained: Trained, tmp_path: Path
) -> None:
    model, ids = trained(name), texts(64, 99)
    wanted = said(model, ids)
    report = quantized(model, kind)
    found = said(model, ids)
    assert float((found - wanted).norm() / wanted.norm()) < FORGIVEN[kind]
    agree = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
    assert agree >= (0.97 if kind == "int4" else 0.99)
    assert all(isinstance(model.get_submodule(each), QuantizedLinear) for each in report.changed)
    assert report.bytes_after < report.bytes_before
    layers = [each for each in model.modules() if isinstance(each, QuantizedLinear)]
    assert len(layers) == len(report.changed) >= 8

    save(model, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.stem != "generation_config") == [
        ".json", ".safetensors",
    ]  # fmt: skip
    config = type(model.config).from_pretrained(str(tmp_path))
    assert getattr(config, FIELD) == report.description
    again = restore(type(model)(config), tmp_path)
    assert torch.equal(said(again, ids), found)
    assert again.training is False
    with pytest.raises(CorruptArtifact, match="lacks weights"):
        load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "transformer", "transformer_xl"])
def test_it_writes_token_after_token_what_it_says_of_a_whole_text(name: str, kind: str, trained: Trained) -> None:
    model, ids = trained(name), texts(3, 5)
    quantized(model, kind)
    decoder = decoder_of(model, 0, torch.device("cpu"))
    with torch.inference_mode():
        decoder.admit(ids[:, :6].tolist())
        stepped = decoder.step(ids[:, 6])
        if model.config.is_encoder_decoder:
            whole = model(input_ids=ids[:, :6], decoder_input_ids=ids[:, 5:7]).logits[:, -1]
        else:
            whole = model(input_ids=ids[:, :7]).logits[:, -1]
    assert torch.equal(stepped.argmax(-1), whole.argmax(-1))
    # Other sums in float32 put an activation on the other side of a step now and then.
    assert float((stepped - whole).norm() / whole.norm()) < 0.02


def test_measured_scales_are_less_exact_than_a_tokens_own(trained: Trained) -> None:
    off = {}
    for kind in ("int8_dynamic", "int8_static"):
        off[kind] = 0.0
        for name in ("gpt2", "llama", "bert", "transformer"):
            model, ids = trained(name), texts(64, 99)
            wanted = said(model, ids)
            quantized(model, kind)
            off[kind] += float((said(model, ids) - wanted).norm() / wanted.norm())
    assert off["int8_dynamic"] < off["int8_static"] < 4 * off["int8_dynamic"]


def test_smaller_groups_are_more_exact(trained: Trained) -> None:
    off = []
    for size in (32, 64):
        model, ids = trained("llama"), texts(64, 99)
        wanted = said(model, ids)
        quantized(model, "int4", group_size=size)
        off.append(float((said(model, ids) - wanted).norm()))
    assert off[0] < off[1]


class _Pair(nn.Module):
    """The same layer as GPT-2 writes it and as others do."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="pair")
        self.one, self.two = Conv1D(96, 64), nn.Linear(64, 96)
        with torch.no_grad():
            self.two.weight.copy_(self.one.weight.t())
            self.two.bias.copy_(self.one.bias.normal_())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.two(x)


@pytest.mark.parametrize("kind", KINDS)
def test_gpt2s_layers_become_what_linear_ones_do(kind: str) -> None:
    torch.manual_seed(0)
    model, reads = _Pair(), torch.randn(2, 7, 64)
    before = model(reads)[0].detach()
    quantize(model, Scheme(kind, 32), [{"x": reads}] if kind == "int8_static" else ())  # type: ignore[arg-type]
    one, two = model(reads)
    assert torch.equal(one, two)
    assert float((one - before).norm() / before.norm()) < 0.15
    for name, each in model.one.state_dict().items():
        assert torch.equal(each, model.two.state_dict()[name])


def test_the_output_layer_is_left_unless_asked_for(trained: Trained, tmp_path: Path) -> None:
    for name, layer in (("gpt2", "lm_head"), ("t5", "lm_head"), ("bert", "cls.predictions.decoder")):
        model, ids = trained(name), texts(32, 99)
        wanted = said(model, ids)
        report = quantized(copy.deepcopy(model), "int8_dynamic", skip=("*.0.*",))
        assert report.left[layer] == "it is the output layer"
        assert any(why == "skip names it" for why in report.left.values())
        # Larger than this one, it would be quantised.
        grown = _with_vocabulary(model, 4 * VOCABULARY)
        embedding = grown.get_input_embeddings().weight
        before = embedding.clone()
        report = quantized(grown, "int8_dynamic", output=True)
        assert layer in report.changed
        assert torch.equal(grown.get_input_embeddings().weight, before)
        found = said(grown, ids)[..., :VOCABULARY]
        assert float((found - wanted).norm() / wanted.norm()) < 0.03
        folder = tmp_path / name
        save(grown, folder)
        again = restore(type(grown)(type(grown.config).from_pretrained(str(folder))), folder)
        assert torch.equal(said(again, ids)[..., :VOCABULARY], found)


def _with_vocabulary(model: Any, size: int) -> Any:
    """Returns a model with further tokens."""
    grown = copy.deepcopy(model)
    grown.resize_token_embeddings(size, mean_resizing=False)
    return grown


def test_memory_is_counted_as_it_is_held() -> None:
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=100, n_embd=512, n_layer=2, n_head=4, n_positions=64)
    for kind, bits in (("int8_dynamic", 8), ("int4", 4.5)):
        model = GPT2LMHeadModel(shape).eval()
        assert bytes_of(model) == 4 * model.num_parameters()
        rest = bytes_of(model.transformer.wte) + bytes_of(model.transformer.wpe)
        report = quantize(model, Scheme(kind, 64))  # type: ignore[arg-type]
        assert report.bytes_before == 4 * sum(each.numel() for each in GPT2LMHeadModel(shape).parameters())
        weights = 2 * 12 * 512 * 512
        assert report.bytes_after - rest == pytest.approx(weights * bits / 8, rel=0.03)
        with torch.inference_mode():
            model(torch.tensor([[1, 2, 3]]))
        if kind == "int4" or has_int8_kernel():  # without a kernel the weights are made floats once
            assert bytes_of(model) == pytest.approx(report.bytes_after, rel=0.02)  # the larger ones are packed now


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_are_small_tensors_and_plain_json(kind: str, trained: Trained, tmp_path: Path) -> None:
    model = trained("gpt2")
    report = quantized(model, kind)
    assert json.loads(json.dumps(report.description)) == report.description
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stored = [each for name, each in tensors.items() if name.endswith((".integers", ".packed"))]
    assert len(stored) == len(report.changed)
    assert {each.dtype for each in stored} == {torch.uint8 if kind == "int4" else torch.int8}
    assert not any(name.startswith("transformer.h.0.mlp") and name.endswith("weight") for name in tensors)


def test_gradients_of_what_it_reads_can_still_be_asked_for(trained: Trained) -> None:
    model, ids = trained("gpt2"), texts(4, 3)
    vectors = model.get_input_embeddings()(ids).detach()

    def gradient() -> Tensor:
        reads = vectors.clone().requires_grad_(True)
        return torch.autograd.grad(model(inputs_embeds=reads).logits.logsumexp(-1).sum(), reads)[0]

    wanted = gradient()
    quantized(model, "int8_dynamic")
    assert float((gradient() - wanted).norm() / wanted.norm()) < 0.1
    assert not any(each.requires_grad for each in model.parameters())


def test_refusals(trained: Trained, tmp_path: Path) -> None:
    model = trained("gpt2")
    with pytest.raises(RequestError, match="no quantisation 'int3'"):
        Scheme("int3")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="group_size is 48"):
        Scheme("int4", 48)
    with pytest.raises(RequestError, match=r"skip names '\*.c_projj', which fits no layer"):
        quantize(model, Scheme("int4", skip=("*.c_projj",)))
    with pytest.raises(RequestError, match="no linear layer"):
        quantize(model, Scheme("int4", skip=("*",)))
    with pytest.raises(RequestError, match="nothing to measure activations with"):
        quantize(model, Scheme("int8_static"))
    for name in ("transformer", "transformer_xl", "tagger"):
        with pytest.raises(RequestError, match=r"the output layer of llmyard_.* cannot be quantised"):
            quantize(trained(name), Scheme("int8_dynamic", output=True))
    assert not hasattr(model.config, FIELD)
    assert float(loss(model, texts(8))) < 0.1  # nothing was changed
    quantized(model, "int8_dynamic")
    with pytest.raises(RequestError, match="quantised already"):
        quantize(model, Scheme("int4"))


def test_a_layer_that_no_batch_reached_is_left() -> None:
    model = _Pair()
    report = quantize(model, Scheme("int8_static"), [torch.randn(3, 64)], lambda batch: model.one(batch))
    assert report.changed == ("one",)
    assert report.left == {"two": "no batch reached it"}


def test_widths_that_no_group_divides_are_left_and_groups_shrink_where_they_must() -> None:
    model = _Pair()
    model.two = nn.Linear(80, 96)
    report = quantize(model, Scheme("int4", 128))
    assert report.changed == ("one",)
    assert report.left == {"two": "its width 80 is no multiple of 32"}
    assert model.one.group_size == 64
    fresh = _Pair()
    prepare(fresh, report.description)
    fresh.one.load_state_dict(model.one.state_dict())
    reads = torch.randn(3, 64)
    assert torch.equal(fresh.one(reads), model.one(reads))


def test_what_does_not_fit_is_not_restored(trained: Trained, tmp_path: Path) -> None:
    model = trained("gpt2")
    with pytest.raises(RequestError, match="is not quantised"):
        restore(make("gpt2"), tmp_path)
    report = quantized(model, "int8_dynamic")
    for wrong in ({**report.description, "layers": ["none"]}, {**report.description, "kind": "int3"}, {}):
        with pytest.raises(CorruptArtifact, match=f"{FIELD} does not fit it"):
            prepare(make("gpt2"), wrong)

    def fresh() -> Any:
        other = make("gpt2")
        setattr(other.config, FIELD, report.description)
        return other

    with pytest.raises(RequestError, match=r"holds no model\.safetensors"):
        restore(fresh(), tmp_path)
    save(trained("gpt2"), tmp_path)
    with pytest.raises(CorruptArtifact, match="disagree on"):
        restore(fresh(), tmp_path)
    save(quantized_copy(trained("gpt2")), tmp_path)
    small = make("llama")
    setattr(small.config, FIELD, {**report.description, "layers": ["model.layers.0.mlp.up_proj"]})
    with pytest.raises(CorruptArtifact, match="disagree on"):
        restore(small, tmp_path)


def quantized_copy(model: Any) -> Any:
    quantized(model, "int8_dynamic")
    return model
