"""Model families: built as configured, counted without building, and not loaded from what cannot be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import RequestError
from llmyard.models.config import Bert, EncoderDecoder, Gpt2
from llmyard.models.families import build, label_details, load, save
from llmyard.models.size import parameters_of

SHAPES = {"vocab_size": st.integers(10, 60), "max_tokens": st.integers(4, 40)}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(max_examples=15, deadline=None)
@given(layers=st.integers(1, 3), hidden=st.sampled_from([8, 16, 24]), **SHAPES)
def test_the_parameters_of_gpt2_are_counted_exactly(layers: int, hidden: int, vocab_size: int, max_tokens: int) -> None:
    config = Gpt2(layers=layers, hidden_size=hidden, heads=4)
    model = build(config, vocab_size=vocab_size, pad_id=0, end_id=1, max_tokens=max_tokens)
    assert parameters_of(config, vocab_size, max_tokens) == count(model)


@settings(max_examples=15, deadline=None)
@given(
    encoder=st.integers(1, 3),
    decoder=st.integers(1, 3),
    hidden=st.sampled_from([8, 16]),
    feed=st.integers(8, 40),
    **SHAPES,
)
def test_the_parameters_of_the_transformer_are_counted_exactly(
    encoder: int, decoder: int, hidden: int, feed: int, vocab_size: int, max_tokens: int
) -> None:
    config = EncoderDecoder(
        encoder_layers=encoder, decoder_layers=decoder, hidden_size=hidden, heads=2, feed_forward_size=feed
    )
    model = build(config, vocab_size=vocab_size, pad_id=0, end_id=1, max_tokens=max_tokens)
    assert parameters_of(config, vocab_size, max_tokens) == count(model)


def test_the_parameters_of_the_span_tagger_are_counted_but_for_its_heads() -> None:
    config = Bert(layers=2, hidden_size=16, heads=2, feed_forward_size=32)
    model = build(
        config, vocab_size=50, pad_id=0, end_id=1, max_tokens=30, entity_types=("a", "b"), relations=("r",)
    )  # fmt: skip
    heads = sum(
        parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("bert.")
    )  # fmt: skip
    assert parameters_of(config, 50, 30) == count(model) - heads


@torch.no_grad()
def test_a_saved_gpt2_gives_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(Gpt2(layers=1, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12).eval()
    save(model, tmp_path)
    ids = torch.randint(2, 40, (2, 12))
    assert torch.equal(load(tmp_path)(ids).logits, model(ids).logits)
    assert label_details(model) == {"entity_types": [], "relations": []}


@torch.no_grad()
def test_gpt2_is_causal() -> None:
    torch.manual_seed(0)
    model = build(Gpt2(layers=2, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12).eval()
    ids = torch.randint(2, 40, (1, 12))
    changed = ids.clone()
    changed[0, 7] = 2 + (ids[0, 7] - 1) % 38
    one, two = model(ids).logits, model(changed).logits
    assert torch.equal(one[:, :7], two[:, :7])
    assert not torch.equal(one[:, 7:], two[:, 7:])


def test_what_is_no_model_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}), encoding="utf-8")
    with pytest.raises(RequestError, match="type 'opt'") as caught:
        load(tmp_path)
    assert "gpt2" in caught.value.remedy


def test_a_pickled_model_is_not_loaded(tmp_path: Path) -> None:
    model = build(Gpt2(layers=1, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12)
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises((OSError, RequestError)):
        load(tmp_path)
