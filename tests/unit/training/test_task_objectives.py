"""Preferences and teachers against their formulas, and options ranked by a model against its own probabilities."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2
from llmyard.models.families import ClassHead, build, build_labeller
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Preference
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer
from llmyard.tokens.views import Example
from llmyard.training.objectives import IGNORE, TokenLoss
from llmyard.training.task_objectives import LabelObjective, PreferenceObjective, PromptedLmObjective
from llmyard.training.teaching import Teacher

TALK = [{"role": "user", "content": "你好吗？"}]
RECORD: dict[str, Any] = {"id": "1", "messages": TALK, "chosen": "我很好。", "rejected": "不知道，别问。"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["你好吗？我很好。不知道，别问。", "good bad"] * 5
    return Tokenizer.train(texts, BpeTokenizer(vocab_size=300, split_han=True))


def gpt2(size: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build(Gpt2(layers=1, hidden_size=16, heads=2), vocab_size=size, pad_id=0, end_id=1, max_tokens=64).eval()


def likelihood(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *reply]])
    said = model(input_ids=ids).logits.log_softmax(-1)[0]
    places = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
    return torch.stack([said[place, ids[0, place + 1]] for place in places]).sum()


def test_preferences_are_learned_by_the_published_formula(tokenizer: Tokenizer) -> None:
    task = task_of(Preference(beta=0.3), "gpt2")
    (made,) = task.encode([task.check(RECORD)], tokenizer, {})
    assert made is not None
    (example,) = made
    sample = Example(np.array(example.ids), None, example.target_start, np.array(example.pairs, np.int32))
    model, reference = gpt2(tokenizer.vocab_size), gpt2(tokenizer.vocab_size, seed=1)
    objective = PreferenceObjective(tokenizer.pad_id, reference, 0.3)
    batch = objective.collate([sample, sample])
    assert objective.targets(batch) == 2
    prompt = task.prompt(RECORD, tokenizer)
    chosen, rejected = ([*tokenizer.encode(RECORD[name]), tokenizer.end_id] for name in ("chosen", "rejected"))
    with torch.no_grad():
        gain = [likelihood(model, prompt, reply) - likelihood(reference, prompt, reply) for reply in (chosen, rejected)]
        expected = -2 * F.logsigmoid(0.3 * (gain[0] - gain[1]))
        assert float(objective.loss(model, batch)) == pytest.approx(float(expected), rel=1e-4)
        same = PreferenceObjective(tokenizer.pad_id, copy.deepcopy(model), 0.3)
        assert float(same.loss(model, batch)) == pytest.approx(2 * math.log(2), rel=1e-5)
    learned = [[each for each in row.tolist() if each != IGNORE] for row in batch["labels"]]
    assert [tokenizer.decode(row[:-1]) for row in learned] == [RECORD["chosen"]] * 2 + [RECORD["rejected"]] * 2


def test_a_preferred_reply_becomes_the_likelier_one(tokenizer: Tokenizer) -> None:
    task = task_of(Preference(), "gpt2")
    (made,) = task.encode([RECORD], tokenizer, {})
    assert made is not None
    sample = Example(np.array(made[0].ids), None, made[0].target_start, np.array(made[0].pairs, np.int32))
    model = gpt2(tokenizer.vocab_size)
    objective = PreferenceObjective(tokenizer.pad_id, copy.deepcopy(model), 0.1)
    batch = objective.collate([sample])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        objective.loss(model, batch).backward()
        optimizer.step()
    with torch.no_grad():
        found = objective.measures(model, batch)
    assert found["accuracy"] == (1.0, 1.0)
    assert found["loss"][0] < 0.3
    engine = TorchEngine(model, tokenizer, threads=1)
    try:
        options = [[tokenizer.encode(each) for each in task.choices(RECORD) or []]]
        ((better, worse),) = engine.rank_batch([task.prompt(RECORD, tokenizer)], options)
    finally:
        engine.close()
    assert better > worse


@pytest.mark.parametrize("family", ["gpt2", "transformer", "t5"])
def test_options_are_ranked_by_the_mean_of_their_log_probabilities(family: str, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    size = tokenizer.vocab_size
    shapes: dict[str, Any] = {
        "gpt2": Gpt2(layers=1, hidden_size=16, heads=2),
        "transformer": EncoderDecoder(
            encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16
        ),
        "t5": T5(encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16),
    }
    model = build(shapes[family], vocab_size=size, pad_id=0, end_id=1, max_tokens=64).eval()
    prompt, options = [7, 9, 11, 8], [[5, 6, 7], [9], [12, 13]]
    engine = TorchEngine(model, tokenizer, threads=1)
    try:
        (found,) = engine.rank_batch([prompt], [options])
    finally:
        engine.close()
    for score, option in zip(found, options, strict=True):
        if family == "gpt2":
            wanted = float(likelihood(model, prompt, option)) / len(option)
        else:
            with torch.no_grad():
                inputs = torch.tensor([[prompt[-1], *option[:-1]]])
                said = model(input_ids=torch.tensor([prompt]), decoder_input_ids=inputs).logits.log_softmax(-1)[0]
            wanted = sum(float(said[at, token]) for at, token in enumerate(option)) / len(option)
        assert score == pytest.approx(wanted, abs=1e-4)


def test_a_teacher_is_learned_in_its_share(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    student, teacher = gpt2(size), gpt2(size + 4, seed=3)
    sample = Example(np.array([5, 6, 7, 8, 9]), None, 2, np.zeros(0, np.int32))
    plain = PromptedLmObjective(0, TokenLoss())
    taught = PromptedLmObjective(0, TokenLoss(teacher=Teacher(teacher, 0.25, 2.0)))
    batch = plain.collate([sample])
    student.train()
    with torch.no_grad():
        said = student(input_ids=batch["ids"]).logits[0, 1:] / 2.0
        heard = teacher(input_ids=batch["ids"]).logits[0, 1:, :size] / 2.0
        distance = 4 * (heard.softmax(-1) * (heard.log_softmax(-1) - said.log_softmax(-1))).sum()
        expected = 0.75 * plain.loss(student, batch) + 0.25 * distance
        assert float(taught.loss(student, batch)) == pytest.approx(float(expected), rel=1e-4)
        student.eval()
        assert float(taught.loss(student, batch)) == pytest.approx(float(plain.loss(student, batch)))


def test_labels_are_taught_too() -> None:
    torch.manual_seed(0)
    shape = Bert(layers=1, hidden_size=16, heads=2, feed_forward_size=16)
    student, teacher = (
        build_labeller(shape, ClassHead(("a", "b")), vocab_size=20, pad_id=0, max_tokens=8) for _ in range(2)
    )
    sample = Example(np.array([3, 4]), np.array([0, 0]), 0, np.array([1], np.int32))
    objective = LabelObjective(0, teacher=Teacher(teacher.eval(), 1.0, 1.0))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    batch = objective.collate([sample])
    student.train()
    first = float(objective.loss(student, batch).detach())
    for _ in range(15):
        optimizer.zero_grad()
        objective.loss(student, batch).backward()
        optimizer.step()
    assert float(objective.loss(student, batch).detach()) < 0.2 * first + 1e-4
