"""``reduction``: one step of a ``compress`` that trains nothing: pruned, with integer weights, or in another format."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.stages.compress_config import Export, Prune, Quantize, Reduction
from llmyard.stages.origins import handed_on, training_of
from llmyard.stages.stage import Made, Making
from llmyard.tokens.tokenizer import FILE

if TYPE_CHECKING:
    from llmyard.training.streams import MicroBatch

REVISION = 2
_LOOKED_AT = 8  # samples at once: within a batch gradients cancel, many small ones tell more

_MEASURED = 128  # training samples that tell the range of activations
_GROUP = 64  # weights of 4 bits that share a scale


def parents(config: Reduction, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the checkpoint, and the tokenizers and data it was trained with: what goes on from the result asks for
    them.

    Raises:
        RequestError: It is an adapter, or the step needs training data and it has none.
    """
    checkpoint = store.get(config.checkpoint, "checkpoint")
    refuse_unfit(checkpoint)
    kept = [each for each in checkpoint.parents if each.partition("/")[0] in ("tokenizer", "shards")]
    if reads_data(config.step) and not any(each.startswith("shards/") for each in kept):
        raise RequestError(
            f"{checkpoint.reference} was not trained here: there is no data to look at its loss with",
            "take importance: magnitude, scheme: int8_dynamic or int4",
        )
    return {"checkpoint": checkpoint} | {each: store.get(each) for each in kept}


def refuse_unfit(checkpoint: Artifact) -> None:
    """Raises RequestError for a checkpoint that nothing can be taken from: an adapter, or one that was already made for
    inference.
    """
    if checkpoint.details.get("adapter_of"):
        raise RequestError(
            f"{checkpoint.reference} is an adapter of {checkpoint.details['adapter_of']}, not a whole model",
            "train it with `method: {kind: lora, merge: true}`",
        )
    if made := checkpoint.details.get("for_inference"):
        raise RequestError(
            f"{checkpoint.reference} is {made}: it is not changed any more", "begin with the one that was trained"
        )


def reads_data(step: Prune | Quantize | Export) -> bool:
    """Returns whether a step looks at training samples."""
    if isinstance(step, Prune):
        return step.importance != "magnitude"
    return isinstance(step, Quantize) and step.scheme == "int8_static"


def sources(config: Reduction, parents: Mapping[str, Artifact]) -> list[Any]:
    """Nothing but its parents decides the result."""
    return []


def make(config: Reduction, making: Making) -> Made:
    """Has a process of the cluster take the step, so that the driver holds no model."""
    from llmyard.runtime.tasks import run_task

    making.progress.update(0, 1, config.step.kind)
    draft, checkpoint = making.draft, making.parents["checkpoint"]
    work = ReductionWork(config, dict(making.parents), draft.storage, draft.folder)
    found: dict[str, Any] = run_task(reduce, work, 1, 0)
    return Made(found.pop("metrics"), {**handed_on(checkpoint), **found})


@dataclass(frozen=True)
class ReductionWork:
    """All that the process needs; picklable."""

    config: Reduction
    parents: Mapping[str, Artifact]
    storage: Storage
    folder: str

    @property
    def checkpoint(self) -> Artifact:
        """What is reduced."""
        return self.parents["checkpoint"]

    @cached_property
    def data(self) -> list[Artifact]:
        """The shards it was trained on: its own task's first."""
        return [each for role, each in self.parents.items() if role.startswith("shards/")]

    def micro_batches(self, samples: int) -> list[MicroBatch]:
        """Returns the first samples of the training data, as the model was trained on them."""
        from pydantic import TypeAdapter

        from llmyard.stages.config import Finetune, Pretrain
        from llmyard.stages.streams import training_streams
        from llmyard.stages.training import TrainJob
        from llmyard.tokens.tokenizer import Tokenizer
        from llmyard.training.peers import Peers

        trained = TypeAdapter(Pretrain | Finetune).validate_python(dict(training_of(self.checkpoint)))
        if isinstance(trained, Finetune):
            trained = trained.model_copy(update={"distillation": None})
        else:
            trained = trained.model_copy(update={"replay": None, "mixture": None})
        details = self.checkpoint.details
        tokenizer = next(each for role, each in self.parents.items() if role.startswith("tokenizer/"))
        job = TrainJob(
            config=trained, storage=self.storage, shards=self.data[0], others=tuple(self.data[1:]), tokenizer=tokenizer,
            base=None, labels={key: details[key] for key in LABELS if key in details}, folder="", fence=0, ticket=None,
            board=None, family=str(details.get("family", "")),
        )  # fmt: skip
        streams = training_streams(job, Tokenizer.load(self.checkpoint.local(FILE)))
        size = min(_LOOKED_AT, samples)
        return streams.micro_batches(0, math.ceil(samples / size), size, Peers())


LABELS = ("entity_types", "relations", "classes", "parts")


def loss_of(model: Any, micro: MicroBatch) -> Any:
    """Returns the mean loss of a model on a micro-batch; of preferences, of writing the replies that were chosen.

    What a model was held to while it learned preferences is not there to compare it with. Compared with itself it would
    rank by what tells the two replies apart: what it takes to write either of them cancels.
    """
    from llmyard.training.task_objectives import PreferenceObjective

    if isinstance(micro.objective, PreferenceObjective):
        return micro.objective.writing_loss(model, micro.batch)
    return micro.objective.loss(model, micro.batch) / max(1, micro.targets)


def reduce(work: ReductionWork) -> dict[str, Any]:
    """Takes the step, leaves the result's files in the artifact's folder, and returns what its record says."""
    import torch

    from llmyard.training.memory import keep_freed_memory

    torch.set_num_threads(work.config.threads)
    keep_freed_memory()
    step = work.config.step
    with tempfile.TemporaryDirectory(prefix="ly-reduce-") as name:
        folder = Path(name)
        match step:
            case Prune():
                found = _prune(step, work, folder)
            case Quantize():
                found = _quantize(step, work, folder)
            case Export():
                found = _export(step, work, folder)
        (folder / FILE).write_bytes(work.checkpoint.local(FILE).read_bytes())
        sizes = 0
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                work.storage.copy_in(file, f"{work.folder}/{file.relative_to(folder)}")
                sizes += file.stat().st_size
    found["metrics"]["bytes"] = float(sizes)
    return found


def _prune(step: Prune, work: ReductionWork, folder: Path) -> dict[str, Any]:
    from dataclasses import replace

    from llmyard.compression.importance import by_magnitude, by_taylor
    from llmyard.compression.pruning import Target, losses_without_layers, prune
    from llmyard.models.families import load, save

    model: Any = load(work.checkpoint.local())
    if step.importance == "magnitude":
        importance = by_magnitude(model)
    else:
        batches = work.micro_batches(step.examples)
        importance = by_taylor(model, batches, loss_of)
        if step.importance == "removal":
            lost = losses_without_layers(model, batches, loss_of)
            importance = replace(importance, layers=lost)
    target = Target(step.feed_forward_size, step.heads, step.layers, step.decoder_layers)
    pruned = prune(model, target, importance)
    save(pruned.model, folder)
    found: dict[str, Any] = {"pruned": {"layers": [list(each) for each in pruned.layers]}}
    figures = {"parameters": pruned.parameters_after, "parameters_before": pruned.parameters_before}
    return found | {"metrics": {name: float(value) for name, value in figures.items()}}


def _quantize(step: Quantize, work: ReductionWork, folder: Path) -> dict[str, Any]:
    from llmyard.compression.quantizing import Scheme, quantize
    from llmyard.models.families import load, save

    model: Any = load(work.checkpoint.local())
    batches = work.micro_batches(step.examples or _MEASURED) if reads_data(step) else []
    scheme = Scheme(step.scheme, step.group_size or _GROUP, step.skip, step.output_layer)
    done = quantize(model, scheme, batches, lambda micro: loss_of(model, micro))
    save(model, folder)
    figures = {"weight_bytes": done.bytes_after, "weight_bytes_before": done.bytes_before}
    left = sorted(set(done.left.values()))
    told = {"layers": len(done.changed), "left": {why: sum(each == why for each in done.left.values()) for why in left}}
    return {
        "for_inference": step.scheme, "quantized": told,
        "metrics": {name: float(value) for name, value in figures.items()},
    }  # fmt: skip


def _export(step: Export, work: ReductionWork, folder: Path) -> dict[str, Any]:
    from llmyard.compression import ctranslate2_export, gguf_export

    source = work.checkpoint.local()
    told: dict[str, Any]
    if step.format == "ctranslate2":
        done = ctranslate2_export.export(source, folder, cast(ctranslate2_export.Weights, step.weights))
        told = {"deviation": done.deviation}
    else:
        weights = cast(gguf_export.Weights, step.weights)
        made = gguf_export.export(source, folder, weights, work.checkpoint.name)
        told = {"differs": made.differs}
    return {"for_inference": f"{step.format} {step.weights}", "exported": told, "metrics": {}}
