"""The training loop: the same losses and weights after any interruption, whoever computes them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from llmyard.core.errors import TrainingError
from llmyard.core.seeds import mix
from llmyard.tokens.order import DataOrder, Order
from llmyard.tokens.views import View
from llmyard.training.config import Training
from llmyard.training.objectives import Batch, Objective
from llmyard.training.optimizers import make_optimizers
from llmyard.training.peers import Peers
from llmyard.training.schedules import learning_rate


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; each returns quickly.

    Attributes:
        log: (steps done, metrics) on rank 0, every ``log_every_steps``.
        save: (steps done, state) on rank 0, every ``checkpoint_every_steps`` and at the end.
        step: (steps done, loss) on every rank after every step.
    """

    log: Callable[[int, Mapping[str, float]], None]
    save: Callable[[int, dict[str, Any]], None]
    step: Callable[[int], None] = lambda step: None


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
    objective: Objective,
    view: View,
    config: Training,
    peers: Peers,
    hooks: Hooks,
    start: tuple[int, dict[str, Any]] | None = None,
    device: torch.device | None = None,
    order: Order | None = None,
) -> dict[str, float]:
    """Trains to ``config.steps`` steps and returns the last metrics.

    Every micro-batch has its own random seed, made of the run's seed and its number, so dropout does not depend
    on which worker computes it nor on what was computed before: a resumed run repeats the uninterrupted one.

    Args:
        model: Trained in place; its weights stay float32.
        objective: Samples to loss.
        view: Where the samples are.
        config: Steps, batch, optimizer, schedule, seed.
        peers: The other workers; each takes every ``world``-th micro-batch.
        hooks: Logging and saving.
        start: (steps done, state) of a checkpoint to go on from.
        device: Where to compute; the CPU by default.
        order: Of the samples; all shards shuffled by default.

    Raises:
        TrainingError: The loss or a gradient is not finite.
    """
    device = device or torch.device("cpu")
    model.to(device).train()
    optimizer = make_optimizers(model, config.optimizer)
    first = 0
    if start is not None:
        first, state = start
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    dtype = compute_dtype(config.precision, device, model.config.hidden_size)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order = order if order is not None else DataOrder(view.rows, config.seed)
    metrics: dict[str, float] = dict(state.get("metrics", {})) if start is not None else {}
    began, waited = time.perf_counter(), 0.0

    for step, batches, wait in _prefetched(order, view, objective, config, peers, first):
        waited += wait
        rate = learning_rate(step, config.optimizer.learning_rate, config.schedule, config.steps)
        optimizer.set_learning_rate(rate)
        (targets,) = peers.sum(sum(objective.targets(batch) for _, batch in batches))
        loss_sum = 0.0
        for number, batch in batches:
            torch.manual_seed(mix(config.seed, number) >> 1)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                loss = objective.loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
            (loss / targets).backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
        peers.sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm))
        (loss_sum,) = peers.sum(loss_sum)
        loss_mean = loss_sum / targets
        if not (math.isfinite(loss_mean) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step + 1}: loss {loss_mean}, gradient norm {norm}: not finite",
                f"lower optimizer.learning_rate (now {config.optimizer.learning_rate}) or warm up longer",
            )
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if peers.rank == 0:
            if done % config.log_every_steps == 0 or done == config.steps:
                seconds = time.perf_counter() - began
                metrics = {
                    "loss": loss_mean,
                    "gradient_norm": norm,
                    "learning_rate": rate,
                    "targets_per_second": targets / max(1e-9, seconds / (done - first)),
                    "data_wait_share": waited / max(1e-9, seconds),
                }
                hooks.log(done, metrics)
            if done % config.checkpoint_every_steps == 0 or done == config.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "metrics": metrics}
                hooks.save(done, state)
        hooks.step(done)
    return metrics


@torch.no_grad()
def mean_loss(model: Any, objective: Objective, view: View, config: Training, peers: Peers, limit: int = 512) -> float:
    """Returns the mean loss over (at most ``limit``) samples in their stored order, each worker taking its share."""
    model.eval()
    order = DataOrder(view.rows, 0, shuffle=False)
    count = min(order.samples_per_epoch, limit)
    size = config.batch.micro_batch
    total = targets = 0.0
    device = next(model.parameters()).device
    for at in range(peers.rank * size, count, peers.world * size):
        places = [order[sample] for sample in range(at, min(at + size, count))]
        batch = objective.collate([view(place.shard, place.row) for place in places])
        total += float(objective.loss(model, {name: tensor.to(device) for name, tensor in batch.items()}))
        targets += objective.targets(batch)
    total, targets = peers.sum(total, targets)
    return total / max(1.0, targets)


def _prefetched(
    order: Order, view: View, objective: Objective, config: Training, peers: Peers, first: int
) -> Iterator[tuple[int, list[tuple[int, Batch]], float]]:
    """Yields (step, this worker's [(number of the micro-batch, micro-batch)], seconds waited), one step read ahead.

    Within a global batch the samples are sorted by length before they are divided into micro-batches: less padding,
    the same for any number of workers, and the mean over the global batch is untouched.
    """
    size, micro = config.batch.size, config.batch.micro_batch

    def collect(step: int) -> list[tuple[int, Batch]]:
        places = [order[sample] for sample in range(step * size, (step + 1) * size)]
        places.sort(key=lambda place: view.length(place.shard, place.row))
        batches = []
        for number in range(peers.rank, size // micro, peers.world):
            chosen = places[number * micro : (number + 1) * micro]
            samples = [view(place.shard, place.row, place.epoch) for place in chosen]
            batches.append((step * (size // micro) + number, objective.collate(samples)))
        return batches

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = pool.submit(collect, first) if first < config.steps else None
        for step in range(first, config.steps):
            assert ahead is not None
            began = time.perf_counter()
            batches = ahead.result()
            wait = time.perf_counter() - began
            if step + 1 < config.steps:
                ahead = pool.submit(collect, step + 1)
            yield step, batches, wait
