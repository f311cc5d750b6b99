"""Objectives: losses are sums over exactly the targets, however batches are padded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmyard.models.config import Bert, EncoderDecoder, Gpt2
from llmyard.models.families import SpanHeads, build, build_labeller
from llmyard.tokens.packing import PackedSequence
from llmyard.tokens.views import Example
from llmyard.training.objectives import IGNORE, CausalLmObjective, pad
from llmyard.training.task_objectives import SequenceToSequenceObjective, SpanObjective

NONE = np.zeros(0, np.int32)


def example(ids: list[int], start: int = 0, labels: list[int] | None = None, pairs: tuple[int, ...] = ()) -> Example:
    tags = None if labels is None else np.array(labels, np.uint16)
    return Example(np.array(ids, np.uint16), tags, start, np.array(pairs, np.int32) if pairs else NONE)


def test_padding_makes_one_tensor_of_rows() -> None:
    assert pad([[1, 2], [3], []], 9).tolist() == [[1, 2], [3, 9], [9, 9]]
    assert pad([[1]], 0, 3).tolist() == [[1, 0, 0]]


def test_causal_targets_are_the_inputs_one_further() -> None:
    objective = CausalLmObjective()
    batch = objective.collate([np.arange(5, dtype=np.uint16), np.arange(5, 10, dtype=np.uint16)])
    assert objective.targets(batch) == 8
    logits = torch.randn(2, 4, 12)

    def model(input_ids: Any, use_cache: bool) -> Any:
        assert input_ids.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
        return SimpleNamespace(logits=logits)

    model.training = True  # type: ignore[attr-defined]
    wanted = sum(
        F.cross_entropy(logits[row, at], torch.tensor(row * 5 + at + 1)) for row in range(2) for at in range(4)
    )
    assert float(objective.loss(model, batch)) == pytest.approx(float(wanted), rel=1e-5)


def test_the_decoder_starts_from_the_prompts_last_token() -> None:
    batch = SequenceToSequenceObjective(0).collate([example([7, 8, 9, 4, 5, 1], 3), example([6, 2, 1], 2)])
    assert batch["source"].tolist() == [[7, 8, 9], [6, 2, 0]]
    assert batch["inputs"].tolist() == [[9, 4, 5], [2, 0, 0]]
    assert batch["targets"].tolist() == [[4, 5, 1], [1, IGNORE, IGNORE]]
    assert SequenceToSequenceObjective(0).targets(batch) == 4


@torch.no_grad()
def test_a_batch_of_pairs_loses_what_its_pairs_lose_alone() -> None:
    torch.manual_seed(0)
    shape = EncoderDecoder(encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16)
    model = build(shape, vocab_size=30, pad_id=0, end_id=1, max_tokens=0).eval()
    objective = SequenceToSequenceObjective(0)
    samples = [example([7, 8, 9, 4, 5, 1], 3), example([6, 2, 1], 2), example([3, 4, 5, 6, 2, 9, 8, 7, 1], 5)]
    together = float(objective.loss(model, objective.collate(samples)))
    alone = sum(float(objective.loss(model, objective.collate([each]))) for each in samples)
    assert together == pytest.approx(alone, rel=1e-5)


@torch.no_grad()
def test_a_batch_of_taggings_loses_what_its_texts_lose_alone() -> None:
    torch.manual_seed(0)
    shape = Bert(layers=1, hidden_size=16, heads=2, feed_forward_size=16)
    heads = SpanHeads(("a", "b"), ("r", "s"))
    model = build_labeller(shape, heads, vocab_size=30, pad_id=0, max_tokens=12).eval()
    objective = SpanObjective(0, 2)
    samples = [
        example([7, 8, 9, 4], labels=[1, 2, 0, 3], pairs=(1, 0, 3)),
        example([6, 2], labels=[0, 0]),
        example([3, 4, 5, 6, 2, 9], labels=[1, 0, 1, 3, 4, 0], pairs=(0, 0, 2, 1, 3, 0)),
    ]
    batch = objective.collate(samples)
    assert batch["starts"].tolist() == [[0, 3, 0], [0, 0, 0], [0, 2, 3]]
    assert batch["valid"].tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert batch["related"].nonzero().tolist() == [[0, 1, 0, 1], [2, 0, 0, 1], [2, 1, 2, 0]]
    assert objective.targets(batch) == 12
    together = float(objective.loss(model, batch))
    alone = sum(float(objective.loss(model, objective.collate([each]))) for each in samples)
    assert together == pytest.approx(alone, rel=1e-5)


def packed_of(*documents: list[int]) -> PackedSequence:
    lengths = np.array([len(each) for each in documents])
    return PackedSequence(np.concatenate(documents).astype(np.uint16), np.cumsum(lengths) - lengths)


@torch.no_grad()
def test_a_packed_document_has_the_logits_it_has_alone() -> None:
    torch.manual_seed(0)
    model = build(
        Gpt2(layers=3, hidden_size=32, heads=4), vocab_size=50, pad_id=0, end_id=1, max_tokens=24
    ).eval()  # fmt: skip
    documents = [[7, 8, 9, 4, 5, 1], [1], [6, 2, 30, 31, 32, 33, 34, 1], [3, 4, 1]]
    objective = CausalLmObjective(0, document_boundaries=True)
    batch = objective.collate([packed_of(*documents), packed_of(documents[2])])
    logits = model(input_ids=batch["ids"][:, :-1], position_ids=batch["positions"], use_cache=False).logits
    at = 0
    for ids in documents:
        alone = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        together = logits[0, at : at + len(ids)]
        assert torch.allclose(together, alone[: len(together)], atol=1e-5)
        at += len(ids)
    plain = model(input_ids=batch["ids"][:, :-1], use_cache=False).logits
    assert not torch.allclose(plain[0, 7:10], logits[0, 7:10], atol=1e-3)  # without them documents see each other


@torch.no_grad()
def test_packed_documents_lose_what_they_lose_alone() -> None:
    torch.manual_seed(0)
    model = build(Gpt2(layers=2, hidden_size=16, heads=2), vocab_size=50, pad_id=0, end_id=1, max_tokens=24).eval()
    documents = [[7, 8, 9, 4, 5, 1], [6, 2, 30, 31, 1], [3, 4, 1], [9, 1]]
    objective = CausalLmObjective(0, document_boundaries=True)
    batch = objective.collate([packed_of(*documents[:2]), packed_of(*documents[2:])])
    assert batch["labels"].tolist() == [
        [8, 9, 4, 5, 1, IGNORE, 2, 30, 31, 1], [4, 1, IGNORE, 1, *[IGNORE] * 6],
    ]  # fmt: skip
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3], [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]]
    alone = [objective.collate([packed_of(each)]) for each in documents]
    assert objective.targets(batch) == sum(objective.targets(each) for each in alone) == 12
    together = float(objective.loss(model, batch))
    assert together == pytest.approx(sum(float(objective.loss(model, each)) for each in alone), rel=1e-5)


def test_without_boundaries_only_padding_is_no_target() -> None:
    objective = CausalLmObjective(0)
    batch = objective.collate([packed_of([7, 8, 1], [9, 1]), packed_of([3, 1])])
    assert batch["labels"].tolist() == [[8, 1, 9, 1], [1, IGNORE, IGNORE, IGNORE]]
    assert "positions" not in batch
