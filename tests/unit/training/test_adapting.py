"""Ways of fine-tuning: what is trained, what stays as it was, and adapters that come back as they were saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama
from llmyard.models.families import ClassHead, build, labeller_from, load, save
from llmyard.models.growing import grow
from llmyard.tokens.growth import Growth
from llmyard.training.adapting import adapt, load_adapted, merge, rate_scales, save_adapter
from llmyard.training.config import AdamW
from llmyard.training.layout import Layout
from llmyard.training.methods import Frozen, Full, Lora, PromptTuning
from llmyard.training.optimizers import make_optimizers

SHAPES: dict[str, Any] = {
    "gpt2": Gpt2(layers=3, hidden_size=16, heads=2),
    "llama": Llama(layers=3, hidden_size=16, heads=2, feed_forward_size=32),
    "t5": T5(encoder_layers=3, decoder_layers=3, hidden_size=16, heads=2, feed_forward_size=32),
    "transformer": EncoderDecoder(encoder_layers=3, decoder_layers=3, hidden_size=16, heads=2, feed_forward_size=32),
}
ROWS = 30


def made(family: str) -> Any:
    torch.manual_seed(0)
    return build(SHAPES[family], vocab_size=ROWS, pad_id=0, end_id=1, max_tokens=16)


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **more).logits  # type: ignore[no-any-return]


def learn(model: Any, steps: int = 3, ids: tuple[int, ...] = (5, 6, 29)) -> None:
    model.train()
    optimizers = make_optimizers(model, AdamW(learning_rate=0.05, weight_decay=0.1))
    for _ in range(steps):
        optimizers.zero_grad()
        row = torch.tensor([ids])
        more = {"decoder_input_ids": row} if model.config.is_encoder_decoder else {}
        model(input_ids=row, **more).logits.float().square().mean().backward()
        optimizers.step()
    model.eval()


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


@pytest.mark.parametrize("family", SHAPES)
def test_lora_begins_as_its_base_and_comes_back_as_it_was_saved(family: str, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    save(made(family), base)
    model = load(base)
    before = logits(model.eval()).detach()
    method = Lora(rank=4)
    adapt(model, method, ROWS)
    torch.testing.assert_close(logits(model.eval()), before, rtol=0, atol=1e-5)
    kept = {name: each for name, each in state(model).items() if "lora_" not in name}
    learn(model)
    after = logits(model).detach()
    assert (after - before).abs().max() > 1e-3
    for name, each in state(model).items():
        if name in kept:
            assert torch.equal(each, kept[name]), name
    save_adapter(model, method, "checkpoint/base@1", folder)
    torch.testing.assert_close(logits(load_adapted(base, folder)), after, rtol=1e-4, atol=1e-4)
    merge(model)
    torch.testing.assert_close(logits(model), after, rtol=1e-4, atol=1e-4)
    assert not any("lora_" in name for name in model.state_dict())
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert size < sum(file.stat().st_size for file in base.glob("*.safetensors"))


@pytest.mark.parametrize("family", SHAPES)
def test_prompt_tuning_changes_the_new_rows_alone(family: str, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    save(made(family), base)
    model = load(base)
    nothing = torch.zeros(0, dtype=torch.long).numpy()
    grow(model, Growth(ROWS, ROWS, nothing, nothing, None), None, 4)  # type: ignore[arg-type]
    assert model.config.vocab_size == ROWS + 4
    method = PromptTuning(tokens=4)
    adapt(model, method, ROWS)
    before = state(model)
    learn(model, ids=(30, 31, 32, 33, 5))
    changed = {name for name, each in state(model).items() if not torch.equal(each, before[name])}
    weight = model.get_input_embeddings().weight
    assert all(model.state_dict()[name].shape == weight.shape for name in changed)
    assert changed
    for name in changed:
        assert torch.equal(state(model)[name][:ROWS], before[name][:ROWS])
    save_adapter(model, method, "checkpoint/base@1", folder)
    torch.testing.assert_close(logits(load_adapted(base, folder)), logits(model), rtol=1e-5, atol=1e-5)
    assert (folder / "adapter_model.safetensors").stat().st_size < 4_000


def test_the_heads_of_a_labelling_model_are_trained_beside_lora(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    torch.manual_seed(0)
    shape = Bert(layers=2, hidden_size=16, heads=2, feed_forward_size=32)
    save(build(shape, vocab_size=ROWS, pad_id=0, end_id=1, max_tokens=16), base)
    model = labeller_from(load(base), ClassHead(("a", "b", "c"), 2))
    method = Lora(rank=2)
    adapt(model, method, ROWS)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {"classify.weight", "classify.bias", "gather.weight"} <= trained
    parts = "bert.embeddings.token_type_embeddings.weight"  # what tells the parts apart is new too
    assert all("lora_" in name or not name.startswith("bert.") or name == parts for name in trained)
    tokens, parts = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[0, 1, 2, 0]])
    optimizers = make_optimizers(model, AdamW(learning_rate=0.05))
    for _ in range(3):
        optimizers.zero_grad()
        model(tokens, parts).square().sum().backward()
        optimizers.step()
    model.eval()
    save_adapter(model, method, "checkpoint/base@1", folder)
    torch.testing.assert_close(load_adapted(base, folder)(tokens, parts), model(tokens, parts), rtol=1e-4, atol=1e-5)


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    model = made("gpt2")
    adapt(model, Lora(rank=2), ROWS)
    save_adapter(model, Lora(rank=2), "checkpoint/x@1", folder)
    torch.manual_seed(0)
    save(build(Gpt2(layers=2, hidden_size=16, heads=2), vocab_size=ROWS, pad_id=0, end_id=1, max_tokens=16), base)
    with pytest.raises(CorruptArtifact, match="of another model"):
        load_adapted(base, folder)


@pytest.mark.parametrize("family", SHAPES)
def test_frozen_layers_stay(family: str) -> None:
    model = made(family)
    adapt(model, Frozen(layers=2), ROWS)
    before = state(model)
    learn(model)
    changed = {name for name, each in state(model).items() if not torch.equal(each, before[name])}
    assert changed
    firsts = [int(found.group(1)) for found in (re.search(r"\.(\d+)\.", name) for name in changed) if found]
    assert set(firsts) == {2}
    assert all(model.state_dict()[name].shape[:1] != (ROWS,) for name in changed)
    with pytest.raises(RequestError, match="the model has 3"):
        adapt(made(family), Frozen(layers=4), ROWS)


@pytest.mark.parametrize("family", ["llama", "t5", "transformer"])
def test_qlora_learns_on_a_base_in_four_bits_and_is_put_on_the_whole_one(family: str, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    save(made(family), base)
    model, method = load(base), Lora(rank=2, quantize="nf4")
    folder.mkdir()
    before = logits(model).detach()
    whole = sum(each.numel() * each.element_size() for each in model.parameters())
    adapt(model, method, ROWS)
    frozen = {name: each.clone() for name, each in model.named_parameters() if not each.requires_grad}
    assert any(each.dtype == torch.uint8 for each in frozen.values())
    assert sum(each.numel() * each.element_size() for each in frozen.values()) < 0.7 * whole
    untrained = logits(model).detach()
    assert 0 < float((untrained - before).norm() / before.norm()) < 0.5  # near its base
    assert not [name for name in Layout(model).weights() if "lora_" not in name]
    learn(model)
    assert all(torch.equal(each, frozen[name]) for name, each in model.named_parameters() if name in frozen)
    save_adapter(model, method, "checkpoint/base@1", folder)
    loaded = load_adapted(base, folder)
    assert all(each.dtype == torch.float32 for each in loaded.parameters())
    moved, said = logits(model).detach() - untrained, logits(loaded).detach() - before
    assert float(torch.nn.functional.cosine_similarity(moved.flatten(), said.flatten(), 0)) > 0.8


def test_qlora_needs_matrices_of_its_kind_and_does_not_merge() -> None:
    with pytest.raises(RequestError, match="no matrices that can be kept in 4 bits"):
        adapt(made("gpt2"), Lora(quantize="nf4"), ROWS)
    with pytest.raises(ValueError, match="4 bits"):
        Lora(quantize="nf4", merge=True)


def test_lower_layers_learn_slower() -> None:
    model = made("gpt2")
    scales = rate_scales(model, Full(layer_decay=0.5))
    assert scales["transformer.h.2.attn.c_attn.weight"] == 0.5
    assert scales["transformer.h.0.attn.c_attn.weight"] == 0.125
    assert scales["transformer.wte.weight"] == scales["transformer.wpe.weight"] == 0.0625
    assert "transformer.ln_f.weight" not in scales
    assert rate_scales(model, Full()) == {}
    optimizers = make_optimizers(model, AdamW(), scales)
    optimizers.set_learning_rate(1.0)
    by_name = {id(each): name for name, each in model.named_parameters()}
    rates = {by_name[id(each)]: group["lr"] for group in optimizers.groups for each in group["params"]}
    assert rates == {name: scales.get(name, 1.0) for name in rates}
    assert len(rates) == len(by_name)
