"""The training loop: the same weights whatever the micro-batches, workers and interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmyard.core.errors import TrainingError
from llmyard.models.config import EncoderDecoder, Gpt2
from llmyard.models.families import build
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.views import ExampleView, PackedView
from llmyard.training import loop
from llmyard.training.config import Training
from llmyard.training.loop import Hooks, mean_loss, train
from llmyard.training.objectives import CausalLmObjective, SequenceToSequenceObjective
from llmyard.training.peers import Peers

VOCAB, LENGTH = 40, 12


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    for split, shards in (("train", 3), ("validation", 1)):
        for number in range(shards):
            writer = ShardWriter(folder, f"{split}-{number}", np.dtype("<u2"), 64)
            for document in range(20):
                ids = generator.integers(2, VOCAB, int(generator.integers(5, 30)))
                writer.add(ids, document=str(document), source="s", target_start=int(generator.integers(1, 4)))
            writer.close()
    return folder


def config_of(**fields: Any) -> Training:
    plain: dict[str, Any] = {
        "steps": 8, "seed": 3, "precision": "float32", "batch": {"size": 8, "micro_batch": 4},
        "resources": {"workers": 1}, "schedule": {"warmup_steps": 3}, "checkpoint_every_steps": 4,
        "optimizer": {"learning_rate": 1e-2},
    }  # fmt: skip
    return Training.model_validate({**plain, **fields})


def model_of(dropout: float = 0.0) -> Any:
    torch.manual_seed(1)
    shape = Gpt2(layers=1, hidden_size=16, heads=2, dropout=dropout)
    return build(shape, vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=LENGTH)


class Run:
    """One training with what it logged and saved."""

    def __init__(self, folder: Path, config: Training, dropout: float = 0.0, start: Any = None) -> None:
        self.losses: dict[int, float] = {}
        self.states: dict[int, Any] = {}
        self.model = model_of(dropout)
        view = PackedView(ShardSet(folder, "train"), LENGTH)
        self.metrics = train(
            self.model, CausalLmObjective(), view, config, Peers(), Hooks(self._log, self._save), start
        )  # fmt: skip

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.losses[step] = metrics["loss"]

    def _save(self, step: int, state: dict[str, Any]) -> None:
        import io

        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.states[step] = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)

    def equals(self, other: Run) -> bool:
        pairs = zip(self.model.parameters(), other.model.parameters(), strict=True)
        return all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_loss_is_the_mean_over_the_global_batch_for_any_micro_batch(folder: Path, micro: int) -> None:
    whole = Run(folder, config_of(batch={"size": 8, "micro_batch": 8}))
    divided = Run(folder, config_of(batch={"size": 8, "micro_batch": micro}))
    assert list(divided.losses) == list(range(1, 9))
    for step, loss in whole.losses.items():
        assert divided.losses[step] == pytest.approx(loss, abs=1e-5)


def test_the_first_loss_is_the_mean_over_all_targets_when_lengths_differ(folder: Path) -> None:
    view = ExampleView(ShardSet(folder, "train"))
    objective = SequenceToSequenceObjective(0)
    losses = {}
    for micro in (1, 2, 8):
        torch.manual_seed(1)
        shape = EncoderDecoder(encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16)
        model = build(shape, vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=0)
        seen: dict[int, float] = {}
        hooks = Hooks(lambda step, metrics, seen=seen: seen.update({step: metrics["loss"]}), lambda step, state: None)
        train(model, objective, view, config_of(steps=3, batch={"size": 8, "micro_batch": micro}), Peers(), hooks)
        losses[micro] = seen
    for micro in (1, 2):
        assert list(losses[micro].values()) == pytest.approx(list(losses[8].values()), abs=1e-5)


@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_has_the_weights_of_the_uninterrupted_one_bit_by_bit(folder: Path, step: int) -> None:
    whole = Run(folder, config_of(), dropout=0.3)
    torch.rand(17)  # whatever else drew random numbers in between
    rest = Run(folder, config_of(), dropout=0.3, start=(step, whole.states[step]))
    assert rest.equals(whole)
    assert rest.losses == {at: loss for at, loss in whole.losses.items() if at > step}
    assert rest.metrics["loss"] == whole.metrics["loss"]


def test_without_a_seed_a_micro_batch_a_resumed_run_differs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.torch, "manual_seed", lambda seed: None)
    whole = Run(folder, config_of(), dropout=0.3)
    rest = Run(folder, config_of(), dropout=0.3, start=(4, whole.states[4]))
    assert not rest.equals(whole)


def test_the_seed_decides_the_run(folder: Path) -> None:
    one, two, other = (Run(folder, config_of(seed=seed), dropout=0.1) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(other)


def test_training_lowers_the_loss_and_mean_loss_agrees_with_a_loop(folder: Path) -> None:
    run = Run(folder, config_of(steps=30))
    assert run.losses[30] < run.losses[1]
    view, objective = PackedView(ShardSet(folder, "validation"), LENGTH), CausalLmObjective()
    total = targets = 0.0
    with torch.no_grad():
        for row in range(view.rows[0]):
            batch = objective.collate([view(0, row)])
            total, targets = total + float(objective.loss(run.model, batch)), targets + objective.targets(batch)
    assert mean_loss(run.model, objective, view, config_of(), Peers()) == pytest.approx(total / targets, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(folder: Path) -> None:
    class Breaks(CausalLmObjective):
        def loss(self, model: Any, batch: Any) -> Any:
            calls.append(1)
            return super().loss(model, batch) * (float("nan") if len(calls) > 5 else 1.0)

    calls: list[int] = []
    saved: list[int] = []
    view = PackedView(ShardSet(folder, "train"), LENGTH)
    hooks = Hooks(lambda step, metrics: None, lambda step, state: saved.append(step))
    model = model_of()
    with pytest.raises(TrainingError, match="step 3: loss nan") as caught:
        train(model, Breaks(), view, config_of(checkpoint_every_steps=1), Peers(), hooks)
    assert "learning_rate" in caught.value.remedy
    assert saved == [1, 2]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


WORKER = """
import json, sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
import test_loop as t
rank, world = int(sys.argv[2]), 2
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
losses = {}
hooks = t.Hooks(lambda step, metrics: losses.update({step: metrics["loss"]}), lambda step, state: None)
model = t.model_of(0.2)
view = t.PackedView(t.ShardSet(t.Path(sys.argv[4]), "train"), t.LENGTH)
config = t.config_of(resources={"workers": 2}, steps=4)
t.train(model, t.CausalLmObjective(), view, config, t.Peers.current(), hooks)
validation = t.PackedView(t.ShardSet(t.Path(sys.argv[4]), "validation"), t.LENGTH)
held = t.mean_loss(model, t.CausalLmObjective(), validation, config, t.Peers.current())
norm = float(sum(parameter.double().abs().sum() for parameter in model.parameters()))
print("RESULT" + json.dumps({"losses": losses, "held": held, "norm": norm}))
dist.destroy_process_group()
"""


def test_two_workers_have_the_losses_of_one(folder: Path, tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    arguments = [str(tmp_path / "rendezvous"), str(folder)]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, here, str(rank), *arguments], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    first, second = (json.loads(output.partition("RESULT")[2]) for output in outputs)
    alone = Run(folder, config_of(steps=4), dropout=0.2)
    assert {int(step): loss for step, loss in first["losses"].items()} == pytest.approx(alone.losses, abs=1e-5)
    assert second["losses"] == {}  # only rank 0 logs
    assert first["norm"] == second["norm"]
    view = PackedView(ShardSet(folder, "validation"), LENGTH)
    held = mean_loss(alone.model, CausalLmObjective(), view, config_of(), Peers())
    assert first["held"] == second["held"] == pytest.approx(held, abs=1e-5)
