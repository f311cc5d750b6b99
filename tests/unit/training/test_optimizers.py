"""Optimizers: their formulas, what they decay, and states that go on exactly."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from llmyard.models.config import T5, Gpt2
from llmyard.models.families import build
from llmyard.training.config import OptimizerChoice
from llmyard.training.optimizers import Optimizers, make_optimizers

KINDS = ["adamw", "adafactor", "lamb", "lars", "muon"]
ADAPTER: TypeAdapter[Any] = TypeAdapter(OptimizerChoice)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.inner, self.outer = torch.nn.Embedding(9, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 9)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.inner(self.embedding(ids)))
        return self.outer(hidden)  # type: ignore[no-any-return]


def made(model: torch.nn.Module, kind: str, **fields: Any) -> Optimizers:
    return make_optimizers(model, ADAPTER.validate_python({"kind": kind, "learning_rate": 0.01, **fields}))


def train(model: torch.nn.Module, optimizers: Optimizers, steps: range) -> float:
    loss = torch.zeros(())
    for step in steps:
        ids = torch.randint(0, 9, (16,), generator=torch.Generator().manual_seed(step))
        optimizers.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(ids), (ids * 2) % 9)
        loss.backward()
        optimizers.step()
    return float(loss.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_each_learns(kind: str) -> None:
    model = Small()
    optimizers = made(model, kind, **({"trust": 0.1, "learning_rate": 0.5} if kind == "lars" else {}))
    first = train(model, optimizers, range(1))
    assert train(model, optimizers, range(1, 300)) < 0.6 * first


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_goes_on_exactly(kind: str) -> None:
    one = Small()
    optimizers = made(one, kind)
    train(one, optimizers, range(5))
    buffer = io.BytesIO()
    torch.save({"model": one.state_dict(), "optimizer": optimizers.state_dict()}, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    other = Small()
    other.load_state_dict(state["model"])
    again = made(other, kind)
    again.load_state_dict(state["optimizer"])
    train(one, optimizers, range(5, 10))
    train(other, again, range(5, 10))
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("kind", KINDS)
def test_only_matrices_decay(kind: str) -> None:
    model = Small()
    optimizers = made(model, kind, weight_decay=0.5)
    before = {name: each.clone() for name, each in model.named_parameters()}
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizers.step()
    for name, each in model.named_parameters():
        assert torch.equal(each, before[name]) == (each.dim() < 2), name


def test_lamb_and_lars_are_their_formulas() -> None:
    for kind in ("lamb", "lars"):
        weight = torch.nn.Linear(3, 4, bias=False)
        start, gradient = weight.weight.detach().clone(), torch.randn(4, 3)
        weight.weight.grad = gradient.clone()
        made(weight, kind, weight_decay=0.1).step()
        if kind == "lamb":  # You et al. 2020, algorithm 2, first step
            update = gradient / (gradient.abs() + 1e-6) + 0.1 * start
            wanted = start - 0.01 * start.norm() / update.norm() * update
        else:  # You et al. 2017, algorithm 1
            whole = gradient + 0.1 * start
            wanted = start - 0.01 * 0.001 * start.norm() / whole.norm() * whole
        torch.testing.assert_close(weight.weight.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_inner_matrices_only() -> None:
    model = build(Gpt2(layers=2, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12)
    muon, adamw = made(model, "muon").parts
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inner = {names[id(each)] for group in muon.param_groups for each in group["params"]}
    outer = {names[id(each)] for group in adamw.param_groups for each in group["params"]}
    assert inner | outer == set(names.values())
    assert not inner & outer
    assert all(".attn." in name or ".mlp." in name for name in inner)
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= outer


def test_the_learning_rate_reaches_all_parts() -> None:
    optimizers = made(Small(), "muon")
    optimizers.set_learning_rate(0.123)
    assert {group["lr"] for group in optimizers.groups} == {0.123}


@pytest.mark.parametrize("kind", KINDS)
def test_t5_embeddings_move_faster_where_size_does_not_decide(kind: str) -> None:
    shape = T5(encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16)
    model = build(shape, vocab_size=20, pad_id=0, end_id=1, max_tokens=8)
    optimizers = made(model, kind)
    optimizers.set_learning_rate(0.5)
    rates = {id(each): group["lr"] for group in optimizers.groups for each in group["params"]}
    faster = {name: rates[id(each)] for name, each in model.named_parameters() if rates[id(each)] != 0.5}
    assert faster == ({"shared.weight": 2.0} if kind in ("adamw", "muon") else {})
