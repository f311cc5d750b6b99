"""What tokens did for an answer: it adds up, and it finds the token that decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llmyard.generation.attribution import attributions_of, integrated_gradients
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2
from llmyard.models.families import ClassHead, build, build_labeller
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Classification
from llmyard.tasks.task import Decoding
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

WORDS = ["好", "坏", "片", "子", "看", "真", "很"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["".join(WORDS)] * 9, BpeTokenizer(vocab_size=300, split_han=True))


def test_attributions_add_up_to_the_difference_of_scores() -> None:
    torch.manual_seed(0)
    layer, head = torch.nn.Embedding(9, 5), torch.nn.Linear(5, 3)
    ids = torch.tensor([[1, 2, 3, 4]])

    def score() -> torch.Tensor:
        return torch.tanh(head(layer(ids))).pow(3).sum()

    found = integrated_gradients([layer], score, steps=200)
    with torch.no_grad():
        nothing = torch.tanh(head(torch.zeros(1, 4, 5))).pow(3).sum()
        assert float(found.sum()) == pytest.approx(float(score() - nothing), abs=1e-3)
    assert not layer._forward_hooks


def test_the_word_that_decides_is_found(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    shape = Bert(layers=1, hidden_size=32, heads=2, feed_forward_size=32)
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "max_tokens": 16}
    model = build_labeller(shape, ClassHead(("坏评", "好评")), **ids)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    fill = [tokenizer.encode(word)[0] for word in WORDS[2:]]
    decide = [tokenizer.encode(word)[0] for word in ("坏", "好")]
    for _ in range(60):
        rows = torch.tensor(fill)[torch.randint(len(fill), (32, 6), generator=generator)]
        labels = torch.randint(2, (32,), generator=generator)
        places = torch.randint(6, (32,), generator=generator)
        rows[torch.arange(32), places] = torch.tensor(decide)[labels]
        optimizer.zero_grad()
        F.cross_entropy(model(rows, torch.zeros_like(rows)), labels).backward()
        optimizer.step()
    engine = TorchEngine(model.eval(), tokenizer, threads=1)
    cases: list[dict[str, Any]] = [{"text": "片子真好看", "label": "好评"}, {"text": "坏片子", "label": "坏评"}]
    try:
        found = attributions_of(engine, task_of(Classification(), "bert"), cases, Decoding())
        still = engine.classify_batch(task_of(Classification(), "bert").inputs(cases[0], tokenizer))
    finally:
        engine.close()
    assert [each.answer for each in found] == ["好评", "坏评"]
    assert still[0].label == "好评"
    for each, word in zip(found, "好坏", strict=True):
        assert each.tokens[max(range(len(each.tokens)), key=each.gradients.__getitem__)] == word
        assert sum(each.attention) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "t5", "transformer"])
def test_written_answers_are_attributed_to_the_prompt(family: str, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 16, "heads": 2}
    both = {"encoder_layers": 1, "decoder_layers": 1, "feed_forward_size": 16, **small}
    shapes: dict[str, Any] = {
        "gpt2": Gpt2(layers=1, **small), "t5": T5(**both), "transformer": EncoderDecoder(**both),
    }  # fmt: skip
    size = tokenizer.vocab_size
    model = build(shapes[family], vocab_size=size, pad_id=0, end_id=tokenizer.end_id, max_tokens=64).eval()
    engine = TorchEngine(model, tokenizer, threads=1)
    task, case = task_of(Classification(), family), {"text": "片子真好看", "label": "好"}
    try:
        (found,) = attributions_of(engine, task, [case], Decoding(max_new_tokens=4))
    finally:
        engine.close()
    assert len(found.gradients) == len(found.tokens) == len(task.prompt(case, tokenizer))
    assert any(abs(each) > 0 for each in found.gradients)
    assert found.attention == ()
