"""The training loop: the same losses and weights after any interruption, whoever computes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from llmyard.core.errors import TrainingError
from llmyard.core.seeds import mix
from llmyard.training.config import Training
from llmyard.training.optimizers import Optimizers, make_optimizers
from llmyard.training.peers import Peers
from llmyard.training.schedules import learning_rate
from llmyard.training.stability import Decision, EarlyStopping, Seen, Verdict, Watch
from llmyard.training.streams import MicroBatch, Stream, Streams

Checkpoint = tuple[int, dict[str, Any]]
"""Steps done, and the state after them."""


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; each returns quickly.

    Attributes:
        log: (steps done, metrics) on rank 0, every ``log_every_steps``.
        save: (steps done, state) on rank 0, every ``checkpoint_every_steps`` and at the end.
        step: (steps done) on every rank after every step.
        event: (steps done, verdict) on rank 0, of a step that went wrong.
        latest: The newest checkpoint, on every rank, to go back to; None where there is none.
        evaluate: (steps done) to metrics with ``validation_loss``, on every rank, every ``evaluate_every_steps``.
    """

    log: Callable[[int, Mapping[str, float]], None]
    save: Callable[[int, dict[str, Any]], None]
    step: Callable[[int], None] = _nothing
    event: Callable[[int, Verdict], None] = _nothing
    latest: Callable[[], Checkpoint | None] = _nothing
    evaluate: Callable[[int], Mapping[str, float]] = field(default=lambda step: {})


# Below this width casting costs more on a CPU than bfloat16 saves: a 128-wide encoder-decoder took 2.8x as long.
MIN_BFLOAT16_WIDTH = 512


def compute_dtype(precision: str, device: torch.device, width: int) -> torch.dtype:
    """Returns the type to multiply in: bfloat16 where asked for, or by ``auto`` where it is faster.

    Args:
        precision: As in the config.
        device: Where to compute.
        width: The model's hidden size.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        has = torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if has and width >= MIN_BFLOAT16_WIDTH else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def train(
    model: Any,
    streams: Streams,
    config: Training,
    peers: Peers,
    hooks: Hooks,
    start: Checkpoint | None = None,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Trains to ``config.steps`` steps and returns the last metrics.

    Every micro-batch has its own random seed, made of the run's seed and its number, so dropout does not depend
    on which worker computes it nor on what was computed before: a resumed run repeats the uninterrupted one.

    Args:
        model: Trained in place; its weights stay float32. At the end they are the averaged ones, where asked for.
        streams: Where the micro-batches come from.
        config: Steps, batch, optimizer, schedule, seed.
        peers: The other workers; each takes every ``world``-th micro-batch.
        hooks: Logging and saving.
        start: Of a checkpoint to go on from.
        device: Where to compute; the CPU by default.

    Raises:
        TrainingError: Losses or gradients went wrong too often.
    """
    run = _Run(model, streams, config, peers, device or torch.device("cpu"))
    if start is not None:
        run.restore(start)
    while run.done < config.steps and not run.has_converged:
        verdict = _until_trouble(run, hooks)
        if verdict is None:
            break
        saved = hooks.latest()
        if saved is None:
            raise TrainingError(
                f"step {run.done + 1}: {verdict.reason} ({verdict.value:.4g}), before the first checkpoint",
                f"lower optimizer.learning_rate (now {config.optimizer.learning_rate}) or warm up longer",
            )
        run.go_back(saved)
    run.finish()
    return run.metrics


def _until_trouble(run: _Run, hooks: Hooks) -> Verdict | None:
    """Trains until the run ends; returns a verdict to go back by, None at the end."""
    config, peers = run.config, run.peers
    began, first, waited = time.perf_counter(), run.done, 0.0
    for batches, wait in _prefetched(run):
        waited += wait
        rate = learning_rate(run.done, config.optimizer.learning_rate, config.schedule, config.steps)
        run.optimizers.set_learning_rate(rate)
        seen, targets = run.accumulate(batches)
        verdict = run.watch.judge(seen)
        if verdict.decision is not Decision.PROCEED and peers.rank == 0:
            hooks.event(seen.step, verdict)
        if verdict.decision is Decision.STOP:
            raise TrainingError(
                f"step {seen.step}: {verdict.reason} ({verdict.value:.4g})",
                f"lower optimizer.learning_rate (now {config.optimizer.learning_rate}) or warm up longer; "
                "look at the data of these steps",
            )
        if verdict.decision is Decision.ROLL_BACK:
            return verdict
        run.take(verdict.decision is Decision.PROCEED)
        done, is_last = run.done, run.done == config.steps
        if done % config.log_every_steps == 0 or is_last:
            seconds = time.perf_counter() - began
            run.metrics = {
                "loss": seen.loss,
                "gradient_norm": seen.gradient_norm,
                "learning_rate": rate,
                "targets_per_second": targets / max(1e-9, seconds / (done - first)),
                "data_wait_share": waited / max(1e-9, seconds),
            }
            if peers.rank == 0:
                hooks.log(done, run.metrics)
        if config.evaluate_every_steps and done % config.evaluate_every_steps == 0 and not is_last:
            run.judge(hooks.evaluate(done))
        if run.is_due(verdict.decision) or is_last or run.has_converged:
            state = run.state()
            if peers.rank == 0:
                hooks.save(done, state)
        hooks.step(done)
        if run.has_converged:
            break
    return None


class _Run:
    """A model on its way: all that a checkpoint holds, and the two halves of a step."""

    def __init__(self, model: Any, streams: Streams, config: Training, peers: Peers, device: torch.device) -> None:
        self.model, self.streams, self.config, self.peers, self._device = model, streams, config, peers, device
        model.to(device).train()
        self.optimizers: Optimizers = make_optimizers(model, config.optimizer)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._dtype = compute_dtype(config.precision, device, model.config.hidden_size)
        self._averages = [each.detach().clone() for each in self._parameters] if config.ema_decay else []
        self.watch = Watch(config.stability)
        self._stopping = EarlyStopping(config.patience or 0)
        self.has_converged = False
        self.done = 0
        self._saved = self._taken = 0
        self.data_step = 0  # behind ``done`` by nothing, ahead of it by the steps that roll-backs passed over
        self.metrics: dict[str, float] = {}

    def accumulate(self, batches: list[MicroBatch]) -> tuple[Seen, float]:
        """Adds up the gradients of a step over all workers, clipped; returns what all saw, and the targets."""
        config, peers = self.config, self.peers
        (targets,) = peers.sum(sum(each.targets for each in batches))
        loss_sum = 0.0
        for each in batches:
            torch.manual_seed(mix(config.seed, each.number) >> 1)
            batch = {name: tensor.to(self._device) for name, tensor in each.batch.items()}
            with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
                loss = each.objective.loss(self.model, batch)
            (loss / targets).backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
        peers.sum_gradients(self._parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, config.optimizer.max_grad_norm))
        (loss_sum,) = peers.sum(loss_sum)
        return Seen(self.done + 1, loss_sum / targets, norm), targets

    def take(self, is_good: bool) -> None:
        """Changes the weights by the gradients, or passes the step over."""
        if is_good:
            self._taken += 1
            self.optimizers.step()
            if self.config.ema_decay is not None:
                torch._foreach_lerp_(self._averages, self._parameters, 1 - self.config.ema_decay)
        self.optimizers.zero_grad()
        self.done += 1
        self.data_step += 1

    def is_due(self, decision: Decision) -> bool:
        """Returns whether to save: every so many steps, but never amid steps that go wrong."""
        every = self.config.checkpoint_every_steps
        due = decision is Decision.PROCEED and self.done // every > self._saved // every
        self._saved = self.done if due else self._saved
        return due

    def judge(self, evaluated: Mapping[str, float]) -> None:
        """Takes note of an evaluation, for early stopping."""
        self.model.train()
        self.metrics |= evaluated
        if self.config.patience is not None:
            self.has_converged = self._stopping.stops(evaluated["validation_loss"])

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run needs; a collective call."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizers.state_dict(),
            "metrics": self.metrics,
            "averages": self._averages,
            "watch": self.watch.state(),
            "stopping": [self._stopping.best, float(self._stopping.since), float(self.has_converged)],
            "data_step": self.data_step,
            "streams": self.streams.state(self.peers),
        }

    def restore(self, saved: Checkpoint) -> None:
        """Takes over a checkpoint."""
        self.done, state = saved
        self._saved, self._taken = self.done, self.done
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizer"])
        self.metrics = dict(state["metrics"])
        for average, kept in zip(self._averages, state["averages"], strict=True):
            average.copy_(kept)
        self.watch.load(state["watch"])
        self._stopping.best, since, converged = state["stopping"]
        self._stopping.since, self.has_converged = int(since), bool(converged)
        self.data_step = int(state["data_step"])
        self.streams.load(state["streams"])

    def go_back(self, saved: Checkpoint) -> None:
        """Takes over an earlier checkpoint, but reads on behind the data that led here."""
        data_step, roll_backs = self.data_step, self.watch.roll_backs
        self.optimizers.zero_grad()
        self.restore(saved)
        self.data_step = data_step + 1
        self.watch = Watch(self.config.stability)
        self.watch.roll_backs = roll_backs

    def finish(self) -> None:
        """Puts the averaged weights in place, where there are some.

        Raises:
            TrainingError: No step was good.
        """
        if not self._taken:
            raise TrainingError(
                f"none of {self.done} steps had a finite loss and gradient",
                f"lower optimizer.learning_rate (now {self.config.optimizer.learning_rate}), or look at the data",
            )
        for parameter, average in zip(self._parameters, self._averages, strict=False):
            parameter.data.copy_(average)


@torch.no_grad()
def validate(model: Any, stream: Stream, config: Training, peers: Peers, limit: int) -> dict[str, float]:
    """Returns the mean figures over (at most ``limit``) samples in the stream's order, each worker taking its share.

    A stream that remembers is read by one worker: what comes before decides what it says of the next.
    """
    model.eval()
    count = min(stream.order.samples_per_epoch, limit)
    size = config.batch.micro_batch
    rank, world = (peers.rank, peers.world) if not stream.objective.remembers else (0, 1)
    sums: dict[str, tuple[float, float]] = {}
    device = next(model.parameters()).device
    for at in range(rank * size, count, world * size):
        batch = stream.batch([stream.order[sample] for sample in range(at, min(at + size, count))])
        found = stream.objective.measures(model, {name: tensor.to(device) for name, tensor in batch.items()})
        for name, (value, weight) in found.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + value, before[1] + weight)
    if world > 1:
        everyone = peers.gather(sums)
        names = dict.fromkeys(name for each in everyone for name in each)
        sums = {
            name: tuple(map(sum, zip(*(each[name] for each in everyone if name in each), strict=True)))  # type: ignore[misc]
            for name in names
        }
    return {name: value / max(1.0, weight) for name, (value, weight) in sums.items()}


def _prefetched(run: _Run) -> Iterator[tuple[list[MicroBatch], float]]:
    """Yields (this worker's micro-batches of a step, seconds waited) to the end of the run, one step read ahead."""
    config, peers, streams = run.config, run.peers, run.streams
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        step, left = run.data_step, config.steps - run.done
        ahead = pool.submit(streams.micro_batches, step, config.batch, peers) if left else None
        for number in range(left):
            assert ahead is not None
            began = time.perf_counter()
            batches = ahead.result()
            wait = time.perf_counter() - began
            if number + 1 < left:
                ahead = pool.submit(streams.micro_batches, step + number + 1, config.batch, peers)
            yield batches, wait
