"""The training loop: the same losses and weights after any interruption, whoever computes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llmyard.core.errors import TrainingError
from llmyard.training.config import Training
from llmyard.training.diagnosis import Diagnosis, activations, diagnose_model, statistics
from llmyard.training.layout import Layout
from llmyard.training.progress import Progress, Saved
from llmyard.training.schedules import learning_rate
from llmyard.training.speed import Meter
from llmyard.training.stability import WELL, Decision, Verdict
from llmyard.training.streams import MicroBatch, Streams


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; each returns quickly.

    Attributes:
        log: (steps done, metrics) on rank 0, every ``log_every_steps``.
        save: (steps done, tensors, facts, whether it is the best) on every rank, every ``checkpoint_every_steps`` and
            at the end.
        step: (steps done) on every rank after every step, before it is saved.
        event: (steps done, verdict) on rank 0, of a step that went wrong.
        saved: (whether the best) to the newest checkpoint, or the best, on every rank; None where there is none.
        layers: (steps done, statistics of every layer, what is wrong with them by the stack's name) on every rank,
            every ``layer_statistics_every_steps``; gradients are those after clipping.
        evaluate: (steps done) to metrics with ``validation_loss``, on every rank, every ``evaluate_every_steps``.
        asked: To whether this worker was asked to save now, and to stop after that.
    """

    log: Callable[[int, Mapping[str, float]], None]
    save: Callable[[int, dict[str, Tensor], dict[str, Any], bool], None]
    step: Callable[[int], None] = _nothing
    event: Callable[[int, Verdict], None] = _nothing
    saved: Callable[[bool], Saved | None] = _nothing
    layers: Callable[[int, Mapping[str, float], Mapping[str, Diagnosis]], None] = _nothing
    evaluate: Callable[[int], Mapping[str, float]] = field(default=lambda step: {})
    asked: Callable[[], tuple[bool, bool]] = field(default=lambda: (False, False))


def train(
    layout: Layout,
    streams: Streams,
    config: Training,
    hooks: Hooks,
    start: Saved | None = None,
    meter: Meter | None = None,
) -> dict[str, float] | None:
    """Trains to ``config.steps`` steps and returns the last metrics; None where it was asked to stop before.

    Every micro-batch has its own random seed, made of the run's seed and its number, so dropout does not depend
    on which worker computes it nor on what was computed before: a resumed run repeats the uninterrupted one.

    Args:
        layout: The model; its weights stay float32. At the end they are the averaged or the best ones, where asked for.
        streams: Where the micro-batches come from.
        config: Steps, batch, optimizer, schedule, seed.
        hooks: Logging and saving.
        start: A checkpoint to go on from.
        meter: Reckons the rates among the metrics.

    Raises:
        TrainingError: Losses or gradients went wrong too often.
    """
    run = Progress(layout, streams, config)
    if start is not None:
        run.restore(start)
    while run.done < config.steps and not run.has_converged:
        outcome = _until_trouble(run, hooks, meter or Meter())
        if outcome is _STOPPED:
            return None
        if outcome.decision is not Decision.ROLL_BACK:
            break
        saved = hooks.saved(False)
        if saved is None:
            raise TrainingError(
                f"step {run.done + 1}: {outcome.reason} ({outcome.value:.4g}), before the first checkpoint",
                f"lower optimizer.learning_rate (now {config.optimizer.learning_rate}) or warm up longer",
            )
        run.go_back(saved)
    if run.finish():
        best = hooks.saved(True)
        if best is not None:
            best.read({f"model/{name}": each for name, each in layout.weights().items()})
    return run.metrics


_STOPPED = Verdict(Decision.STOP, "asked to stop")


def _until_trouble(run: Progress, hooks: Hooks, meter: Meter) -> Verdict:
    """Trains until the run ends; returns a verdict to go back by, one to proceed at the end, or that it was stopped."""
    config, peers, model = run.config, run.layout.peers, run.layout.model
    every = config.layer_statistics_every_steps
    meter.begin()
    for batches, waited in _prefetched(run):
        rate = learning_rate(run.done, config.optimizer.learning_rate, config.schedule, config.steps)
        run.optimizers.set_learning_rate(rate)
        is_looked_at = every is not None and (run.done + 1) % every == 0
        looking: AbstractContextManager[dict[str, float]] = activations(model) if is_looked_at else nullcontext({})
        with looking as layers:
            seen, read, (save, stop), overflows = run.accumulate(batches, hooks.asked())
        if is_looked_at:
            hooks.layers(seen.step, layers | statistics(model), diagnose_model(model))
        verdict = run.watch.judge(seen) if not overflows else WELL
        if verdict.decision is not Decision.PROCEED and peers.rank == 0:
            hooks.event(seen.step, verdict)
        if verdict.decision is Decision.STOP:
            found = diagnose_model(model) if config.parallel.is_plain else {}
            faults = [f"{stack}: {each.what}: {each.remedy}" for stack, each in found.items()]
            raise TrainingError(
                "; ".join([f"step {seen.step}: {verdict.reason} ({verdict.value:.4g})", *faults]),
                f"lower optimizer.learning_rate (now {config.optimizer.learning_rate}) or warm up longer; "
                "look at the data of these steps",
            )
        if verdict.decision is Decision.ROLL_BACK:
            return verdict
        run.take(verdict.decision is Decision.PROCEED and not overflows)
        done, is_last = run.done, run.done == config.steps
        meter.step(read.targets, read.tokens, waited)
        if done % config.log_every_steps == 0 or is_last:
            run.metrics = {
                "loss": seen.loss,
                "gradient_norm": seen.gradient_norm,
                "learning_rate": rate,
                **meter.rates(),
            }
            if peers.rank == 0:
                hooks.log(done, run.metrics)
        is_best = False
        if (
            config.evaluate_every_steps
            and done % config.evaluate_every_steps == 0
            and (config.keep_best or not is_last)
        ):
            is_best = run.judge(hooks.evaluate(done))
            meter.begin()
        hooks.step(done)
        is_due = run.is_due(verdict.decision)
        if is_due or is_best or save or stop or is_last or run.has_converged:
            hooks.save(done, run.tensors(), run.facts(), is_best)
        if stop and not is_last:
            return _STOPPED
        if run.has_converged:
            break
    return WELL


def _prefetched(run: Progress) -> Iterator[tuple[list[MicroBatch], float]]:
    """Yields (this worker's micro-batches of a step, seconds waited) to the end of the run, one step read ahead."""
    config, readers, sizes = run.config, run.layout.readers, run.sizes
    first, last = run.done, config.steps
    position = run.position

    def read(step: int) -> list[MicroBatch]:
        nonlocal position
        count = sizes.count(step)
        position, begin = position + count, position
        return run.streams.micro_batches(begin, count, config.batch.micro_batch, readers)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = pool.submit(read, first) if first < last else None
        for step in range(first, last):
            assert ahead is not None
            began = time.perf_counter()
            batches = ahead.result()
            wait = time.perf_counter() - began
            if step + 1 < last:
                ahead = pool.submit(read, step + 1)
            yield batches, wait
