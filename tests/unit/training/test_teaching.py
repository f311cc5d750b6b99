"""Hidden states and tags learned from a teacher, against their formulas and over all forms of model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama
from llmyard.models.families import SpanHeads, build, build_labeller
from llmyard.tokens.views import Example
from llmyard.training.objectives import IGNORE, TokenLoss
from llmyard.training.task_objectives import PromptedLmObjective, SequenceToSequenceObjective, SpanObjective
from llmyard.training.teaching import Teacher

SIZE = 40
NONE = np.zeros(0, np.int32)
SAMPLES = [Example(np.array([5, 6, 7, 8, 9, 3]), None, 3, NONE), Example(np.array([11, 12, 4, 3]), None, 2, NONE)]


def model_of(family: str, width: int, layers: int, seed: int) -> Any:
    torch.manual_seed(seed)
    both = {"encoder_layers": layers, "decoder_layers": layers, "hidden_size": width, "heads": 2}
    shapes: dict[str, Any] = {
        "gpt2": Gpt2(layers=layers, hidden_size=width, heads=2),
        "llama": Llama(layers=layers, hidden_size=width, heads=2, feed_forward_size=width),
        "transformer": EncoderDecoder(feed_forward_size=width, **both),
        "t5": T5(feed_forward_size=width, **both),
    }
    return build(shapes[family], vocab_size=SIZE, pad_id=0, end_id=1, max_tokens=64).eval()


def objective_of(family: str, teacher: Teacher | None) -> Any:
    kind = PromptedLmObjective if family in ("gpt2", "llama") else SequenceToSequenceObjective
    return kind(0, TokenLoss(teacher=teacher))


@pytest.mark.parametrize("family", ["gpt2", "llama", "transformer", "t5"])
def test_hidden_states_of_another_width_and_depth_are_learned(family: str) -> None:
    student, teacher = model_of(family, 16, 1, 0), model_of(family, 32, 3, 1)
    only = objective_of(family, Teacher(teacher, 1e-9, 1.0, hidden=1.0))
    plain = objective_of(family, None)
    batch = plain.collate(SAMPLES)
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)

    def apart() -> torch.Tensor:
        found: torch.Tensor = only.loss(student, batch) - plain.loss(student, batch)
        return found

    first = float(apart().detach())
    assert first > 0.01
    for _ in range(30):
        optimizer.zero_grad()
        apart().backward()
        optimizer.step()
    assert float(apart().detach()) < 0.5 * first


@pytest.mark.parametrize("family", ["gpt2", "transformer"])
def test_a_model_is_no_way_from_itself(family: str) -> None:
    model = model_of(family, 16, 2, 0).train()
    taught = objective_of(family, Teacher(copy.deepcopy(model).eval(), 1.0, 2.0, hidden=5.0))
    assert abs(float(taught.loss(model, taught.collate(SAMPLES)).detach())) < 1e-4


def test_hidden_distance_is_that_of_cosines_between_the_answers_tokens() -> None:
    student, teacher = model_of("gpt2", 16, 1, 0), model_of("gpt2", 32, 2, 1)
    taught = objective_of("gpt2", Teacher(teacher, 1e-9, 1.0, hidden=3.0))
    plain = objective_of("gpt2", None)
    batch = plain.collate(SAMPLES)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in (("student", student.transformer.h[-1]), ("teacher", teacher.transformer.h[-1])):
        layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    student.train()
    for module in student.modules():
        module.training = isinstance(module, type(student))  # in training, but without dropout
    with torch.no_grad():
        found = float(taught.loss(student, batch) - plain.loss(student, batch))
        teacher(input_ids=batch["ids"])
        student(input_ids=batch["ids"])
    wanted = 0.0
    for row in range(2):
        places = [at for at in range(batch["labels"].shape[1]) if batch["labels"][row, at] != IGNORE]
        squares = []
        for one in places:
            for two in places:
                cosines = [F.cosine_similarity(seen[name][row, one], seen[name][row, two], dim=0) for name in seen]
                squares.append(float((cosines[0] - cosines[1]) ** 2))
        wanted += sum(squares) / len(places)
    assert found == pytest.approx(3 * wanted, rel=1e-3)


def test_tags_and_relations_are_learned_from_a_teacher() -> None:
    torch.manual_seed(0)
    heads = SpanHeads(("person", "place"), ("lives in",))
    sizes = {"vocab_size": SIZE, "pad_id": 0, "max_tokens": 16}
    student, teacher = (
        build_labeller(Bert(layers=layers, hidden_size=width, heads=2, feed_forward_size=width), heads, **sizes)
        for layers, width in ((1, 16), (2, 32))
    )
    teacher.eval()
    samples = [
        Example(np.array([5, 6, 7, 8]), np.array([1, 2, 0, 3]), 0, np.array([0, 0, 3], np.int32)),
        Example(np.array([9, 10, 11]), np.array([0, 1, 0]), 0, NONE),
    ]
    objective = SpanObjective(0, 1, teacher=Teacher(teacher, 1.0, 1.0))
    batch = objective.collate(samples)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    student.train()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.loss(student, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert all(loss > 0 for loss in losses)
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    student.eval()
    with torch.no_grad():
        (tags, scores), (their_tags, their_scores) = (
            each(batch["tokens"], batch["starts"]) for each in (student, teacher)
        )
    labelled = batch["tags"] != IGNORE
    assert (tags.argmax(-1) == their_tags.argmax(-1))[labelled].float().mean() > 0.8
    first = scores[0, 0, 0, 1].sigmoid() - their_scores[0, 0, 0, 1].sigmoid()
    assert abs(float(first)) < 0.15
