"""What ``pretrain`` and ``finetune`` share: the work of one Ray Train worker, and its watching by the driver."""

from __future__ import annotations

import base64
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact
from llmyard.core.storage import Storage
from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.stage import Making
from llmyard.tokens.tokenizer import FILE

if TYPE_CHECKING:
    from llmyard.core.compiled import I64
    from llmyard.tokens.mixture import Phase


@dataclass(frozen=True)
class TrainJob:
    """All a worker needs; picklable.

    Attributes:
        shards: The training data.
        tokenizer: Of the model and the data.
        base: Checkpoint to start from; None for random weights.
        family: Of the model.
        label_smoothing: Of the checkpoint that training goes on from.
        labels: Label names of a tagging task.
        folder: The checkpoint's folder in the storage.
        fence: Of the lease.
        ticket: Opens the run's tracker.
        board: Where to say how far it is.
        phases: Of the mixture of sources; none where each is drawn by its size.
        replay: General text that is read too.
        replay_phases: Of its sources.
        vectors: Checkpoint whose input vectors a new model begins with.
        counts: How often each token stands in the training data, for objectives that draw tokens.
    """

    config: Pretrain | Finetune
    storage: Storage
    shards: Artifact
    tokenizer: Artifact
    base: Artifact | None
    labels: Mapping[str, list[str]]
    folder: str
    fence: int
    ticket: Any
    board: Any
    phases: tuple[Phase, ...] = ()
    replay: Artifact | None = None
    replay_phases: tuple[Phase, ...] = ()
    vectors: Artifact | None = None
    counts: I64 | None = None
    family: str = ""
    label_smoothing: float = 0.0


def run_training(job: TrainJob, making: Making) -> dict[str, float]:
    """Trains on Ray and returns the metrics; the model's files are then in the draft's folder."""
    import json

    from llmyard.runtime.trainer import run_workers

    steps = job.config.steps

    def watch() -> None:
        seen = job.board.read()
        if seen:
            rate = f"{seen['targets_per_second']:,.0f} tokens/s" if "targets_per_second" in seen else ""
            making.progress.update(seen.get("step", 0), steps, f"loss {seen.get('loss', math.nan):.3f}  {rate}")

    run_workers(work, job, job.config.resources, making.draft.version, watch)
    metrics: dict[str, float] = json.loads(job.storage.read(f"{job.folder}/_making/metrics.json") or b"{}")
    return metrics


def work(config: Mapping[str, Any]) -> None:
    """Trains in one worker: goes on from the newest good checkpoint, and leaves the model in the draft's folder."""
    import json

    import torch
    import transformers

    from llmyard.core.tracking import NullTracker
    from llmyard.stages.beginning import first_model
    from llmyard.stages.streams import training_streams, validation_streams
    from llmyard.tokens.tokenizer import Tokenizer
    from llmyard.training.checkpoint import Checkpoints
    from llmyard.training.layout import Layout, lay_out
    from llmyard.training.loop import Hooks, train
    from llmyard.training.peers import Peers
    from llmyard.training.stability import Verdict
    from llmyard.training.validation import validate

    transformers.utils.logging.set_verbosity_error()
    job: TrainJob = config["argument"]
    stage, peers = job.config, Peers.current()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    device = torch.device("cuda") if stage.resources.gpus_per_worker else torch.device("cpu")
    tokenizer = Tokenizer.load(job.tokenizer.local(FILE))
    streams = training_streams(job, tokenizer)

    def fresh() -> Any:
        torch.manual_seed(stage.seed)
        return first_model(job, tokenizer)

    layout = lay_out(fresh(), stage, peers, device)
    checkpoints = Checkpoints(
        job.storage, f"{job.folder}/_making/progress", job.fence, peers, keep=stage.keep_checkpoints
    )
    if peers.rank == 0:
        checkpoints.collect()
    start = checkpoints.latest()
    tracker = job.ticket.open() if peers.rank == 0 else NullTracker()
    tracker.resume(start.step if start else 0, base64.b64decode(start.facts.get("tracking", "")) if start else b"")
    shown = 0.0

    def log(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal shown
        tracker.log(step, metrics)
        if time.monotonic() - shown > 0.5 or step == stage.steps:
            shown = time.monotonic()
            job.board.post(step=step, **metrics)

    def save(step: int, tensors: dict[str, Any], facts: dict[str, Any], is_best: bool) -> None:
        facts["tracking"] = base64.b64encode(tracker.checkpoint_state()).decode()
        checkpoints.save(step, tensors, facts, is_best)

    def evaluate(step: int, judged: Layout = layout) -> dict[str, float]:
        figures: dict[str, float] = {}
        for source, stream in validation_streams(job, tokenizer).items():
            found = validate(judged, stream, stage, VALIDATION_SAMPLES)
            figures |= {f"validation_{name}{f'/{source}' if source else ''}": each for name, each in found.items()}
        if stage.kind == "pretrain" and stage.objective.kind != "skip_gram":
            losses = {name: each for name, each in figures.items() if name.startswith("validation_loss")}
            figures |= {name.replace("loss", "perplexity"): math.exp(min(each, 50.0)) for name, each in losses.items()}
        # The step after: that of the loop's own metrics is taken.
        tracker.log(
            step + 1, {f"validation/{name.removeprefix('validation_')}": each for name, each in figures.items()}
        )
        return figures

    def event(step: int, verdict: Verdict) -> None:
        # As a metric it stands on the loss's plot, at the step where it happened.
        tracker.log(step, {f"events/{verdict.decision.value}": verdict.value if math.isfinite(verdict.value) else 0.0})
        logging.getLogger("llmyard").warning(
            "step %d: %s (%.4g): %s", step, verdict.reason, verdict.value, verdict.decision.value
        )

    hooks = Hooks(log, save, event=event, saved=checkpoints.latest, evaluate=evaluate, asked=config["asked"])
    try:
        metrics = train(layout, streams, stage, hooks, start)
        checkpoints.wait()
        if metrics is None:
            return
        whole = layout
        if not stage.parallel.is_plain and peers.rank == 0:
            whole = _gathered(fresh(), checkpoints.latest_alone(best=stage.keep_best), stage.ema_decay is not None)
        if stage.parallel.pipeline == 1:
            metrics |= evaluate(stage.steps)
        elif peers.rank == 0:
            metrics |= evaluate(stage.steps, whole)
        if peers.rank == 0:
            _write_model(job, whole.model, tokenizer)
            job.storage.write(f"{job.folder}/_making/metrics.json", json.dumps(metrics).encode())
    finally:
        tracker.close()


VALIDATION_SAMPLES = 512
"""Sequences or examples of the validation split that a run is judged by; `evaluate` reads all of them."""


def _gathered(model: Any, saved: Any, averaged: bool) -> Any:
    """Returns a whole model with the weights of a checkpoint that several workers wrote their parts of."""
    from llmyard.training.layout import Layout

    layout = Layout(model)
    saved.read({f"model/{name}": each for name, each in layout.weights().items()})
    if averaged:
        saved.read({f"average/{name}": each.detach() for name, each in layout.parameters.items()})
    return layout


def _write_model(job: TrainJob, model: Any, tokenizer: Any) -> None:
    """Writes model and tokenizer into the draft's folder: all that is needed to run the model elsewhere."""
    import tempfile

    from llmyard.models.families import save

    with tempfile.TemporaryDirectory(prefix="ly-") as folder:
        save(model, folder)
        tokenizer.save(Path(folder, FILE))
        for file in Path(folder).iterdir():
            job.storage.write(f"{job.folder}/{file.name}", file.read_bytes())
