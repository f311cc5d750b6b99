"""What ``pretrain`` and ``finetune`` share: the work of one Ray Train worker, and its watching by the driver."""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from llmyard.core.artifacts import Artifact
from llmyard.core.errors import Pruned, RequestError
from llmyard.core.storage import Storage
from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.stage import Making
from llmyard.stages.training_report import PAGES
from llmyard.tokens.tokenizer import FILE
from llmyard.training.methods import Lora, Method, PromptTuning

if TYPE_CHECKING:
    from llmyard.core.compiled import I64
    from llmyard.tokens.mixture import Phase
    from llmyard.training.layout import Layout
    from llmyard.training.peers import Peers
    from llmyard.training.speed import Meter
    from llmyard.training.streams import Streams


@dataclass(frozen=True)
class TrainJob:
    """All a worker needs; picklable.

    Attributes:
        shards: The training data.
        others: The training data of the other tasks that are learned, in their order.
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
        teacher: Checkpoint whose probabilities are learned too.
        vectors: Checkpoint whose input vectors a new model begins with.
        counts: How often each token stands in the training data, for objectives that draw tokens.
        trial: Takes the figures of a trial of a sweep, and says when it ends; None outside of sweeps.
        token: What the driver writes into the storage, for workers to see.
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
    others: tuple[Artifact, ...] = ()
    teacher: Artifact | None = None
    vectors: Artifact | None = None
    counts: I64 | None = None
    family: str = ""
    label_smoothing: float = 0.0
    trial: Any = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


def run_training(job: TrainJob, making: Making) -> dict[str, float]:
    """Trains on Ray and returns the metrics; the model's files are then in the draft's folder."""
    import json

    from llmyard.runtime.trainer import run_workers

    steps = job.config.steps

    def watch() -> None:
        seen = job.board.read()
        if seen:
            making.progress.update(seen.pop("step"), steps, **seen)

    job.storage.write(f"{job.folder}/{SHARED}", job.token.encode())
    run_workers(work, job, job.config.resources, making.draft.version, job.board, watch)
    if job.trial is not None and (why := job.trial.why()):
        raise Pruned(why, "its settings and figures are in the sweep's table")
    metrics: dict[str, float] = json.loads(job.storage.read(f"{job.folder}/_making/metrics.json") or b"{}")
    pages = [name for name in PAGES.values() if job.storage.read(f"{job.folder}/{name}") is not None]
    making.run.attach(pages)
    return metrics


SHARED = "_making/shared"
_SHARED_SECONDS = 5.0  # for network filesystems that remember for some seconds that a file was not there


def refuse_unshared(job: TrainJob, peers: Peers) -> None:
    """Raises RequestError where a worker does not see what the driver wrote into the storage; a collective call."""
    give_up = time.monotonic() + _SHARED_SECONDS
    while not (sees := job.storage.read(f"{job.folder}/{SHARED}") == job.token.encode()):
        if time.monotonic() > give_up:
            break
        time.sleep(0.2)
    blind = [host for host in peers.gather(None if sees else socket.gethostname()) if host is not None]
    if blind:
        raise RequestError(
            f"the storage {job.storage.uri} is not shared: {len(blind)} of {peers.world} workers (on "
            f"{', '.join(sorted(set(blind)))}) do not see what the driver wrote there",
            "give a --storage that all nodes see, such as s3://BUCKET/FOLDER or a folder of a network filesystem",
        )


def work(config: Mapping[str, Any]) -> None:
    """Trains in one worker: goes on from the newest good checkpoint, and leaves the model in the draft's folder."""
    import json

    import torch
    import transformers

    from llmyard.stages.beginning import companion_of, first_model
    from llmyard.stages.judging import Judge
    from llmyard.stages.observing import Observer
    from llmyard.stages.samples import Sampler
    from llmyard.stages.streams import training_streams, validation_streams
    from llmyard.tokens.tokenizer import Tokenizer
    from llmyard.training.checkpoint import Checkpoints
    from llmyard.training.layout import lay_out
    from llmyard.training.loop import Hooks, train
    from llmyard.training.memory import keep_freed_memory
    from llmyard.training.peers import Peers
    from llmyard.training.validation import validate

    transformers.utils.logging.set_verbosity_error()
    job: TrainJob = config["argument"]
    stage, peers = job.config, Peers.current()
    refuse_unshared(job, peers)
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    device = torch.device("cuda") if stage.resources.gpus_per_worker else torch.device("cpu")
    if device.type == "cpu":
        keep_freed_memory()
    tokenizer = Tokenizer.load(job.tokenizer.local(FILE))
    checkpoints = Checkpoints(
        job.storage, f"{job.folder}/_making/progress", job.fence, peers, keep=stage.keep_checkpoints
    )
    observer = Observer(job, peers, checkpoints)

    def fresh() -> Any:
        torch.manual_seed(stage.seed)
        return first_model(job, tokenizer)

    def save(step: int, tensors: dict[str, Any], facts: dict[str, Any], is_best: bool) -> None:
        observer.saves()
        checkpoints.save(step, tensors, facts | (observer.facts() if peers.rank == 0 else {}), is_best)

    def saved(best: bool) -> Any:
        found = checkpoints.latest(best)
        if found is not None and not best:
            observer.goes_back(found.step)
        return found

    with observer.watching():
        companion = companion_of(job, tokenizer)
        streams = training_streams(job, tokenizer, companion)
        layout = lay_out(fresh(), stage, peers, device)
        if peers.rank == 0:
            checkpoints.collect()
        judged = validation_streams(job, tokenizer, companion)
        judge = None
        if isinstance(stage, Finetune) and stage.metric_examples is not None:
            judge = Judge(job, tokenizer, peers, observer.beat)

        def evaluate(step: int, whole: Layout = layout) -> dict[str, float]:
            figures: dict[str, float] = {}
            for source, stream in judged.items():
                found = validate(whole, stream, stage, VALIDATION_SAMPLES, observer.beat)
                of_source = f"/{source}" if source else ""
                figures |= {f"validation_{name}{of_source}": each for name, each in found.items()}
            if stage.kind == "pretrain" and stage.objective.kind != "skip_gram":
                losses = {name: each for name, each in figures.items() if name.startswith("validation_loss")}
                figures |= {
                    name.replace("loss", "perplexity"): math.exp(min(each, 50.0)) for name, each in losses.items()
                }
            if judge is not None:
                figures |= judge(whole.model)
            observer.evaluated(step, figures)
            return figures

        hooks = Hooks(
            observer.log, save, step=observer.step, event=observer.event, saved=saved, layers=observer.layers,
            evaluate=evaluate, asked=observer.asked(config["asked"]),
        )  # fmt: skip
        sampler = Sampler(job, tokenizer, judged) if stage.samples is not None else None
        meter = _meter(layout, streams, stage)
        start = checkpoints.latest()
        observer.begins(start, layout, sampler)
        metrics = train(layout, streams, stage, hooks, start, meter)
        observer.ends()
        checkpoints.wait()
        if metrics is None:
            return
        whole = layout
        if not stage.parallel.is_plain and peers.rank == 0:
            whole = _gathered(fresh(), checkpoints.latest_alone(best=stage.keep_best), stage.ema_decay is not None)
        if stage.parallel.pipeline == 1:
            metrics |= evaluate(observer.done)
        elif peers.rank == 0:
            metrics |= evaluate(observer.done, whole)
        if peers.rank == 0:
            metrics |= _size(whole.model, stage, observer.done)
            _write_model(job, whole.model, tokenizer)
            observer.leaves()
            job.storage.write(f"{job.folder}/_making/metrics.json", json.dumps(metrics).encode())


def _size(model: Any, stage: Pretrain | Finetune, steps: int) -> dict[str, float]:
    """Returns the model's parameters, those that are shared counted once, and the tokens it was pretrained on."""
    found = {"parameters": float(sum(each.numel() for each in model.parameters()))}
    if stage.kind == "pretrain":
        found["tokens"] = float(steps * stage.batch.size * stage.sequence_length)
    return found


def _meter(layout: Layout, streams: Streams, config: Pretrain | Finetune) -> Meter:
    """Returns what reckons the rates; it knows the share of the peak where the device's peak is known."""
    from llmyard.training.peers import Peers
    from llmyard.training.speed import Meter, flops_a_token, peak_of

    peaks = layout.peers.gather(peak_of(layout.device))
    if None in peaks or config.parallel.model_workers > 1:
        return Meter()
    # Of the first micro-batch, the same on every worker: a sharded model is passed through by all of them.
    (first,) = streams.micro_batches(0, 1, config.batch.micro_batch, Peers())
    return Meter(flops_a_token(layout, first), sum(peaks))


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


def is_apart(method: Method) -> TypeGuard[Lora | PromptTuning]:
    """Returns whether what is trained is kept apart from its base."""
    return isinstance(method, PromptTuning) or (isinstance(method, Lora) and not method.merge)


def _write_model(job: TrainJob, model: Any, tokenizer: Any) -> None:
    """Writes model and tokenizer into the draft's folder: all that is needed to run the model elsewhere.

    Of a model that was tuned beside its base, only what was trained; the artifact's record names the base.
    """
    import tempfile

    from llmyard.models.families import save
    from llmyard.training.adapting import merge, save_adapter

    method = job.config.tuning
    with tempfile.TemporaryDirectory(prefix="ly-") as folder:
        if is_apart(method):
            assert job.base is not None
            save_adapter(model, method, job.base.reference, Path(folder))
        else:
            merge(model)
            save(model, folder)
        tokenizer.save(Path(folder, FILE))
        for file in Path(folder).iterdir():
            job.storage.write(f"{job.folder}/{file.name}", file.read_bytes())
