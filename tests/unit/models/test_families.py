"""Model families: built as configured, counted without building, and not loaded from what cannot be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from llmyard.core.errors import RequestError
from llmyard.models.config import Bert, EncoderDecoder, Gpt2, ModelChoice, presets
from llmyard.models.families import SpanHeads, build, build_labeller, load, save
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


ADAPTER = TypeAdapter(ModelChoice)
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "layers": 2, "hidden_size": 16, "heads": 4, "key_value_heads": 2},
    "t5": {"family": "t5", "hidden_size": 16, "heads": 2, "feed_forward_size": 24},
    "gated t5": {"family": "t5", "hidden_size": 16, "heads": 2, "head_size": 4, "gated": True, "encoder_layers": 1},
    "transformer_xl": {"family": "transformer_xl", "hidden_size": 16, "heads": 2, "layers": 2},
    "post-norm xl": {"family": "transformer_xl", "hidden_size": 16, "heads": 2, "layers": 1, "norm": "post"},
    "post-norm": {"family": "transformer", "hidden_size": 16, "heads": 2, "norm": "post", "positions": "learned"},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_parameters_of_other_families_are_counted_exactly(name: str) -> None:
    config = ADAPTER.validate_python(SMALL[name])
    model = build(config, vocab_size=50, pad_id=0, end_id=1, max_tokens=30)
    assert parameters_of(config, 50, 30) == count(model)


# Published numbers of weights, with their vocabularies and longest sequences.
@pytest.mark.parametrize(
    ("preset", "vocab_size", "max_tokens", "millions"),
    [("gpt2-124m", 50257, 1024, 124.4), ("gpt2-1.5b", 50257, 1024, 1557.6), ("gpt3-175b", 50257, 2048, 174_600),
     ("bert-base", 30522, 512, 108.9), ("t5-small", 32128, 512, 60.5), ("t5-3b", 32128, 512, 2851.6),
     ("llama-7b", 32000, 2048, 6607.3), ("transformer-base", 37000, 512, 63.1)],
)  # fmt: skip
def test_presets_have_the_published_sizes(preset: str, vocab_size: int, max_tokens: int, millions: float) -> None:
    config = ADAPTER.validate_python({"preset": preset})
    assert parameters_of(config, vocab_size, max_tokens) / 1e6 == pytest.approx(millions, rel=0.002)


@pytest.mark.parametrize("preset", [name for name in presets() if presets()[name]["hidden_size"] <= 1024])
def test_presets_are_built_as_counted(preset: str) -> None:
    config = ADAPTER.validate_python({"preset": preset})
    with torch.device("meta"):
        model = build(config, vocab_size=1000, pad_id=0, end_id=1, max_tokens=64)
    heads = sum(each.numel() for name, each in model.named_parameters() if name.startswith(("cls.", "bert.pooler.")))
    assert parameters_of(config, 1000, 64) == count(model) - heads


def test_fields_beside_a_preset_win_and_an_unknown_preset_names_the_nearest() -> None:
    config = ADAPTER.validate_python({"preset": "bert-base", "layers": 3})
    assert (config.family, config.layers, config.hidden_size) == ("bert", 3, 768)
    with pytest.raises(ValidationError, match="no preset 'gpt2-124'; did you mean 'gpt2-124m'"):
        ADAPTER.validate_python({"preset": "gpt2-124"})


def test_the_parameters_of_the_span_tagger_are_counted_but_for_its_heads() -> None:
    config = Bert(layers=2, hidden_size=16, heads=2, feed_forward_size=32)
    model = build_labeller(config, SpanHeads(("a", "b"), ("r",)), vocab_size=50, pad_id=0, max_tokens=30)
    heads = sum(
        parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("bert.")
    )  # fmt: skip
    one_kind_of_segments = 16
    assert parameters_of(config, 50, 30) == count(model) - heads + one_kind_of_segments


@torch.no_grad()
def test_a_saved_gpt2_gives_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(Gpt2(layers=1, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12).eval()
    save(model, tmp_path)
    ids = torch.randint(2, 40, (2, 12))
    assert torch.equal(load(tmp_path)(ids).logits, model(ids).logits)


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
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own_code"}), encoding="utf-8")
    with pytest.raises(RequestError, match="type 'own_code'") as caught:
        load(tmp_path)
    assert "gpt2" in caught.value.remedy


def test_a_pickled_model_is_not_loaded(tmp_path: Path) -> None:
    model = build(Gpt2(layers=1, hidden_size=16, heads=2), vocab_size=40, pad_id=0, end_id=1, max_tokens=12)
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises((OSError, RequestError)):
        load(tmp_path)


@pytest.mark.parametrize("name", ["post-norm", "t5", "llama"])
@torch.no_grad()
def test_every_family_is_saved_loaded_and_generates(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ADAPTER.validate_python(SMALL[name])
    model = build(config, vocab_size=50, pad_id=0, end_id=1, max_tokens=30).eval()
    save(model, tmp_path)
    again = load(tmp_path)
    source = torch.randint(2, 50, (2, 6))
    mask = torch.ones_like(source)
    written = again.generate(source, attention_mask=mask, max_new_tokens=5, do_sample=False)
    if name == "llama":
        wanted = source
        for _ in range(5):
            wanted = torch.cat((wanted, model(input_ids=wanted).logits[:, -1:].argmax(-1)), 1)
    else:
        wanted = torch.zeros(2, 1, dtype=torch.long)
        for _ in range(5):
            logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=wanted).logits
            wanted = torch.cat((wanted, logits[:, -1:].argmax(-1)), 1)
    for row, expected in zip(written.tolist(), wanted.tolist(), strict=True):
        stop = expected.index(1, 1) + 1 if 1 in expected[1:] else len(expected)
        assert row[:stop] == expected[:stop]


@torch.no_grad()
def test_any_language_model_of_transformers_is_loaded(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    model = OPTForCausalLM(OPTConfig(**shape, word_embed_proj_dim=16, max_position_embeddings=16)).eval()
    save(model, tmp_path)
    ids = torch.randint(2, 40, (1, 6))
    assert torch.equal(load(tmp_path)(ids).logits, model(ids).logits)
