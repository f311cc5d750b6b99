"""What a training takes is reckoned near to what it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama, Model, TransformerXl
from llmyard.models.families import build
from llmyard.models.size import activation_bytes
from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.sizing import size_of

VOCAB, BATCH, LENGTH = 2000, 2, 96
SHAPES: list[Model] = [
    Gpt2(layers=3, hidden_size=96, heads=4, dropout=0.1),
    Gpt2(layers=5, hidden_size=64, heads=2),
    Llama(layers=3, hidden_size=96, heads=4, feed_forward_size=256),
    Bert(layers=4, hidden_size=64, heads=4, feed_forward_size=200, dropout=0.1),
    T5(encoder_layers=3, decoder_layers=2, hidden_size=64, heads=4, feed_forward_size=256, dropout=0.1),
    EncoderDecoder(encoder_layers=2, decoder_layers=2, hidden_size=96, heads=4, feed_forward_size=256),
    TransformerXl(layers=3, hidden_size=64, heads=2, feed_forward_size=256, memory_length=0, dropout=0.1),
]


def kept_for_backward(model: torch.nn.Module, run: Any) -> int:
    """Returns the bytes that a forward pass keeps, each piece of memory once, weights not counted."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda each: each):
        kept = run()
    assert kept.requires_grad
    return sum(each.untyped_storage().nbytes() for place, each in found.items() if place not in weights)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.family}-{shape.dropout}")
def test_activations_are_estimated_within_a_third(shape: Model) -> None:
    model = build(shape, vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=LENGTH).train()
    ids = torch.randint(2, VOCAB, (BATCH, LENGTH))

    def loss() -> torch.Tensor:
        two = {"decoder_input_ids": ids} if shape.family in ("t5", "transformer") else {}
        out = model(input_ids=ids, **two)
        logits = out.prediction_logits if shape.family == "bert" else out.logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())

    gradient_of_logits = 4 * VOCAB * BATCH * LENGTH
    counted = kept_for_backward(model, loss) + gradient_of_logits
    assert activation_bytes(shape, VOCAB, BATCH, LENGTH) == pytest.approx(counted, rel=1 / 3)


def job(**fields: Any) -> Pretrain:
    plain = {"output": "b", "shards": "c", "steps": 100, "model": {"preset": "gpt2-124m"}, "sequence_length": 1024,
             "batch": {"size": 64, "micro_batch": 8}}  # fmt: skip
    return Pretrain.model_validate(plain | fields)


def bytes_of(**fields: Any) -> int:
    found = size_of(job(**fields), 50_257)
    assert found is not None
    return found.worker_bytes


def test_what_saves_memory_is_reckoned_with() -> None:
    plain = bytes_of()
    assert bytes_of(activation_checkpointing=True) < plain
    assert bytes_of(precision="bfloat16") < plain
    assert bytes_of(fused_loss=True) < plain - 3 * 4 * 50_257 * 8 * 1024 + 1
    assert bytes_of(batch={"size": 64, "micro_batch": 4}) < 0.6 * plain
    assert bytes_of(parallel={"shard": 2}) < plain - 14 * 124e6 / 2
    on_gpu = bytes_of(resources={"workers": 2, "gpus_per_worker": 1})
    assert plain - on_gpu == pytest.approx(600e6 + 12 * 124.4e6, rel=0.01)  # the process, and the checkpoint's copy


def test_a_model_that_is_not_known_yet_has_no_size() -> None:
    assert size_of(job(), 0) is None
    assert size_of(job(model=None, init="other"), 100) is None


def test_a_training_that_goes_on_is_as_large_as_its_base() -> None:
    base = job().model
    assert size_of(job(model=None, init="other"), 50_257, base) == size_of(job(), 50_257)
    tuned = {"output": "t", "init": "b", "task": {"kind": "translation"}, "tokenizer": "c", "steps": 100,
             "data": {"kind": "smallworld"}, "batch": {"size": 64, "micro_batch": 8}}  # fmt: skip
    whole, beside = (
        size_of(Finetune.model_validate(tuned | {"method": {"kind": kind}}), 50_257, base) for kind in ("full", "lora")
    )
    assert whole is not None
    assert beside is not None
    assert whole.worker_bytes - beside.worker_bytes == (16 + 12 - 4) * whole.parameters
