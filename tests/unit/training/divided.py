"""One worker of a small training, which ``test_divided.py`` starts as a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from llmyard.core.storage import Storage
from llmyard.models.config import Gpt2, Llama, Model
from llmyard.models.families import build
from llmyard.tokens.order import DataOrder
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.views import PackedView
from llmyard.training.checkpoint import Checkpoints
from llmyard.training.config import Training
from llmyard.training.layout import lay_out
from llmyard.training.loop import Hooks, train
from llmyard.training.objectives import CausalLmObjective
from llmyard.training.peers import Peers
from llmyard.training.speed import flops_a_token
from llmyard.training.streams import MicroBatch, Stream, Streams
from llmyard.training.validation import validate

VOCAB, LENGTH, STEPS = 40, 12, 50
SHAPES: dict[str, Model] = {
    "llama": Llama(layers=2, hidden_size=16, heads=4, key_value_heads=2, feed_forward_size=24),
    "gpt2": Gpt2(layers=3, hidden_size=16, heads=2),
}


def make_shards(folder: Path) -> None:
    """Writes random documents."""
    generator = np.random.default_rng(0)
    for split, shards in (("train", 2), ("validation", 1)):
        for number in range(shards):
            writer = ShardWriter(folder, f"{split}-{number}", np.dtype("<u2"), 64)
            for document in range(20):
                ids = generator.integers(2, VOCAB, int(generator.integers(5, 30)))
                writer.add(ids, document=str(document), source="s")
            writer.close()


class Recorded(Streams):
    """Streams that note which micro-batches they gave."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.given: list[int] = []

    def micro_batches(self, first: int, count: int, size: int, peers: Peers) -> list[MicroBatch]:
        """See :class:`Streams`."""
        made = super().micro_batches(first, count, size, peers)
        self.given += [each.number for each in made]
        return made


def run(folder: Path, peers: Peers, fields: dict[str, Any], stop_after: int = STEPS) -> dict[str, Any]:
    """Trains from the newest checkpoint in a folder to ``stop_after`` steps, and returns what it saw."""
    torch.set_num_threads(1)
    family = fields.pop("family", "llama")
    plain: dict[str, Any] = {
        "steps": STEPS, "seed": 3, "precision": "float32", "batch": {"size": 8, "micro_batch": 2},
        "resources": {"workers": peers.world}, "schedule": {"warmup_steps": 3}, "checkpoint_every_steps": 10,
        "optimizer": {"learning_rate": 3e-3},
    }  # fmt: skip
    config = Training.model_validate({**plain, **fields})
    torch.manual_seed(1)
    model = build(SHAPES[family], vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=LENGTH)
    layout = lay_out(model, config, peers, torch.device("cpu"))
    view = PackedView(ShardSet(folder / "shards", "train"), LENGTH)
    objective = CausalLmObjective()
    streams = Recorded([Stream(objective, view, DataOrder(view.rows, config.seed))])
    checkpoints = Checkpoints(Storage(str(folder)), "progress", 1, peers, keep=10)
    losses: dict[int, float] = {}
    norms: dict[int, float] = {}

    def log(step: int, metrics: Any) -> None:
        losses[step], norms[step] = metrics["loss"], metrics["gradient_norm"]

    hooks = Hooks(
        log, checkpoints.save, asked=lambda: (False, len(streams.given) > 0 and _done(losses) >= stop_after - 1)
    )
    if config.parallel.model_workers == 1:  # counting must leave the model as it was
        (first,) = Streams.micro_batches(streams, 0, 1, 2, Peers())
        assert flops_a_token(layout, first) > 0
    train(layout, streams, config, hooks, checkpoints.latest())
    checkpoints.wait()
    held = {}
    if config.parallel.pipeline == 1:
        validation = PackedView(ShardSet(folder / "shards", "validation"), LENGTH)
        held = validate(layout, Stream(objective, validation, DataOrder(validation.rows, 0, shuffle=False)), config, 64)
    return {"losses": losses, "norms": norms, "given": streams.given, "held": held.get("loss")}


def _done(losses: dict[int, float]) -> int:
    return max(losses, default=0)


def work(folder: str, rank: int, world: int, fields: dict[str, Any], until: int, meeting: str, answer: str) -> None:
    """Runs one worker, and writes what it saw to a file."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    Path(answer).write_text(json.dumps(run(Path(folder), Peers.current(), fields, until)))
    if world > 1:
        dist.destroy_process_group()
