"""A deep post-norm model without warm-up is told from a pre-norm one, layer by layer."""

from __future__ import annotations

import pytest
import torch

from llmyard.models.config import EncoderDecoder, Gpt2
from llmyard.models.families import build
from llmyard.training.diagnosis import activations, diagnose, diagnose_model, stacks_of, statistics

LAYERS = 24


def trained(norm: str, steps: int = 40) -> torch.nn.Module:
    """A model after some steps at full learning rate."""
    torch.manual_seed(0)
    config = EncoderDecoder.model_validate(
        {"encoder_layers": 1, "decoder_layers": LAYERS, "hidden_size": 32, "heads": 2, "feed_forward_size": 64}
        | {"norm": norm}
    )
    model = build(config, vocab_size=60, pad_id=0, end_id=1, max_tokens=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        ids = torch.randint(2, 60, (4, 12)).repeat(1, 2)
        optimizer.zero_grad()
        logits = model(input_ids=ids, decoder_input_ids=ids[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    return model


def test_vanishing_gradients_of_a_deep_post_norm_model_are_named_with_the_remedy() -> None:
    fault = diagnose_model(trained("post"))["decoder_layers"]
    assert fault.what.startswith("gradients vanish: layers 0-5 of 24")
    assert "norm: pre" in fault.remedy
    assert "warmup_steps" in fault.remedy
    assert len(fault.norms) == LAYERS


def test_the_pre_norm_one_is_healthy() -> None:
    assert diagnose_model(trained("pre")) == {}


def test_faults_by_their_numbers_alone() -> None:
    assert diagnose([1e-5, 1e-4, 0.1, 1.0]) is not None
    assert diagnose([1.0, 0.5, 0.8, 0.9]) is None
    assert diagnose([5.0, 2.0, 1.0, 0.9]) is None
    assert diagnose([1e-9]) is None
    exploded = diagnose([1e4, 1e3, 10.0, 1.0])
    assert exploded is not None
    assert "explode" in exploded.what
    broken = diagnose([1.0, float("nan"), 1.0, 1.0])
    assert broken is not None
    assert "layer 1 of 4" in broken.what


def test_every_layer_has_its_gradient_and_activation() -> None:
    torch.manual_seed(0)
    model = build(Gpt2(layers=3, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12)
    assert {name: len(layers) for name, layers in stacks_of(model).items()} == {"transformer.h": 3}
    ids = torch.randint(2, 40, (2, 8))
    with activations(model) as seen:
        model(input_ids=ids, labels=ids).loss.backward()
    assert set(seen) == {f"activations/transformer.h/0{number}" for number in range(3)}
    norms = statistics(model)
    layer = model.transformer.h[1]
    whole = sum(float((each.grad**2).sum()) for each in layer.parameters()) ** 0.5
    assert norms["gradients/transformer.h/01"] == pytest.approx(whole, rel=1e-5)
    count = len(seen)
    model(input_ids=ids)
    assert len(seen) == count  # the hooks are gone
