"""Transformer-XL: its attention is the published sum, and segments with enough memory are one long text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmyard.models.config import TransformerXl
from llmyard.models.families import build, load, save
from llmyard.models.transformer import sinusoids
from llmyard.models.transformer_xl import RelativeAttention, TransformerXlModel, relative_shift

VOCAB = 40


def made(**shape: object) -> TransformerXlModel:
    torch.manual_seed(0)
    given = {"layers": 3, "hidden_size": 32, "heads": 4, "feed_forward_size": 48, "memory_length": 64, **shape}
    model = build(TransformerXl(**given), vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=0)  # type: ignore[arg-type]
    assert isinstance(model, TransformerXlModel)
    return model.eval()


def by_segments(model: TransformerXlModel, ids: Tensor, length: int) -> Tensor:
    memories, parts = None, []
    for start in range(0, ids.shape[1], length):
        out = model(ids[:, start : start + length], memories=memories)
        memories = out.memories
        parts.append(out.logits)
    return torch.cat(parts, 1)


@pytest.mark.parametrize(("length", "seen"), [(1, 1), (1, 5), (4, 4), (3, 8)])
def test_the_shift_puts_each_distance_under_its_key(length: int, seen: int) -> None:
    distances = torch.arange(seen - 1, -1, -1.0).expand(2, 3, length, seen)
    shifted = relative_shift(distances)
    for row in range(length):
        for key in range(seen - length + row + 1):
            assert (shifted[:, :, row, key] == seen - length + row - key).all()


@torch.no_grad()
@pytest.mark.parametrize("before", [0, 3])
def test_attention_is_the_sum_of_the_four_terms_written_out(before: int) -> None:
    torch.manual_seed(1)
    hidden, heads, length = 12, 3, 4
    layer = RelativeAttention(hidden, heads, 0.0)
    torch.nn.init.normal_(layer.content_bias)
    torch.nn.init.normal_(layer.position_bias)
    x, memory = torch.randn(2, length, hidden), torch.randn(2, before, hidden)
    seen, size = before + length, hidden // heads
    found = layer(x, memory if before else None, sinusoids(seen, hidden).flip(0))
    context = torch.cat((memory, x), 1)
    out = torch.zeros(2, length, hidden)
    for batch in range(2):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            u, v = layer.content_bias[head, 0], layer.position_bias[head, 0]
            for query in range(length):
                q = layer.query(x[batch, query])[part]
                scores = []
                for key in range(before + query + 1):
                    k = layer.key(context[batch, key])[part]
                    r = layer.position(sinusoids(1, hidden, before + query - key)[0])[part]
                    scores.append((q @ k + q @ r + u @ k + v @ r) / math.sqrt(size))  # equation of section 3.3
                weights = torch.stack(scores).softmax(0)
                values = torch.stack([layer.value(context[batch, key])[part] for key in range(before + query + 1)])
                out[batch, query, part] = weights @ values
    torch.testing.assert_close(found, layer.output(out), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("segment", [1, 5, 8])
def test_a_memory_as_long_as_the_text_equals_the_whole_text(norm: str, segment: int) -> None:
    model, ids = made(norm=norm), torch.randint(2, VOCAB, (2, 40))
    torch.testing.assert_close(by_segments(model, ids, segment), model(ids).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_memory_reaches_over_segments_and_ends_where_it_is_said_to() -> None:
    model = made(layers=1, memory_length=4)
    ids = torch.randint(2, VOCAB, (1, 12))
    changed = ids.clone()
    changed[0, 2] = 2 + (ids[0, 2] - 1) % (VOCAB - 2)
    one, two = by_segments(model, ids, 3), by_segments(model, changed, 3)
    differs = [bool((one[0, at] != two[0, at]).any()) for at in range(12)]
    # One layer sees what is in memory: token 2 is there for the segments from 3 and, as the oldest, from 6 on.
    assert differs == [False] * 2 + [True] * 7 + [False] * 3
    assert not bool((by_segments(made(layers=1, memory_length=0), ids, 3)[:, 3:] ==
                     by_segments(made(layers=1, memory_length=4), ids, 3)[:, 3:]).all())  # fmt: skip


def test_no_gradient_goes_into_the_memory() -> None:
    model, ids = made().train(), torch.randint(2, VOCAB, (2, 6))
    first = model(ids)
    assert all(not memory.requires_grad for memory in first.memories)
    model(ids, memories=first.memories, labels=ids).loss.backward()
    assert model.embedding.weight.grad is not None


@torch.no_grad()
def test_it_generates_what_the_whole_text_says_and_survives_a_file(tmp_path: Path) -> None:
    model, ids = made(), torch.randint(2, VOCAB, (2, 5))
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    save(model, tmp_path)
    written = load(tmp_path).generate(ids, max_new_tokens=8, do_sample=False)
    wanted = ids
    for _ in range(8):
        wanted = torch.cat((wanted, model(wanted).logits[:, -1:].argmax(-1)), 1)
    assert written.tolist() == wanted.tolist()
    with pytest.raises(ValueError, match="no padded batches"):
        model(ids, attention_mask=torch.tensor([[0, 1, 1, 1, 1], [1] * 5]))
