"""An engine's answers held to those of its model, and the times of those who ask it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from llmyard.compression.quantizing import Scheme, quantize
from llmyard.generation.parity import Parity, ParityLost, parity, parity_of_labels
from llmyard.generation.timing import time_labelling, time_writing
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama
from llmyard.models.families import SpanHeads, build, build_labeller
from llmyard.tasks.task import Marked
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

TEXTS = ["Malo lives in Kora Town.", "马洛住在科拉镇。", "a lamp", "科拉镇", "The lamp of Malo"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=320, split_han=True))


def model_of(family: str, tokenizer: Tokenizer) -> Any:
    torch.manual_seed(0)
    both = {"encoder_layers": 1, "decoder_layers": 1, "hidden_size": 64, "heads": 2, "feed_forward_size": 64}
    shapes: dict[str, Any] = {
        "gpt2": Gpt2(layers=1, hidden_size=64, heads=2),
        "llama": Llama(layers=1, hidden_size=64, heads=2, feed_forward_size=64),
        "t5": T5(**both),
        "transformer": EncoderDecoder(**both),
    }
    model: Any = build(
        shapes[family], vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id, max_tokens=64
    )
    with torch.no_grad():  # as they begin, models repeat what they read, and their logits lie close together
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name and "wte" not in name:
                weight.mul_(20)
    return model.eval()


@pytest.mark.parametrize("kind", ["", "int8_dynamic"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "transformer"])
def test_mixed_batches_change_no_answer(family: str, kind: Any, tokenizer: Tokenizer) -> None:
    model = model_of(family, tokenizer)
    if kind:
        quantize(model, Scheme(kind))
    engine = TorchEngine(copy.deepcopy(model), tokenizer, threads=1)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    try:
        found = parity(engine, model, prompts, 12, at_once=8)
        assert found == Parity(15, found.tokens, found.near, ())
        assert found.tokens > 15
        found.check("checkpoint/a@1")
        with torch.no_grad():  # another model than the one that the engine has
            model.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight.roll(7, 0))
        other = parity(engine, model, prompts, 12)
        with pytest.raises(ParityLost, match=f"answers {len(other.differing)} of 15 prompts otherwise"):
            other.check("checkpoint/a@1")
    finally:
        engine.close()


def test_a_changed_prompt_is_noticed(tokenizer: Tokenizer) -> None:
    """As where the endpoint's template is not the one of the evaluation."""
    model = model_of("gpt2", tokenizer)
    engine = TorchEngine(copy.deepcopy(model), tokenizer, threads=1)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    asked = {tuple(each): (*tokenizer.encode("Q: "), *each) for each in prompts}
    generate = engine.generate
    engine.generate = lambda request: generate(  # type: ignore[method-assign]
        type(request)(request.id, asked[tuple(request.prompt)], request.max_new_tokens)
    )
    try:
        assert parity(engine, model, prompts, 12).differing
    finally:
        engine.close()


def test_labels_do_not_depend_on_the_batch(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    shape = Bert(layers=1, hidden_size=32, heads=2, feed_forward_size=32)
    heads = SpanHeads(("person", "place"), ("lives in",))
    sizes = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "max_tokens": 64}
    engines = [TorchEngine(build_labeller(shape, heads, **sizes).eval(), tokenizer, threads=1) for _ in range(2)]
    one, other = engines
    texts = [Marked(text) for text in TEXTS]
    try:
        assert parity_of_labels(one, one, texts).differing == ()
        assert parity_of_labels(one, other, texts).differing
    finally:
        for engine in engines:
            engine.close()


@pytest.mark.parametrize("streams", [1, 4])
def test_all_answers_are_timed_and_equally_long(streams: int, tokenizer: Tokenizer) -> None:
    engine = TorchEngine(model_of("transformer", tokenizer), tokenizer, threads=1)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    try:
        found = time_writing(engine, prompts, streams, 6)
    finally:
        engine.close()
    assert found.tokens == 6 * len(prompts)
    assert len(found.first) == len(found.whole) == len(prompts)
    assert all(0 < first <= whole <= found.seconds for first, whole in zip(found.first, found.whole, strict=True))
    assert found.rate == pytest.approx(found.tokens / found.seconds)


def test_labelling_is_timed_by_batch(tokenizer: Tokenizer) -> None:
    shape = Bert(layers=1, hidden_size=32, heads=2, feed_forward_size=32)
    sizes = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "max_tokens": 64}
    engine = TorchEngine(build_labeller(shape, SpanHeads(("person",)), **sizes).eval(), tokenizer, threads=1)
    try:
        found = time_labelling(engine, [Marked(text) for text in TEXTS], 4)
    finally:
        engine.close()
    assert len(found.whole) == 4
    assert found.tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)
