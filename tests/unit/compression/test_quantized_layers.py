"""Linear layers with integer weights: how far they are from the layers they stand for, and that copies are the same."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmyard.compression import int4, int8
from llmyard.compression.int4 import Int4Linear
from llmyard.compression.int8 import Int8Linear
from llmyard.compression.quantized_linear import QuantizedLinear

LARGE = (1024, 1000)  # packed as a whole
SHAPES = [(64, 64), (96, 40), LARGE]


def layer_of(kind: str, linear: nn.Linear, reads: Tensor) -> QuantizedLinear:
    inputs, outputs = linear.in_features, linear.out_features
    layer: Any = Int4Linear(inputs, outputs, linear.bias, 32)
    if kind != "int4":
        layer = Int8Linear(inputs, outputs, linear.bias, static=kind == "int8_static")
    layer.take(linear.weight.detach())
    if kind == "int8_static":
        layer.take_range(float(reads.min()), float(reads.max()))
    return layer.requires_grad_(False)


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "bound"), [("int8_dynamic", 0.012), ("int8_static", 0.015), ("int4", 0.09)])
def test_what_a_layer_makes_is_near_and_that_of_the_slow_way(
    kind: str, bound: float, shape: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    linear, reads = nn.Linear(*shape, bias=bias), torch.randn(3, 5, shape[0]) + 0.5
    layer = layer_of(kind, linear, reads)
    with torch.no_grad():
        made, wanted = layer(reads), linear(reads)
    assert distance(made, wanted) < bound
    # The 4-bit kernel reads activations in bfloat16.
    assert distance(made, layer._reference(reads)) < (3e-3 if kind == "int4" else 1e-6)
    assert distance(layer.weights(), linear.weight.detach()) < (0.08 if kind == "int4" else 0.005)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["int8_dynamic", "int8_static", "int4"])
def test_a_layer_that_was_used_can_be_saved_copied_and_moved(kind: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    linear, reads = nn.Linear(*shape), torch.randn(4, shape[0])
    layer = layer_of(kind, linear, reads)
    before = {name: each.clone() for name, each in layer.state_dict().items()}
    with torch.inference_mode():
        made = layer(reads)
    assert (layer._kernel is not None) == (kind != "int4" or int4.has_int4_kernel())
    after = layer.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert all(each.is_contiguous() for each in after.values())
    other = layer_of(kind, nn.Linear(*shape), reads)
    other(reads)
    other.load_state_dict(after)
    moved = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    moved.load_state_dict(after)
    for each in (copy.deepcopy(layer), layer.to("cpu"), layer.float(), other, moved):
        assert torch.equal(each(reads), made)


@pytest.mark.parametrize("kind", ["int8_dynamic", "int8_static", "int4"])
def test_first_use_by_several_threads_at_once(kind: str) -> None:
    torch.manual_seed(0)
    linear, reads = nn.Linear(*LARGE), torch.randn(2, LARGE[0])
    layer = layer_of(kind, linear, reads)
    wanted, found = copy.deepcopy(layer)(reads), []
    threads = [threading.Thread(target=lambda: found.append(layer(reads))) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 6
    assert all(torch.equal(each, wanted) for each in found)


@pytest.mark.skipif(not int8.has_int8_kernel(), reason="sums of floating point differ with their order")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_neighbours_in_a_batch_change_nothing(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    reads = torch.randn(20, shape[0]) * torch.logspace(-3, 3, 20)[:, None]
    layer = layer_of("int8_dynamic", nn.Linear(*shape), reads)
    alone = torch.cat([layer(each[None]) for each in reads])
    assert torch.equal(layer(reads), alone)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["int8_dynamic", "int8_static", "int4"])
def test_zeros_and_numbers_that_are_none(kind: str, shape: tuple[int, int]) -> None:
    linear = nn.Linear(*shape)
    with torch.no_grad():
        linear.weight[0] = 0
    layer = layer_of(kind, linear, torch.tensor([-1.0, 3.0]))
    reads = torch.zeros(3, shape[0])
    bias = linear.bias.detach()
    assert torch.allclose(layer(reads), bias.expand(3, -1), atol=1e-6)
    assert torch.allclose(layer(torch.randn(2, shape[0]))[:, 0], bias[0].expand(2), atol=1e-5)
    assert layer(torch.zeros(0, 5, shape[0])).shape == (0, 5, shape[1])
    if kind != "int8_static":  # where what is beyond the range is cut
        reads[1, 2] = torch.nan
        assert layer(reads)[1].isnan().all()
        assert not layer(reads)[[0, 2]].isnan().any()


def test_fixed_steps_cut_what_is_beyond_their_range() -> None:
    linear = nn.Linear(64, 64)
    layer = layer_of("int8_static", linear, torch.tensor([-1.0, 2.0]))
    reads = 3 * torch.randn(5, 64)
    with torch.no_grad():
        assert distance(layer(reads), linear(reads.clamp(-1, 2))) < 0.02


@pytest.mark.parametrize("kind", ["int8_dynamic", "int8_static", "int4"])
def test_without_kernels_the_same_comes_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    linear, reads = nn.Linear(96, 40), torch.randn(7, 96)
    layer = layer_of(kind, linear, reads)
    fast = copy.deepcopy(layer)(reads)
    monkeypatch.setattr(int8, "has_int8_kernel", lambda: False)
    monkeypatch.setattr(int4, "has_int4_kernel", lambda: False)
    slow = layer(reads)
    assert (layer._kernel is None) == (kind == "int4")
    assert distance(slow, fast) < (3e-3 if kind == "int4" else 1e-6)
    assert layer(reads.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["int8_dynamic", "int8_static", "int4"])
def test_gradients_reach_the_input(kind: str) -> None:
    torch.manual_seed(0)
    linear, reads = nn.Linear(64, 40), torch.randn(7, 64, requires_grad=True)
    layer = layer_of(kind, linear, reads.detach())
    (gradient,) = torch.autograd.grad(layer(reads).square().sum(), reads)
    (wanted,) = torch.autograd.grad(linear(reads).square().sum(), reads)
    assert distance(gradient, wanted) < (0.12 if kind == "int4" else 0.02)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), group=st.sampled_from([32, 64, 128]), scale=st.floats(-12, 8), shift=st.floats(-4, 4),
    outlier=st.booleans(), zeros=st.booleans(),
)  # fmt: skip
def test_no_weight_of_4_bits_is_further_off_than_half_a_step(
    seed: int, group: int, scale: float, shift: float, outlier: bool, zeros: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight_NK = (torch.randn(6, 256, generator=generator) + shift) * 10**scale
    if outlier:
        weight_NK[:, ::50] *= 100
    if zeros:
        weight_NK[1] = 0
    layer = Int4Linear(256, 6, None, group)
    layer.take(weight_NK)
    step_NK = layer.scales[..., 0].float().t().repeat_interleave(group, 1)
    off_NK = (layer.weights() - weight_NK).abs()
    assert bool((off_NK <= 0.5001 * step_NK).all())
    grouped = weight_NK.view(6, -1, group)
    span = grouped.amax(2).clamp(min=0) - grouped.amin(2).clamp(max=0)
    assert bool((layer.scales[..., 0].float().t() <= 1.02 * span / 15 + 1e-29).all())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(-12, 8))
def test_no_weight_of_8_bits_is_further_off_than_half_a_step(seed: int, scale: float) -> None:
    weight_NK = torch.randn(5, 70, generator=torch.Generator().manual_seed(seed)) * 10**scale
    weight_NK[2] = 0
    layer = Int8Linear(70, 5, None)
    layer.take(weight_NK)
    assert bool(((layer.weights() - weight_NK).abs() <= 0.5001 * layer.scale[:, None]).all())
    assert torch.allclose(layer.scale * 127, weight_NK.abs().amax(1), atol=1e-35)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("outputs", [16, 40, 61])
def test_packed_nibbles_are_those_that_were_saved(group: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer = Int4Linear(256, outputs, None, group)
    layer.packed = torch.randint(0, 256, (outputs, 128), dtype=torch.uint8)
    layer.scales = torch.randn(256 // group, outputs, 2).bfloat16()
    before = layer.packed.clone()
    layer(torch.randn(1, 256))
    assert (layer.packed.numel() == 0) == int4.has_int4_kernel()
    assert torch.equal(layer.saved(), before)
