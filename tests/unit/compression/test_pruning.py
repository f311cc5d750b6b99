"""Pruned models compute what the whole ones do without the parts that went."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FAMILIES, logits, loss, make, texts
from torch import Tensor

from llmyard.compression.importance import Importance, by_magnitude, by_taylor
from llmyard.compression.pruning import Pruned, Target, losses_without_layers, prune
from llmyard.compression.quantizing import Scheme, quantize
from llmyard.compression.structure import Part, structure_of
from llmyard.core.errors import RequestError
from llmyard.generation.decoders import decoder_of
from llmyard.models.families import load, save

Trained = Callable[[str], Any]
HEADS = ["llama", "t5", "gated t5"]
# What a layer adds to its input is what comes out of these.
LAST = ("c_proj", "o_proj", "down_proj", "o", "wo", "output", "outer")
PRE_NORM = ["gpt2", "llama", "t5", "gated t5", "transformer", "transformer_xl"]


def drawn(model: Any, seed: int = 0) -> Importance:
    """Returns scores that say nothing."""
    generator, structure = torch.Generator().manual_seed(seed), structure_of(model)
    parts = (*structure.feed_forward, *structure.heads)
    layers = [stack.layer(number) for stack in structure.stacks for number in range(stack.count)]
    scores = torch.rand(len(layers), generator=generator).tolist()
    units = {part.name: torch.rand(part.count, generator=generator) for part in parts}
    return Importance(units, dict(zip(layers, scores, strict=True)))


@torch.no_grad()
def masked(model: Any, parts: tuple[Part, ...], report: Pruned) -> Any:
    """Returns a model of the whole size whose units have no effect where they went."""
    whole = copy.deepcopy(model)
    weights = dict(whole.named_parameters())
    for part in parts:
        gone = torch.tensor([unit for unit in range(part.count) if unit not in report.units[part.name]])
        width = part.acts.width
        places = (gone[:, None] * width + torch.arange(width)).flatten()
        weights[part.acts.name].index_fill_(part.acts.dim, places, 0.0)
    return whole


@torch.no_grad()
def without(model: Any, report: Pruned) -> Any:
    """Returns a model of the whole size whose layers add nothing where they went."""
    whole = copy.deepcopy(model)
    for stack, kept in zip(structure_of(model).stacks, report.layers, strict=True):
        gone = [stack.layer(number) for number in range(stack.count) if number not in kept]
        for name, weight in whole.named_parameters():
            if name.startswith(tuple(gone)) and name.split(".")[-2] in LAST:
                weight.zero_()
    return whole


def said(model: Any, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return logits(model, ids)


def check(report: Pruned, wanted: Any, folder: Path) -> None:
    """Checks that a pruned model says what another does, before and after it was saved."""
    ids = texts(16, 99)
    found = said(report.model, ids)
    assert torch.allclose(found, said(wanted, ids), atol=2e-5)
    save(report.model, folder)
    again = load(folder)
    assert type(again) is type(report.model)
    assert torch.equal(said(again, ids), found)
    assert report.parameters_after == again.num_parameters() < report.parameters_before


@pytest.mark.parametrize("name", FAMILIES)
def test_feed_forward_units_go(name: str, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    report = prune(model, Target(feed_forward_size=40), drawn(model))
    parts = structure_of(model).feed_forward
    assert {len(kept) for kept in report.units.values()} == {40}
    assert len({report.units[part.name] for part in parts}) == len(parts)  # each layer its own
    check(report, masked(model, parts, report), tmp_path)
    assert {part.count for part in structure_of(report.model).feed_forward} == {40}
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_heads_go(name: str, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    report = prune(model, Target(heads=2), drawn(model))
    structure = structure_of(model)
    check(report, masked(model, structure.heads, report), tmp_path)
    config = report.model.config
    assert (config.num_heads, config.d_kv) == (2, model.config.d_kv) if "t5" in name else config.head_dim == 16
    if name == "llama":
        assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)


def test_heads_that_share_nothing_go_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make("llama")
    config = copy.deepcopy(model.config)
    config.num_key_value_heads, config.attention_bias, config.mlp_bias = 4, True, True
    model = type(model)(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    report = prune(model, Target(heads=1, feed_forward_size=17), drawn(model))
    structure = structure_of(model)
    check(report, masked(model, (*structure.heads, *structure.feed_forward), report), tmp_path)
    assert len({report.units[part.name] for part in structure.heads}) > 1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PRE_NORM)
def test_layers_go(name: str, seed: int, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    more = {"decoder_layers": 1} if len(structure_of(model).stacks) == 2 else {}
    report = prune(model, Target(layers=1, **more), drawn(model, seed))
    check(report, without(model, report), tmp_path)


@pytest.mark.parametrize(
    ("name", "path"), [("bert", "bert.encoder.layer"), ("tagger", "bert.encoder.layer"),
                       ("classifier", "bert.encoder.layer"), ("roberta", "roberta.encoder.layer"),
                       ("post-norm transformer", "decoder_layers")],
)  # fmt: skip
def test_layers_that_normalise_last_go(name: str, path: str, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    decoder = path == "decoder_layers"
    report = prune(model, Target(**{"decoder_layers" if decoder else "layers": 1}), drawn(model))
    whole, kept = copy.deepcopy(model), report.layers[-1]
    parent, _, last = path.rpartition(".")
    setattr(
        whole.get_submodule(parent), last, torch.nn.ModuleList(whole.get_submodule(path)[number] for number in kept)
    )
    check(report, whole, tmp_path)


@pytest.mark.parametrize("name", ["llama", "t5", "gated t5"])
def test_all_at_once(name: str, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    more = {"decoder_layers": 1} if "t5" in name else {}
    report = prune(model, Target(feed_forward_size=33, heads=2, layers=1, **more), drawn(model))
    structure = structure_of(model)
    parts = tuple(part for part in (*structure.feed_forward, *structure.heads) if part.name in report.units)
    assert 0 < len(parts) < len(structure.feed_forward) + len(structure.heads)
    check(report, without(masked(model, parts, report), report), tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "transformer"])
def test_a_pruned_model_writes_with_its_cache(name: str, trained: Trained) -> None:
    model = trained(name)
    more = {"decoder_layers": 1} if model.config.is_encoder_decoder else {}
    pruned = prune(model, Target(feed_forward_size=50, layers=2, **more), by_magnitude(model)).model
    ids = texts(3, 5)
    with torch.inference_mode():
        decoder = decoder_of(pruned, 0, torch.device("cpu"))
        decoder.admit(ids[:, :6].tolist())
        stepped = decoder.step(ids[:, 6])
        if model.config.is_encoder_decoder:
            whole = pruned(input_ids=ids[:, :6], decoder_input_ids=ids[:, 5:7]).logits[:, -1]
        else:
            whole = pruned(input_ids=ids[:, :7]).logits[:, -1]
    assert torch.allclose(stepped, whole, atol=1e-4)


# BERT and its kin can do this task without any inner unit.
@pytest.mark.parametrize("name", [*PRE_NORM, "post-norm transformer"])
def test_what_the_loss_says_matters_is_kept(name: str, trained: Trained) -> None:
    model, batches = trained(name), [texts(8, seed) for seed in range(4)]
    found = {
        "taylor": by_taylor(model, batches, loss), "magnitude": by_magnitude(model), "drawn": drawn(model),
    }  # fmt: skip
    found["worst"] = Importance({name: -each for name, each in found["taylor"].units.items()}, {})
    held = texts(64, 99)
    after = {}
    for kind, importance in found.items():
        with torch.no_grad():
            after[kind] = float(loss(prune(model, Target(feed_forward_size=40), importance).model, held))
    assert after["taylor"] < after["drawn"] < after["worst"]
    assert after["magnitude"] < after["worst"]


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_heads_that_the_loss_says_matter_are_kept(name: str, trained: Trained) -> None:
    model = trained(name)
    best = by_taylor(model, [texts(8, seed) for seed in range(4)], loss)
    worst = Importance({name: -each for name, each in best.units.items()}, {})
    held = texts(64, 99)
    with torch.no_grad():
        after = [float(loss(prune(model, Target(heads=2), each).model, held)) for each in (best, worst)]
    assert after[0] < after[1]


def test_taylor_scores_are_weights_times_gradients(trained: Trained) -> None:
    model, batches = trained("transformer"), [texts(8, seed) for seed in range(3)]
    wanted, layer = torch.zeros(96), 0.0
    for batch in batches:
        model.zero_grad()
        loss(model, batch).backward()
        weight = model.decoder_layers[1].feed.outer.weight
        wanted += (weight * weight.grad).abs().sum(0).detach()
        layer += sum(float((each.detach() * each.grad).abs().sum()) for each in model.decoder_layers[1].parameters())
    model.zero_grad()
    model.requires_grad_(False).train()
    found = by_taylor(model, batches, loss)
    assert model.training
    assert not any(each.requires_grad or each.grad is not None for each in model.parameters())
    assert torch.allclose(found.units["decoder_layers.1.feed"], wanted, rtol=1e-3, atol=1e-6)
    assert found.layers["decoder_layers.1."] == pytest.approx(layer, rel=1e-3)
    names = [f"encoder_layers.{at}." for at in range(2)] + [f"decoder_layers.{at}." for at in range(3)]
    assert list(found.layers) == names


@pytest.mark.parametrize("name", ["gpt2", "t5", "transformer_xl", "bert"])
def test_losses_tell_which_layer_is_missed_least(name: str, trained: Trained) -> None:
    model, batches = trained(name), [texts(16, seed) for seed in range(2)]
    found = losses_without_layers(model, batches, loss)
    stack = structure_of(model).stacks[0]
    assert len(found) == sum(each.count for each in structure_of(model).stacks)
    report = prune(model, Target(layers=stack.count - 1), Importance({}, found))
    (gone,) = set(range(stack.count)) - set(report.layers[0])
    assert losses_without_layers(report.model, batches, loss).keys() < found.keys()
    least = min(range(stack.count), key=lambda number: found[stack.layer(number)])
    assert gone == least
    with torch.no_grad():
        mean = sum(float(loss(report.model, batch)) for batch in batches) / 2
    assert mean == pytest.approx(found[stack.layer(least)], rel=1e-4)


def test_a_units_magnitude_is_the_norm_of_its_weights(trained: Trained) -> None:
    model = trained("gpt2")
    scores = by_magnitude(model)
    mlp = model.transformer.h[1].mlp
    rows = torch.cat([mlp.c_fc.weight.t(), mlp.c_fc.bias[:, None], mlp.c_proj.weight], 1)
    assert torch.allclose(scores.units["transformer.h.1.mlp"], rows.norm(dim=1))
    llama = trained("llama")
    attention = llama.model.layers[0].self_attn
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight, attention.o_proj.weight.t()]
    wanted = sum(each.reshape(2, -1).square().sum(1) for each in weights).sqrt()
    assert torch.allclose(by_magnitude(llama).units["model.layers.0.self_attn"], wanted)


def test_pruning_draws_nothing(trained: Trained) -> None:
    model = trained("gpt2")
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    prune(model, Target(layers=1), by_magnitude(model))
    assert torch.equal(torch.rand(4), wanted)


def test_a_pruned_model_can_be_quantised(trained: Trained) -> None:
    model, ids = trained("bert"), texts(32, 99)
    pruned = prune(model, Target(feed_forward_size=64), by_taylor(model, [texts(8)], loss)).model
    wanted = said(pruned, ids)
    quantize(pruned, Scheme("int4", 64))
    assert float((said(pruned, ids) - wanted).norm() / wanted.norm()) < 0.25
    with pytest.raises(RequestError, match="the model is quantised"):
        by_magnitude(pruned)


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("gpt2", Target(heads=2), "heads of gpt2 cannot be taken out"),
        ("bert", Target(heads=2), "heads of bert cannot be taken out"),
        ("transformer", Target(heads=2), "heads of llmyard_transformer cannot be taken out"),
        ("transformer_xl", Target(heads=2), "heads of llmyard_transformer_xl cannot"),
        ("tagger", Target(heads=2), "heads of llmyard_span_tagger cannot be taken out"),
        ("llama", Target(heads=3), "2 heads share keys and values"),
        ("t5", Target(heads=5), "heads is 5; the model has 4"),
        ("gpt2", Target(feed_forward_size=0), "feed_forward_size is 0; the model has 256"),
        ("gpt2", Target(layers=4), "layers is 4; the model has 3"),
        ("gpt2", Target(decoder_layers=1), "gpt2 has no decoder of its own"),
        ("t5", Target(decoder_layers=3), "decoder_layers is 3; the model has 2"),
    ],
)
def test_refusals(name: str, target: Target, message: str, trained: Trained) -> None:
    model = trained(name)
    with pytest.raises(RequestError, match=message):
        prune(model, target, drawn(model))


def test_further_refusals(trained: Trained) -> None:
    gpt2, llama = trained("gpt2"), trained("llama")
    with pytest.raises(RequestError, match="there is no importance of model"):
        prune(llama, Target(heads=2), by_magnitude(gpt2))
    with pytest.raises(RequestError, match="there is no importance of model"):
        prune(llama, Target(layers=2), by_magnitude(gpt2))
    with pytest.raises(RequestError, match="there is no batch"):
        by_taylor(gpt2, [], loss)
    with pytest.raises(RequestError, match="there is no batch"):
        losses_without_layers(gpt2, [], loss)
    gpt2.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(RequestError, match="scaled by the number of its layer"):
        prune(gpt2, Target(layers=1), drawn(gpt2))
    llama.config.model_type = "mamba"
    with pytest.raises(RequestError, match="a model of type 'mamba' cannot be pruned"):
        by_magnitude(llama)


def test_a_llama_has_only_heads_that_divide_its_width() -> None:
    model = make("llama")
    config = copy.deepcopy(model.config)
    config.num_key_value_heads = 4
    model = type(model)(config)
    with pytest.raises(RequestError, match="heads is 3, which does not divide hidden_size 64") as caught:
        prune(model, Target(heads=3), drawn(model))
    assert "llama can have 1, 2 heads" in str(caught.value)
