"""Number types, fused losses, recomputed activations and compiled layers: faster or smaller, but the same result."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch

from llmyard.models.config import T5, Bert, Gpt2, Llama, Model
from llmyard.models.families import build
from llmyard.tokens.masking import Masked
from llmyard.tokens.span_corruption import Corrupted
from llmyard.training.config import Training
from llmyard.training.layout import lay_out, layers_of
from llmyard.training.objectives import CausalLmObjective, TokenLoss
from llmyard.training.peers import Peers
from llmyard.training.precision import LossScale, compute_dtype
from llmyard.training.pretraining import MaskedLmObjective, RestoringObjective

VOCAB = 300
SHAPES: dict[str, Model] = {
    "gpt2": Gpt2(layers=2, hidden_size=32, heads=2, dropout=0.1),
    "llama": Llama(layers=2, hidden_size=32, heads=2, feed_forward_size=48),
    "bert": Bert(layers=2, hidden_size=32, heads=2, dropout=0.1, feed_forward_size=48),
    "t5": T5(encoder_layers=1, decoder_layers=2, hidden_size=32, heads=2, dropout=0.1, feed_forward_size=48),
}


def model_of(family: str) -> Any:
    torch.manual_seed(1)
    return build(SHAPES[family], vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=16).train()


def loss_of(family: str, loss: TokenLoss) -> tuple[Any, Any]:
    """Returns an objective and a batch of it."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, VOCAB, 17) for _ in range(3)]
    if family in ("gpt2", "llama"):
        causal = CausalLmObjective(0, token_loss=loss)
        return causal, causal.collate(rows)
    if family == "bert":
        masked = MaskedLmObjective(0, 2.0, loss)
        samples = [
            Masked(row[:16], np.zeros(16, int), np.where(rng.random(16) < 0.3, row[:16], -100), bool(at % 2))
            for at, row in enumerate(rows)
        ]
        return masked, masked.collate(samples)
    restoring = RestoringObjective(0, loss)
    return restoring, restoring.collate([Corrupted(row[:10], row[10:]) for row in rows])


def gradients(model: Any, objective: Any, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    loss = objective.loss(model, batch)
    loss.backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return loss.item(), found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 2e-4) -> None:
    assert one.keys() == other.keys()
    for name, each in one.items():
        torch.testing.assert_close(other[name], each, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("family", SHAPES)
def test_a_fused_loss_is_the_plain_one(family: str) -> None:
    model = model_of(family)
    plain, batch = loss_of(family, TokenLoss())
    fused, _ = loss_of(family, TokenLoss(is_fused=True))
    wanted, wanted_gradients = gradients(model, plain, batch)
    found, found_gradients = gradients(model, fused, batch)
    assert found == pytest.approx(wanted, rel=1e-5)
    same(wanted_gradients, found_gradients)
    model.eval()
    with torch.no_grad():  # the output layer is back in its place
        assert float(fused.loss(model, batch)) == pytest.approx(float(plain.loss(model, batch)), rel=1e-6)


@pytest.mark.parametrize("family", SHAPES)
def test_activations_computed_again_give_the_same_gradients_with_the_same_dropout(family: str) -> None:
    plain, batch = loss_of(family, TokenLoss())
    wanted = gradients(model_of(family), plain, batch)
    config = Training(steps=1, activation_checkpointing=True, resources={"workers": 1})  # type: ignore[arg-type]
    layout = lay_out(model_of(family), config, Peers(), torch.device("cpu"))
    assert len(list(layers_of(layout.model))) >= 2
    found = gradients(layout.model, plain, batch)
    assert found[0] == wanted[0]
    same(wanted[1], found[1], 1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_give_the_same_loss_and_keep_their_names() -> None:
    plain, batch = loss_of("llama", TokenLoss())
    wanted = gradients(model_of("llama"), plain, batch)
    config = Training(steps=1, compile=True, resources={"workers": 1})  # type: ignore[arg-type]
    layout = lay_out(model_of("llama"), config, Peers(), torch.device("cpu"))
    found = gradients(layout.model, plain, batch)
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    same(wanted[1], found[1])


def test_bfloat16_is_taken_where_it_is_faster_and_float16_only_where_asked_for() -> None:
    cpu = torch.device("cpu")
    assert compute_dtype("auto", cpu, 128) == torch.float32
    assert compute_dtype("bfloat16", cpu, 128) == torch.bfloat16
    assert compute_dtype("float16", cpu, 128) == torch.float16


def test_the_loss_scale_falls_with_overflows_and_grows_after_good_steps() -> None:
    scale = LossScale(torch.float16)
    assert scale.value == 65536.0
    assert scale.overflows(is_finite=False)
    assert scale.value == 32768.0
    for _ in range(LossScale.GROWTH_STEPS):
        assert not scale.overflows(is_finite=True)
    assert scale.value == 65536.0
    again = LossScale(torch.float16)
    again.load(scale.state())
    assert again.state() == scale.state()
    for _ in range(16):
        assert scale.overflows(is_finite=False)
    assert not scale.overflows(is_finite=False)  # at 1 it is the loss itself that is not finite
    plain = LossScale(torch.float32)
    assert plain.value == 1.0
    assert not plain.overflows(is_finite=False)
