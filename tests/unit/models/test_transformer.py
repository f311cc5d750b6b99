"""The encoder-decoder against its formulas."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmyard.models.config import EncoderDecoder
from llmyard.models.families import build, load, save
from llmyard.models.transformer import Attention, TransformerModel, sinusoids

VOCAB, PAD, END = 60, 0, 1


def made(seed: int = 0, **shape: float) -> TransformerModel:
    torch.manual_seed(seed)
    config = EncoderDecoder(**{"hidden_size": 32, "heads": 4, "feed_forward_size": 48, **shape})  # type: ignore[arg-type]
    model = build(config, vocab_size=VOCAB, pad_id=PAD, end_id=END, max_tokens=0)
    with torch.no_grad():  # zero biases and a zero pad row would hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert isinstance(model, TransformerModel)
    return model.eval()


def ids(*shape: int) -> Tensor:
    return torch.randint(2, VOCAB, shape)


def naive_attention(layer: Attention, x: Tensor, source: Tensor, allowed: Tensor) -> Tensor:
    """softmax(QKᵀ/√H)V, one number at a time over heads and positions (Vaswani et al. 2017, 3.2)."""
    batch, length, hidden = x.shape
    size = hidden // layer.heads
    queries, keys, values = layer.query(x), layer.key(source), layer.value(source)
    out = torch.zeros(batch, length, hidden)
    for b in range(batch):
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(length):
                scores = [
                    float(queries[b, t, part] @ keys[b, s, part]) / math.sqrt(size) if allowed[b, t, s] else -math.inf
                    for s in range(source.shape[1])
                ]
                weights = torch.softmax(torch.tensor(scores), 0)
                out[b, t, part] = sum(weights[s] * values[b, s, part] for s in range(source.shape[1]))
    return layer.output(out)  # type: ignore[no-any-return]


@torch.no_grad()
def test_attention_is_the_papers_formula() -> None:
    torch.manual_seed(1)
    layer = Attention(24, 3, 0.0).eval()
    x, source = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    allowed = torch.rand(2, 5, 7) > 0.4
    allowed[..., 0] = True
    result = layer(x, *layer.keys_values(source), allowed[:, None])
    torch.testing.assert_close(result, naive_attention(layer, x, source, allowed), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_causal_attention_sees_the_present_and_the_past() -> None:
    torch.manual_seed(2)
    layer = Attention(16, 2, 0.0).eval()
    x = torch.randn(1, 6, 16)
    allowed = torch.ones(1, 6, 6, dtype=torch.bool).tril()
    result = layer(x, *layer.keys_values(x), None, causal=True)
    torch.testing.assert_close(result, naive_attention(layer, x, x, allowed), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [8, 9])
def test_sinusoids_are_the_papers_formula(hidden: int) -> None:
    table = sinusoids(5, hidden, start=7)
    for row, position in enumerate(range(7, 12)):
        for column in range(hidden):
            angle = position / 10_000 ** (2 * (column // 2) / hidden)
            wanted = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert float(table[row, column]) == pytest.approx(wanted, abs=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3))
def test_decoding_in_pieces_equals_the_whole(pieces: list[int], seed: int) -> None:
    model = made(seed)
    with torch.no_grad():
        source, target = ids(3, 9), ids(3, sum(pieces))
        whole = model(source, target).logits
        state, at, parts = model.encode(source), 0, []
        for piece in pieces:
            parts.append(model.decode(target[:, at : at + piece], state))
            at += piece
        assert state.length == sum(pieces)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_some_sequences_of_a_batch_go_on_as_if_alone() -> None:
    model, source, target = made(), ids(4, 6), ids(4, 5)
    state = model.encode(source)
    model.decode(target[:, :3], state)
    chosen = torch.tensor([2, 0])
    rest = model.decode(target[chosen, 3:4], state.select(chosen))
    torch.testing.assert_close(rest[:, 0], model(source, target).logits[chosen, 3], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_changes_no_result() -> None:
    model, source, target = made(), ids(2, 6), ids(2, 4)
    padded = torch.cat([source, torch.full((2, 5), PAD)], 1)
    longer = torch.cat([target, torch.full((2, 3), PAD)], 1)
    torch.testing.assert_close(model(padded, longer).logits[:, :4], model(source, target).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_later_target_token_changes_no_earlier_logits() -> None:
    model, source, target = made(), ids(1, 6), ids(1, 8)
    changed = target.clone()
    changed[0, 5] = (changed[0, 5] + 1) % VOCAB
    one, two = model(source, target).logits, model(source, changed).logits
    assert torch.equal(one[:, :5], two[:, :5])
    assert not torch.equal(one[:, 5:], two[:, 5:])


@torch.no_grad()
def test_every_source_token_and_its_place_matter() -> None:
    model, source, target = made(), ids(1, 6), ids(1, 2)
    swapped = source[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(model(source, target).logits, model(swapped, target).logits, atol=1e-4)


@torch.no_grad()
def test_a_saved_model_gives_the_same_logits(tmp_path: Path) -> None:
    model, source, target = made(dropout=0.1, label_smoothing=0.1), ids(2, 6), ids(2, 4)
    save(model, tmp_path)
    again = load(tmp_path)
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors"}
    assert again.config.label_smoothing == 0.1
    assert torch.equal(again(source, target).logits, model(source, target).logits)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_same_seed_builds_the_same_model() -> None:
    one, two, other = made(3), made(3), made(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
