"""What a reduction looks at to tell what matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmyard.compression.importance import by_taylor
from llmyard.models.config import Gpt2
from llmyard.models.families import build
from llmyard.stages.reduction import loss_of
from llmyard.tokens.views import Example
from llmyard.training.streams import MicroBatch
from llmyard.training.task_objectives import PreferenceObjective

PROMPT, CHOSEN = [5, 6, 7], [8, 9, 1]


def preferences(rejected: list[int]) -> MicroBatch:
    """Returns one pair of replies, whose model is held to nothing."""
    objective = PreferenceObjective(0, None, 0.1)
    ids = np.array([*PROMPT, *CHOSEN, *rejected])
    pair = Example(ids, None, len(PROMPT), np.array([len(CHOSEN)], np.int32))
    return MicroBatch(0, objective, objective.collate([pair]))


def test_what_matters_to_a_model_of_preferences_is_what_writes_the_chosen_reply() -> None:
    torch.manual_seed(0)
    model = build(Gpt2(layers=2, hidden_size=16, heads=2), vocab_size=12, pad_id=0, end_id=1, max_tokens=16).eval()
    logits = model(input_ids=torch.tensor([[*PROMPT, *CHOSEN[:-1]]])).logits[0, len(PROMPT) - 1 :]
    expected = F.cross_entropy(logits, torch.tensor(CHOSEN))
    longer = [10, 11, 10, 11, 1]
    assert loss_of(model, preferences(longer)).item() == pytest.approx(expected.item(), rel=1e-5)

    # Replies that are written alike cancel in the loss that the model was trained with, held to itself.
    alike = preferences(CHOSEN)
    held = PreferenceObjective(0, model, 0.1)
    cancelled = by_taylor(model, [alike], lambda model, micro: held.loss(model, micro.batch))
    found = by_taylor(model, [alike], loss_of)
    assert max(cancelled.layers.values()) < 1e-4
    assert min(found.layers.values()) > 0.01
    assert all(float(each.min()) > 0 for each in found.units.values())
