"""Training against disturbed embeddings: gradients against the formula written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2
from llmyard.models.families import ClassHead, build, build_labeller
from llmyard.training.adversarial import Adversary
from llmyard.training.methods import Fgm, Pgd


class Small(nn.Module):
    """Embeddings and a curved readout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.read = nn.Embedding(7, 4), nn.Linear(4, 3)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def loss(self, ids: Tensor, moved: Tensor | float = 0.0) -> Tensor:
        return torch.tanh(self.read(self.embed(ids) + moved)).square().sum()


IDS = torch.tensor([[1, 2, 3], [4, 1, 5]])


def gradients(model: nn.Module) -> list[Tensor]:
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


def norms(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).norm(dim=1)[:, None, None]


def slope(model: Small, moved: Tensor) -> Tensor:
    moved = moved.clone().requires_grad_()
    return torch.autograd.grad(model.loss(IDS, moved), moved)[0]


def expected(model: Small, moved: Tensor, scale: float) -> list[Tensor]:
    model.zero_grad()
    (scale / 2 * (model.loss(IDS) + model.loss(IDS, moved.detach()))).backward()
    return gradients(model)


def test_one_step_goes_along_the_gradient_of_each_text() -> None:
    model, plain = Small(), Small()
    loss = Adversary(model, Fgm(size=0.3)).backward(lambda: model.loss(IDS), scale=0.5)
    assert float(loss) == pytest.approx(float(plain.loss(IDS)))
    slopes = slope(plain, torch.zeros(2, 3, 4))
    moved = 0.3 * norms(plain.embed(IDS).detach()) * slopes / norms(slopes)
    for got, wanted in zip(gradients(model), expected(plain, moved, 0.5), strict=True):
        torch.testing.assert_close(got, wanted)
    assert float(plain.loss(IDS, moved)) > float(plain.loss(IDS))


def test_several_steps_stay_within_the_ball() -> None:
    model, plain = Small(), Small()
    config = Pgd(size=0.4, step=0.3, steps=3)
    Adversary(model, config).backward(lambda: model.loss(IDS), scale=1.0)
    size, moved = norms(plain.embed(IDS).detach()), torch.zeros(2, 3, 4)
    for _ in range(3):
        slopes = slope(plain, moved)
        moved = moved + 0.3 * size * slopes / norms(slopes)
        moved = moved * (0.4 * size / norms(moved)).clamp(max=1.0)
    assert (norms(moved) / size).max() <= 0.4 + 1e-5
    for got, wanted in zip(gradients(model), expected(plain, moved, 1.0), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("config", [Fgm(), Pgd()])
@pytest.mark.parametrize("family", ["gpt2", "transformer", "t5", "bert"])
def test_real_models_are_disturbed(family: str, config: Any) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 3]])
    if family == "gpt2":
        model: Any = build(Gpt2(layers=1, hidden_size=16, heads=2), vocab_size=20, pad_id=0, end_id=1, max_tokens=8)
        loss_of = lambda: model(input_ids=ids).logits.logsumexp(-1).sum()  # noqa: E731
    elif family in ("transformer", "t5"):
        both: Any = EncoderDecoder if family == "transformer" else T5
        shape = both(encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16)
        model = build(shape, vocab_size=20, pad_id=0, end_id=1, max_tokens=8)
        loss_of = lambda: model(input_ids=ids, decoder_input_ids=ids).logits.logsumexp(-1).sum()  # noqa: E731
    else:
        bert = Bert(layers=1, hidden_size=16, heads=2, feed_forward_size=16)
        model = build_labeller(bert, ClassHead(("a", "b")), vocab_size=20, pad_id=0, max_tokens=8)
        loss_of = lambda: model(ids, torch.zeros_like(ids)).logsumexp(-1).sum()  # noqa: E731
    model.eval()
    loss_of().backward()
    plain = gradients(model)
    model.zero_grad()
    Adversary(model, config).backward(loss_of, 1.0)
    disturbed = gradients(model)
    assert len(plain) == len(disturbed)
    assert any(not torch.allclose(one, other, rtol=1e-3) for one, other in zip(plain, disturbed, strict=True))
    assert all(torch.isfinite(each).all() for each in disturbed)
    assert not model.get_input_embeddings()._forward_hooks


def test_embeddings_that_are_frozen_are_disturbed_too() -> None:
    model, plain = Small(), Small()
    model.embed.requires_grad_(False)
    Adversary(model, Fgm(size=0.3)).backward(lambda: model.loss(IDS), scale=1.0)
    plain.loss(IDS).backward()
    assert plain.read.weight.grad is not None
    assert model.read.weight.grad is not None
    assert model.embed.weight.grad is None
    assert not torch.allclose(model.read.weight.grad, plain.read.weight.grad)
