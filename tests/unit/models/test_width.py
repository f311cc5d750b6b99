"""Learning rates that carry over to other widths: the same at the base, and changes of one size at any width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from llmyard.models.config import Gpt2, Llama
from llmyard.models.families import build
from llmyard.models.width import width_scales
from llmyard.stages.config import Pretrain
from llmyard.training.config import AdamW
from llmyard.training.optimizers import make_optimizers

HEAD = 16


def shape(family: str, width: int, base: int | None) -> Any:
    common = {"hidden_size": width, "heads": width // HEAD, "layers": 2, "base_width": base}
    return Gpt2(**common) if family == "gpt2" else Llama(**common, feed_forward_size=3 * width)


def made(of: Any) -> Any:
    torch.manual_seed(0)
    return build(of, vocab_size=128, pad_id=0, end_id=1, max_tokens=32)


def moved(of: Any, steps: int = 4, rate: float = 5e-3) -> float:
    """Returns how far some steps move the logits, in standard deviations over tokens."""
    model = made(of)
    optimizers = make_optimizers(model, AdamW(learning_rate=rate, weight_decay=0.0), width_scales(model, of))
    optimizers.set_learning_rate(rate)
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(128, (4, 32), generator=generator)
    with torch.no_grad():
        before = model(input_ids=tokens_BT).logits
    for _ in range(steps):
        optimizers.zero_grad()
        model(input_ids=tokens_BT, labels=tokens_BT).loss.backward()
        optimizers.step()
    with torch.no_grad():
        return float((model(input_ids=tokens_BT).logits - before).std())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_steps_move_logits_alike_at_every_width(family: str) -> None:
    plain = [moved(shape(family, width, None)) for width in (64, 256)]
    kept = [moved(shape(family, width, 64)) for width in (64, 256)]
    assert kept[0] == pytest.approx(plain[0])  # at the base's own width nothing is changed
    assert plain[1] > 1.6 * plain[0]
    assert max(kept) < 1.5 * min(kept)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_scaled_is_what_is_inside(family: str) -> None:
    of = shape(family, 128, 64)
    model, plain = made(of), made(shape(family, 128, None))
    scales = width_scales(model, of)
    sizes = {name: float(each.detach().norm()) / float(other.detach().norm()) for (name, each), other in zip(
        model.named_parameters(), plain.parameters(), strict=True) if float(other.detach().norm())}  # fmt: skip
    for name, parameter in model.named_parameters():
        is_embedding = "wte" in name or "wpe" in name or "embed_tokens" in name
        is_last = "ln_f" in name or name == "model.norm.weight"
        if is_last:
            assert scales[name] == 0.5
            assert sizes.get(name, 0.5) == pytest.approx(0.5)
        elif parameter.dim() == 2 and not is_embedding:
            assert scales[name] == 0.5
            assert sizes[name] == pytest.approx(0.5**0.5, rel=1e-4)
        else:
            assert name not in scales
            assert sizes.get(name, 1.0) == pytest.approx(1.0)


def test_only_adamw_carries_its_rate_over() -> None:
    job = {
        "output": "base", "shards": "world", "steps": 1,
        "model": {"family": "gpt2", "hidden_size": 128, "base_width": 64, "heads": 8},
    }  # fmt: skip
    assert Pretrain.model_validate(job).model is not None
    with pytest.raises(ValidationError, match="carries adamw's learning rate over, not that of muon"):
        Pretrain.model_validate({**job, "optimizer": {"kind": "muon"}})
