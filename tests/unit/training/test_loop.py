"""The training loop: the same weights whatever the micro-batches, workers and interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from llmyard.core.errors import TrainingError
from llmyard.models.config import EncoderDecoder, Gpt2
from llmyard.models.families import build
from llmyard.tokens.order import DataOrder
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.views import ExampleView, PackedView
from llmyard.training import progress
from llmyard.training.config import Training
from llmyard.training.layout import Layout
from llmyard.training.loop import Hooks, train
from llmyard.training.objectives import CausalLmObjective
from llmyard.training.progress import Remembered
from llmyard.training.stability import Decision
from llmyard.training.streams import Stream, Streams
from llmyard.training.task_objectives import SequenceToSequenceObjective
from llmyard.training.validation import validate

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


def streams_of(objective: Any, view: Any, config: Training) -> Streams:
    return Streams([Stream(objective, view, DataOrder(view.rows, config.seed))])


def held_out(view: Any) -> Stream:
    return Stream(CausalLmObjective(), view, DataOrder(view.rows, 0, shuffle=False))


class Run:
    """One training with what it logged and saved."""

    def __init__(self, folder: Path, config: Training, dropout: float = 0.0, start: Any = None) -> None:
        self.losses: dict[int, float] = {}
        self.states: dict[int, Remembered] = {}
        self.model = model_of(dropout)
        view = PackedView(ShardSet(folder, "train"), LENGTH)
        streams = streams_of(CausalLmObjective(), view, config)
        metrics = train(Layout(self.model), streams, config, Hooks(self._log, self._save), start)
        assert metrics is not None
        self.metrics = metrics

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.losses[step] = metrics["loss"]

    def _save(self, step: int, tensors: Any, facts: Any, is_best: bool) -> None:
        self.states[step] = Remembered(step, tensors, facts)

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
        hooks = Hooks(lambda step, metrics, seen=seen: seen.update({step: metrics["loss"]}), lambda *_: None)
        config = config_of(steps=3, batch={"size": 8, "micro_batch": micro})
        train(Layout(model), streams_of(objective, view, config), config, hooks)
        losses[micro] = seen
    for micro in (1, 2):
        assert list(losses[micro].values()) == pytest.approx(list(losses[8].values()), abs=1e-5)


@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_has_the_weights_of_the_uninterrupted_one_bit_by_bit(folder: Path, step: int) -> None:
    whole = Run(folder, config_of(), dropout=0.3)
    torch.rand(17)  # whatever else drew random numbers in between
    rest = Run(folder, config_of(), dropout=0.3, start=whole.states[step])
    assert rest.equals(whole)
    assert rest.losses == {at: loss for at, loss in whole.losses.items() if at > step}
    assert rest.metrics["loss"] == whole.metrics["loss"]


def test_without_a_seed_a_micro_batch_a_resumed_run_differs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.torch, "manual_seed", lambda seed: None)
    whole = Run(folder, config_of(), dropout=0.3)
    rest = Run(folder, config_of(), dropout=0.3, start=whole.states[4])
    assert not rest.equals(whole)


def test_the_seed_decides_the_run(folder: Path) -> None:
    one, two, other = (Run(folder, config_of(seed=seed), dropout=0.1) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(other)


def test_training_lowers_the_loss_and_validation_agrees_with_a_loop(folder: Path) -> None:
    run = Run(folder, config_of(steps=30))
    assert run.losses[30] < run.losses[1]
    view, objective = PackedView(ShardSet(folder, "validation"), LENGTH), CausalLmObjective()
    total = targets = 0.0
    with torch.no_grad():
        for row in range(view.rows[0]):
            batch = objective.collate([view(0, row)])
            total, targets = total + float(objective.loss(run.model, batch)), targets + objective.targets(batch)
    found = validate(Layout(run.model), held_out(view), config_of(), 512)
    assert found == {"loss": pytest.approx(total / targets, abs=1e-5)}


def test_a_validation_of_some_samples_is_spread_over_all(folder: Path) -> None:
    run = Run(folder, config_of(steps=1))
    view = PackedView(ShardSet(folder, "validation"), LENGTH)
    read: list[int] = []

    class Noting:
        rows = view.rows

        def __call__(self, shard: int, row: int, epoch: int = 0) -> Any:
            read.append(row)
            return view(shard, row, epoch)

    validate(Layout(run.model), held_out(cast(Any, Noting())), config_of(), 3)
    rows = view.rows[0]
    assert rows > 6
    assert read == [0, rows // 3, 2 * rows // 3]


class Breaks(CausalLmObjective):
    """Its loss is spoilt in the micro-batches of these numbers, from 0."""

    def __init__(self, broken: set[int]) -> None:
        super().__init__()
        object.__setattr__(self, "broken", broken)
        object.__setattr__(self, "calls", [])

    def loss(self, model: Any, batch: Any) -> Any:
        self.calls.append(batch["ids"].sum().item())
        return super().loss(model, batch) * (float("nan") if len(self.calls) - 1 in self.broken else 1.0)


def broken_run(folder: Path, broken: set[int], **fields: Any) -> tuple[Breaks, dict[int, Any], list[Any], Any]:
    """Trains with a spoilt loss; two micro-batches a step."""
    view, objective, saved, events = PackedView(ShardSet(folder, "train"), LENGTH), Breaks(broken), {}, []
    config = config_of(**fields)
    hooks = Hooks(
        lambda step, metrics: None,
        lambda step, tensors, facts, best: saved.update({step: Remembered(step, tensors, facts)}),
        event=lambda step, verdict: events.append((step, verdict.decision)),
        saved=lambda best: saved[max(saved)] if saved else None,
    )  # fmt: skip
    model = model_of()
    train(Layout(model), streams_of(objective, view, config), config, hooks)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return objective, saved, events, model


def test_one_step_that_is_not_finite_is_passed_over(folder: Path) -> None:
    objective, _, events, model = broken_run(folder, {5})
    assert events == [(3, Decision.SKIP)]
    assert len(objective.calls) == 16
    whole = Run(folder, config_of())
    assert not torch.equal(next(model.parameters()), next(whole.model.parameters()))


def test_many_in_a_row_go_back_to_the_checkpoint_and_read_on_behind_them(folder: Path) -> None:
    stability = {"max_skips": 1}
    objective, saved, events, _ = broken_run(folder, set(range(10, 14)), stability=stability)
    assert events == [(6, Decision.SKIP), (7, Decision.ROLL_BACK)]
    assert sorted(saved) == [4, 8]
    # Steps 5 to 7 were read in vain: after the way back to step 4 the data of steps 8, 9, 10, 11 follow.
    undisturbed = Breaks(set())
    view = PackedView(ShardSet(folder, "train"), LENGTH)
    config = config_of(steps=11)
    hooks = Hooks(lambda *_: None, lambda *_: None)
    train(Layout(model_of()), streams_of(undisturbed, view, config), config, hooks)
    assert objective.calls == undisturbed.calls


def test_a_loss_that_is_never_finite_stops_the_run_and_names_the_step(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 6: the loss is not finite.*before the first checkpoint") as caught:
        broken_run(folder, set(range(100)))
    assert "learning_rate" in caught.value.remedy
    with pytest.raises(TrainingError, match="none of 4 steps had a finite loss"):
        broken_run(folder, set(range(100)), steps=4)
    with pytest.raises(TrainingError, match="after 1 roll-backs"):
        broken_run(folder, set(range(9, 300)), steps=60, stability={"max_skips": 1, "max_roll_backs": 1})


def test_averaged_weights_are_those_of_the_formula_and_survive_a_resume(folder: Path) -> None:
    whole = Run(folder, config_of(ema_decay=0.9, checkpoint_every_steps=1))
    average = [each.detach().clone() for each in model_of().parameters()]
    names = [name for name, _ in model_of().named_parameters()]
    for step in range(1, 9):
        for number, name in enumerate(names):
            average[number] = 0.9 * average[number] + 0.1 * whole.states[step].tensors[f"model/{name}"]
    for found, wanted in zip(whole.model.parameters(), average, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-6)
    rest = Run(folder, config_of(ema_decay=0.9), start=whole.states[4])
    assert rest.equals(whole)


def test_training_ends_when_the_validation_loss_has_stopped_falling(folder: Path) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.2, 1.0])
    saved: list[int] = []
    view, config = PackedView(ShardSet(folder, "train"), LENGTH), config_of(evaluate_every_steps=1, patience=2)
    hooks = Hooks(
        lambda *_: None, lambda step, *_: saved.append(step),
        evaluate=lambda step: {"validation_loss": next(losses)},
    )  # fmt: skip
    metrics = train(Layout(model_of()), streams_of(CausalLmObjective(), view, config), config, hooks)
    assert metrics is not None
    assert saved == [4]
    assert metrics["validation_loss"] == 2.2


WORKER = """
import json, sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
import test_loop as t
rank, world = int(sys.argv[2]), 2
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
losses = {}
hooks = t.Hooks(lambda step, metrics: losses.update({step: metrics["loss"]}), lambda *_: None)
model = t.model_of(0.2)
view = t.PackedView(t.ShardSet(t.Path(sys.argv[4]), "train"), t.LENGTH)
config = t.config_of(resources={"workers": 2}, steps=4)
from llmyard.training.peers import Peers
layout = t.Layout(model, Peers.current())
t.train(layout, t.streams_of(t.CausalLmObjective(), view, config), config, hooks)
validation = t.PackedView(t.ShardSet(t.Path(sys.argv[4]), "validation"), t.LENGTH)
held = t.validate(layout, t.held_out(validation), config, 512)["loss"]
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
    held = validate(Layout(alone.model), held_out(view), config_of(), 512)["loss"]
    assert first["held"] == second["held"] == pytest.approx(held, abs=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_deep_post_norm_model_without_warm_up_is_diagnosed_while_it_trains(folder: Path, norm: str) -> None:
    torch.manual_seed(1)
    shape = EncoderDecoder.model_validate(
        {"encoder_layers": 1, "decoder_layers": 24, "hidden_size": 16, "heads": 2, "feed_forward_size": 32}
        | {"norm": norm}
    )
    model = build(shape, vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=64)
    config = config_of(steps=30, schedule={"warmup_steps": 0}, layer_statistics_every_steps=10)
    view = ExampleView(ShardSet(folder, "train"))
    streams = streams_of(SequenceToSequenceObjective(0), view, config)
    seen: dict[int, Any] = {}

    def layers(step: int, statistics: Mapping[str, float], faults: Mapping[str, Any]) -> None:
        seen[step] = (dict(statistics), dict(faults))

    train(Layout(model), streams, config, Hooks(lambda *_: None, lambda *_: None, layers=layers))
    assert sorted(seen) == [10, 20, 30]
    statistics, faults = seen[30]
    assert {f"gradients/decoder_layers/{each:02d}" for each in range(24)} <= statistics.keys()
    assert {f"activations/decoder_layers/{each:02d}" for each in range(24)} <= statistics.keys()
    if norm == "pre":
        assert not any(found for _, found in seen.values())
    else:
        assert "gradients vanish: layers 0-5 of 24" in faults["decoder_layers"].what
        assert "norm: pre" in faults["decoder_layers"].remedy


def test_looking_at_layers_changes_no_bit(folder: Path) -> None:
    plain, looked_at = Run(folder, config_of(), 0.1), Run(folder, config_of(layer_statistics_every_steps=2), 0.1)
    assert looked_at.equals(plain)
