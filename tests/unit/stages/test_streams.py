"""Every family learns by its objectives, resumes bit by bit, and is judged by the figures of its kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from llmyard.models.families import build
from llmyard.sources.smallworld import SmallWorld
from llmyard.stages.config import Pretrain, job_adapter
from llmyard.stages.streams import extra_ids, pretraining
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.frequencies import token_counts
from llmyard.tokens.order import DataOrder
from llmyard.tokens.shards import ShardSet, ShardWriter, token_dtype
from llmyard.tokens.tokenizer import Tokenizer
from llmyard.training.config import objectives_of
from llmyard.training.layout import Layout
from llmyard.training.loop import Hooks, train
from llmyard.training.progress import Remembered
from llmyard.training.streams import Streams
from llmyard.training.validation import validate

WORLD = SmallWorld("dev", seed=7)
TEXTS = [WORLD.document(index).text for index in range(160)]
TOKENIZER = Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=700))
TINY = {"hidden_size": 32, "heads": 2, "dropout": 0.1}
RUNS: dict[str, dict[str, Any]] = {
    "gpt2": {"model": {"family": "gpt2", "layers": 1, **TINY}, "label_smoothing": 0.1},
    "llama": {"model": {"family": "llama", "layers": 1, "feed_forward_size": 48, **TINY}, "packing": "best_fit",
              "document_boundaries": True, "z_loss": 1e-4},
    "bert": {"model": {"family": "bert", "layers": 1, **TINY}, "objective": {"kind": "masked_lm"}},
    "bert, one segment": {"model": {"family": "bert", "layers": 1, **TINY},
                          "objective": {"kind": "masked_lm", "pairs": "none", "whole_words": False}},
    "t5": {"model": {"family": "t5", "encoder_layers": 1, "decoder_layers": 1, "feed_forward_size": 48, **TINY},
           "objective": {"kind": "span_corruption"}},
    "transformer": {
        "model": {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1, "positions": "learned", **TINY},
        "objective": {"kind": "mixture", "parts": [
            {"objective": {"kind": "denoising"}, "weight": 2}, {"objective": {"kind": "prefix_lm"}},
            {"objective": {"kind": "span_corruption"}}]},
    },
    "transformer_xl": {"model": {"family": "transformer_xl", "layers": 2, "memory_length": 40, **TINY},
                       "objective": {"kind": "recurrent_lm"}},
    "word_vectors": {"model": {"family": "word_vectors", "hidden_size": 32}, "objective": {"kind": "skip_gram"},
                     "optimizer": {"learning_rate": 2e-2}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for split, texts in (("train", TEXTS[:130]), ("validation", TEXTS[130:])):
        for number in range(2):
            writer = ShardWriter(folder, f"{split}-{number}", token_dtype(TOKENIZER.vocab_size), 64)
            for at, text in enumerate(texts[number::2]):
                writer.add([*TOKENIZER.encode(text), TOKENIZER.end_id], document=str(at), source="s")
            writer.close()
    return folder


def config_of(name: str, steps: int, **fields: Any) -> Pretrain:
    training = {"steps": steps, "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 1}}
    plain = {"kind": "pretrain", "output": "x", "shards": "s", "sequence_length": 32, "checkpoint_every_steps": 3,
             "optimizer": {"learning_rate": 5e-3}, "precision": "float32", **training}  # fmt: skip
    config = job_adapter().validate_python({**plain, **RUNS[name], **fields})
    assert isinstance(config, Pretrain)
    return config


class Training:
    """A run from the beginning, or from a checkpoint."""

    def __init__(self, name: str, folder: Path, steps: int, start: Any = None) -> None:
        self.config = config_of(name, steps)
        shards = ShardSet(folder, "train")
        parts = objectives_of(self.config.objective)
        order = lambda view, shards: DataOrder(view.rows, 5)  # noqa: E731
        self.counts = token_counts(shards.shards, TOKENIZER.vocab_size)
        made = [pretraining(self.config, each, shards, TOKENIZER, order, self.counts) for each in parts]
        weights = [part.weight for part in getattr(self.config.objective, "parts", ())] or [1.0]
        torch.manual_seed(1)
        assert self.config.model is not None
        vocabulary = TOKENIZER.vocab_size + extra_ids(self.config)
        self.model = build(
            self.config.model, vocab_size=vocabulary, pad_id=TOKENIZER.pad_id, end_id=TOKENIZER.end_id, max_tokens=40
        )
        self.losses: dict[int, float] = {}
        self.states: dict[int, Any] = {}
        hooks = Hooks(
            lambda step, metrics: self.losses.update({step: metrics["loss"]}),
            lambda step, tensors, facts, best: self.states.update({step: Remembered(step, tensors, facts)}),
        )
        train(Layout(self.model), Streams(made, weights, 5), self.config, hooks, start)

    def validated(self, folder: Path) -> dict[str, float]:
        objective = objectives_of(self.config.objective)[0]
        stream = pretraining(self.config, objective, ShardSet(folder, "validation"), TOKENIZER, counts=self.counts)
        return validate(Layout(self.model), stream, self.config, 64)


@pytest.mark.parametrize("name", RUNS)
def test_it_learns_and_a_resumed_run_has_the_same_weights(folder: Path, name: str) -> None:
    whole = Training(name, folder, 24)
    assert sum(list(whole.losses.values())[-4:]) < 0.97 * sum(list(whole.losses.values())[:4])
    torch.rand(3)
    rest = Training(name, folder, 24, whole.states[12])
    for left, right in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert rest.losses == {step: loss for step, loss in whole.losses.items() if step > 12}
    figures = whole.validated(folder)
    assert 0 < figures["loss"] < math.log(TOKENIZER.vocab_size + 102)
    if name == "bert":
        assert figures["loss"] > figures["masked_loss"] > 0
        assert 0 <= figures["pair_accuracy"] <= 1
    assert ("pair_accuracy" in figures) == (name == "bert")


def test_a_forgotten_memory_is_noticed(folder: Path) -> None:
    """The control of the test above: without its memories a Transformer-XL does not go on as it was."""
    whole = Training("transformer_xl", folder, 6)
    state = whole.states[3]
    for name in [name for name in state.tensors if name.startswith("memory/")]:
        del state.tensors[name]
    rest = Training("transformer_xl", folder, 6, state)
    assert rest.losses[4] != whole.losses[4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": {"kind": "masked_lm"}}, "family gpt2 does not learn by masked_lm, but by causal_lm"),
        ({"model": {"family": "bert"}, "objective": {"kind": "masked_lm"}, "packing": "best_fit"}, "are causal_lm's"),
        ({"model": {"preset": "gpt2-125"}}, "no preset 'gpt2-125'"),
        ({"patience": 2}, "give `evaluate_every_steps` too"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of("gpt2", 4, **fields)
