"""The classifier: what its head pools, that padding does not matter, that its parts are told apart at once."""

from __future__ import annotations

import pytest
import torch

from llmyard.models.config import Bert
from llmyard.models.families import ClassHead, build, build_labeller, labeller_from
from llmyard.models.text_classifier import TextClassifier, _span

SHAPE = Bert(hidden_size=16, heads=2, layers=1, feed_forward_size=16)


def made(parts: int) -> TextClassifier:
    torch.manual_seed(4)
    model = build_labeller(SHAPE, ClassHead(("a", "b", "c"), parts), vocab_size=50, pad_id=0, max_tokens=20)
    assert isinstance(model, TextClassifier)
    return model.eval()


def test_the_span_reaches_from_the_first_marked_token_to_the_last() -> None:
    marked = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]).bool()
    wanted = [[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]]
    assert _span(marked).int().tolist() == wanted


@pytest.mark.parametrize("parts", [0, 1, 2, 3])
def test_padding_changes_nothing(parts: int) -> None:
    model = made(parts)
    tokens = torch.tensor([[7, 8, 9, 10, 11]])
    kinds = torch.tensor([[0, 1, 0, 2, 0]]).clamp(max=parts)
    more = torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        alone = model(tokens, kinds)
        padded = model(torch.cat([tokens, more], 1), torch.cat([kinds, more], 1))
    assert alone.shape == (1, 3)
    assert torch.allclose(alone, padded, atol=1e-5)


def test_what_stands_between_two_parts_is_pooled_apart() -> None:
    model = made(2)
    with torch.no_grad():  # nothing but the last pool reaches the logits
        model.gather.weight[:, : 4 * 16] = 0
    kinds = torch.tensor([[1, 0, 2, 0, 0]])
    with torch.no_grad():
        embedded = model.bert.embeddings.word_embeddings.weight
        embedded[30] = 50 * torch.randn(16)
        plain, between, behind = (
            model(torch.tensor([row]), kinds) for row in ([7, 8, 9, 5, 6], [7, 30, 9, 5, 6], [7, 8, 9, 5, 30])
        )
    assert float((between - plain).abs().max()) > float((behind - plain).abs().max())


def test_parts_are_told_apart_from_a_pretrained_base_on() -> None:
    torch.manual_seed(0)
    base = build(SHAPE, vocab_size=50, pad_id=0, end_id=1, max_tokens=20)
    model = labeller_from(base, ClassHead(("a", "b"), 2)).eval()
    tokens = torch.tensor([[7, 8, 9, 10]])
    with torch.no_grad():
        one, other = (model.hidden(tokens, torch.tensor([kinds])) for kinds in ([0, 1, 0, 2], [0, 2, 0, 1]))
        first = base.bert.embeddings.token_type_embeddings.weight[0]
        assert torch.equal(model.bert.embeddings.token_type_embeddings.weight[0], first)
    assert float((one - other).norm() / one.norm()) > 0.05
