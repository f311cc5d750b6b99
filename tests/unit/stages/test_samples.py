"""Every family writes while it trains, in both languages, and training does not notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from llmyard.models.families import build
from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.samples import Sampler
from llmyard.stages.streams import extra_ids, pretraining
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.tokenizer import Tokenizer
from llmyard.training.config import objectives_of

TEXTS = {
    "诗": ["春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"] * 30,
    "prose": ["The harbour was quiet. Nobody had sold the old boat, and the rain went on until the morning."] * 30,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"model": {"family": "gpt2", "layers": 1}},
    "llama": {"model": {"family": "llama", "layers": 1, "feed_forward_size": 24}, "packing": "best_fit"},
    "transformer_xl": {"model": {"family": "transformer_xl", "layers": 1, "memory_length": 8, "feed_forward_size": 24},
                       "objective": {"kind": "recurrent_lm"}},
    "bert": {"model": {"family": "bert", "layers": 1, "feed_forward_size": 24}, "objective": {"kind": "masked_lm"}},
    "t5": {"model": {"family": "t5", "encoder_layers": 1, "decoder_layers": 1, "feed_forward_size": 24},
           "objective": {"kind": "span_corruption"}},
    "transformer": {"model": {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1,
                              "feed_forward_size": 24}, "objective": {"kind": "prefix_lm"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for each in TEXTS.values() for text in each], BpeTokenizer(vocab_size=400))


def shards(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> ShardSet:
    writer = ShardWriter(folder, "validation-0", np.dtype("<u2"), 64)
    for number, text in enumerate(texts):
        writer.add([*tokenizer.encode(text), tokenizer.end_id], document=str(number), source="s")
    writer.close()
    return ShardSet(folder, "validation")


def config_of(name: str, **samples: Any) -> Pretrain:
    fields = FAMILIES[name]
    shape = {"hidden_size": 16, "heads": 2, **fields["model"]}
    return Pretrain.model_validate(
        {"output": "base", "shards": "c", "steps": 10, "sequence_length": 32, "batch": {"size": 2, "micro_batch": 2},
         "resources": {"workers": 1}, "samples": {"every_steps": 5, "tokens": 8, **samples}, **fields, "model": shape}
    )  # fmt: skip


def sampler(tmp_path: Path, tokenizer: Tokenizer, config: Pretrain) -> Sampler:
    streams = {}
    for name, texts in TEXTS.items():
        (tmp_path / name).mkdir(exist_ok=True)
        own = shards(tmp_path / name, tokenizer, texts)
        streams[name] = pretraining(config, objectives_of(config.objective)[0], own, tokenizer)
    job: Any = SimpleNamespace(config=config, family="")
    return Sampler(job, tokenizer, {"": streams["诗"], **streams})


def model_of(config: Pretrain, tokenizer: Tokenizer) -> Any:
    torch.manual_seed(0)
    assert config.model is not None
    vocab_size = tokenizer.vocab_size + extra_ids(config)
    return build(config.model, vocab_size=vocab_size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id, max_tokens=32)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_writes_on_held_out_text_of_every_source(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    config = config_of(name)
    write, model = sampler(tmp_path, tokenizer, config), model_of(config, tokenizer).train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = write(model)
    assert torch.equal(torch.rand(3), expected)  # training draws what it would have drawn
    assert model.training
    assert len(found) == 2  # one of each source
    prompts = [prompt for prompt, _ in found]
    assert any("\u4e00" <= character <= "\u9fff" for character in prompts[0])
    assert any(character.isascii() and character.isalpha() for character in prompts[1])
    assert write(model) == found  # the same prompts and draws each time: what changes is the model
    if name == "bert":
        assert all("⟨" in text for _, text in found)
        assert "⟨0⟩" in prompts[0]  # the mask
    if name == "t5":
        assert "⟨0⟩" in prompts[0]  # the first sentinel


@pytest.mark.parametrize("name", ["gpt2", "transformer_xl", "t5", "transformer"])
def test_given_prompts_are_gone_on_with(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    config = config_of(name, prompts=["春眠", "The harbour"])
    found = sampler(tmp_path, tokenizer, config)(model_of(config, tokenizer))
    assert [prompt.partition("⟨")[0] for prompt, _ in found] == ["春眠", "The harbour"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "transformer"])
@pytest.mark.parametrize("prompt", ["春眠", "春眠不觉晓，处处闻啼鸟。" * 9])
def test_a_text_ends_where_the_positions_end(tmp_path: Path, tokenizer: Tokenizer, name: str, prompt: str) -> None:
    config = config_of(name, prompts=[prompt], tokens=400)
    if name == "transformer":
        assert config.model is not None
        config = config.model_copy(update={"model": config.model.model_copy(update={"positions": "learned"})})
    assert len(sampler(tmp_path, tokenizer, config)(model_of(config, tokenizer))) == 1


def test_what_cannot_write_is_refused() -> None:
    with pytest.raises(ValidationError, match="fills gaps"):
        config_of("bert", prompts=["春"])
    with pytest.raises(ValidationError, match="at least 1 character"):
        config_of("gpt2", prompts=[""])
    with pytest.raises(ValidationError, match="word vectors write nothing"):
        Pretrain.model_validate(
            {"output": "v", "shards": "c", "steps": 1, "model": {"family": "word_vectors"}, "samples": {},
             "objective": {"kind": "skip_gram"}}
        )  # fmt: skip
    with pytest.raises(ValidationError, match="no model that labels"):
        Finetune.model_validate(
            {"output": "t", "task": {"kind": "knowledge_graph"}, "tokenizer": "c", "model": {"family": "bert"},
             "steps": 1, "samples": {}}
        )  # fmt: skip
