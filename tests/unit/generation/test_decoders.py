"""Texts that join and leave while others are written: each is what its model writes alone, whatever the family."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmyard.generation.decoders import decoder_of
from llmyard.generation.likelihoods import forced
from llmyard.models.config import T5, EncoderDecoder, Gpt2, Llama, TransformerXl
from llmyard.models.families import build

SIZE = 60
SMALL = {
    "vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "head_dim": 8,
}  # fmt: skip
BOTH = {"encoder_layers": 2, "decoder_layers": 2, "hidden_size": 32, "heads": 4, "feed_forward_size": 48}
OURS: dict[str, Any] = {
    "gpt2": Gpt2(layers=2, hidden_size=32, heads=4),
    "llama": Llama(layers=2, hidden_size=32, heads=4, key_value_heads=2, feed_forward_size=48),
    "transformer": EncoderDecoder(**BOTH),
    "transformer, post-norm, learned": EncoderDecoder(norm="post", positions="learned", **BOTH),
    "t5": T5(**BOTH),
    "t5, gated": T5(gated=True, head_size=12, **BOTH),
    "transformer_xl": TransformerXl(layers=2, hidden_size=32, heads=4, feed_forward_size=48, memory_length=9),
    "transformer_xl, post-norm": TransformerXl(
        layers=2, hidden_size=32, heads=4, feed_forward_size=48, memory_length=9, norm="post"
    ),
}
THEIRS: dict[str, Any] = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)),
    "mistral, window": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=7)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            vocab_size=SIZE, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128,
            pad_token_id=0,
        )
    ),
}  # fmt: skip


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": SIZE, "pad_id": 0, "end_id": 1, "max_tokens": 128}
    model: Any = THEIRS[name]() if name in THEIRS else build(OURS[name], **sizes)
    with torch.no_grad():  # as they begin, models repeat what they read, and their logits lie close together
        for weight in model.parameters():
            if weight.dim() > 1 and weight.shape[0] != SIZE:
                weight.mul_(8)
    return model.eval()


def closed(row: torch.Tensor) -> torch.Tensor:
    return row.float().log_softmax(-1)


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_rows_that_come_and_go_leave_the_others_as_they_are(name: str) -> None:
    model, chance = model_of(name), random.Random(1)
    decoder = decoder_of(model, 0, torch.device("cpu"))
    assert decoder.joins == (name not in ("bart", "mistral, window"))
    texts: list[tuple[list[int], list[int]]] = []  # what each row has read, and its answer so far
    seen = 0
    with torch.inference_mode():
        for turn in range(30):
            if len(texts) < 5 and (decoder.joins or not texts) and (turn % 3 == 0 or not texts):
                prompts = [[chance.randrange(2, SIZE) for _ in range(chance.randint(1, 14))] for _ in range(2)]
                logits_BV = decoder.admit(prompts)
                texts += [(prompt, []) for prompt in prompts]
                _compare(model, texts[-2:], logits_BV)
                for text, logits_V in zip(texts[-2:], logits_BV, strict=True):
                    text[1].append(int(logits_V.argmax()))
            if turn % 4 == 3 and len(texts) > 1:
                row = chance.randrange(len(texts))
                decoder.remove(row)
                texts[row] = texts[-1]
                texts.pop()
            assert len(decoder) == len(texts)
            logits_BV = decoder.step(torch.tensor([answer[-1] for _, answer in texts]))
            _compare(model, texts, logits_BV)
            seen += len(texts)
            for text, logits_V in zip(texts, logits_BV, strict=True):
                text[1].append(int(logits_V.argmax()))
            if not decoder.joins and turn % 10 == 9:
                while texts:
                    decoder.remove(len(texts) - 1)
                    texts.pop()
    assert seen > 25


def _compare(model: Any, texts: list[tuple[list[int], list[int]]], logits_BV: torch.Tensor) -> None:
    for (prompt, answer), found_V in zip(texts, logits_BV, strict=True):
        wanted_V = forced(model, [prompt], [[*answer, 2]], 0, torch.device("cpu"))[0, -1]
        assert torch.allclose(closed(found_V), closed(wanted_V), atol=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "t5", "transformer_xl"])
def test_a_prompt_that_cannot_be_read_leaves_the_others_as_they_are(name: str) -> None:
    model = model_of(name)
    decoder = decoder_of(model, 0, torch.device("cpu"))
    with torch.inference_mode():
        first = decoder.admit([[5, 6, 7]])
        with pytest.raises(IndexError):
            decoder.admit([[SIZE + 9, 3]])
        assert len(decoder) == 1
        answer = [int(first[0].argmax())]
        logits_BV = decoder.step(torch.tensor(answer))
        _compare(model, [([5, 6, 7], answer)], logits_BV)
    assert decoder.bytes > 0
