"""``evaluate``: held-out metrics of a checkpoint beside a baseline that learns little; registered on request.

Answers are written part by part on Ray Data; the driver sees metrics only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.files import read_file
from llmyard.sources.config import ExampleSource
from llmyard.sources.corpus import listing, revision
from llmyard.sources.examples import splits_of
from llmyard.stages.answering import task_metrics
from llmyard.stages.asked import check_askable, check_comparable, live_model
from llmyard.stages.config import Evaluate
from llmyard.stages.evaluation_report import pages
from llmyard.stages.origins import training_of
from llmyard.stages.perplexity import perplexity
from llmyard.stages.probing import content, figures, probed
from llmyard.stages.proof import proven
from llmyard.stages.registering import register
from llmyard.stages.stage import Made, Making

REVISION = 6
_SOURCE: TypeAdapter[Any] = TypeAdapter(ExampleSource)


def parents(config: Evaluate, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the checkpoint, another one to compare it with and, of a base model, the shards it was trained on;
    nothing of a model behind a URL.
    """
    if config.checkpoint is None:
        _check_splits(config, splits_of(config.data) if config.data is not None else (), "the data")
        return _index(config, store)
    checkpoint = store.get(config.checkpoint, "checkpoint")
    found = {"checkpoint": checkpoint, **_index(config, store)}
    if config.compare_to is not None:
        found["other"] = store.get(config.compare_to, "checkpoint")
    kind = training_of(checkpoint).get("kind")
    data = _data(config, checkpoint)
    if data is not None:
        there = splits_of(data)
    elif kind == "pretrain":
        found["shards"] = store.get(next(item for item in checkpoint.parents if item.startswith("shards/")))
        there = _held_out(checkpoint, found["shards"])
    elif config.bias is None and config.harness is None:
        raise RequestError(
            f"{checkpoint.reference} was not trained here: its data is not known",
            "give `task` and `data`, `bias` or `harness`, or tune it",
        )
    else:
        there = config.splits  # no examples are asked: probes bring their own
    _check_splits(config, there, checkpoint.reference)
    asked = config.task.kind if config.task is not None else str(checkpoint.details.get("task", ""))
    if config.retrieval is not None and asked != "question_answering":
        raise RequestError(
            f"{checkpoint.reference} is for {asked or 'no task'}: `retrieval` is for question_answering",
            "leave it out, or name a checkpoint that answers questions",
        )
    if config.task is not None:
        check_askable(config, checkpoint)
    elif config.data is not None and kind != "finetune":
        raise RequestError(f"{checkpoint.reference} was not tuned for a task", "give `task` beside `data`")
    if "other" in found:
        check_comparable(config, checkpoint, found["other"])
    return found


def _index(config: Evaluate, store: ArtifactStore) -> dict[str, Artifact]:
    if config.retrieval is None:
        return {}
    found = store.get(config.retrieval.index, "index")
    if found.kind != "index":
        raise RequestError(f"{found.reference} is no index", "name one that a stage of kind `index` made")
    return {"index": found}


def _check_splits(config: Evaluate, there: Sequence[str], of: str) -> None:
    unknown = [split for split in config.splits if split not in there]
    if unknown:
        named = f"one of: {', '.join(there)}" if there else "prepare the corpus with a larger share under `splits:`"
        raise RequestError(f"{of} has no split {unknown[0]!r}", named)


def _data(config: Evaluate, checkpoint: Artifact | None) -> ExampleSource | None:
    """Returns the examples to be asked; None where the checkpoint has no task."""
    if config.data is not None or checkpoint is None:
        return config.data
    trained = training_of(checkpoint)
    if trained.get("kind") != "finetune":
        return None
    return cast(ExampleSource, _SOURCE.validate_python(trained["data"]))


def _held_out(checkpoint: Artifact, shards: Artifact) -> tuple[str, ...]:
    """Returns the splits of a base model's shards that hold at least one sequence of its length."""
    trained = training_of(checkpoint)
    whole = trained.get("packing", "concatenate") != "concatenate"
    least = 0 if whole else int(trained.get("sequence_length", 0))
    return tuple(split for split in ("validation", "test") if shards.metrics.get(f"tokens_{split}", 0.0) > least)


def sources(config: Evaluate, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of the example files, of lists of words, and of the harness's task files."""
    data = _data(config, parents.get("checkpoint"))
    read = [] if data is None else [listing(data), revision(data)]
    return read + _words(config) + content(config.harness)


def _words(config: Evaluate) -> list[Any]:
    """Returns the checksums of the lists of toxic words and of the table of aliases."""
    named = [("graph.aliases", config.graph.aliases)] if config.graph.aliases is not None else []
    if config.toxicity is not None:
        named += [("toxicity", path) for path in (*config.toxicity.lists, *config.toxicity.harmless)]
    sums = []
    for field, path in named:
        try:
            sums.append(hashlib.sha256(read_file(path)).hexdigest())
        except OSError as error:
            raise RequestError(f"{field}: cannot read {path}: {error}", "name a file that is there") from None
    return sums


def make(config: Evaluate, making: Making) -> Made:
    """Answers, scores, writes the report, registers."""
    checkpoint, live = making.parents.get("checkpoint"), live_model(config)
    scored = {}
    if "shards" in making.parents:
        scored = perplexity(config, making)
    elif live is not None or _data(config, checkpoint) is not None:
        scored = task_metrics(config, making, live)
    asked = probed(config, making)
    draft = making.draft
    reference = f"{live.url} {live.name}" if live is not None else making.parents["checkpoint"].reference
    report = {"checkpoint": reference, "splits": scored, **asked}
    draft.storage.write(f"{draft.folder}/report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    made = pages(config.output, reference, scored, asked)
    for name, page in made.items():
        draft.storage.write(f"{draft.folder}/{name}", page.encode())
    making.run.attach([*made])
    metrics = {
        f"{split}/{prefix}{name}": value
        for split, result in scored.items()
        for prefix, values in (("", result["metrics"]), ("baseline_", result["baseline"]))
        for name, value in values.items()
    } | figures(asked)
    details: dict[str, Any] = {"checkpoint": reference}
    for first in [*scored.values()][:1]:
        details |= {"key_metric": first["key_metric"], "baseline": first["baseline_name"]}
    if live is not None:
        details["endpoint"] = live.about()
    if config.register_as is not None and checkpoint is not None:
        details["parity"] = proven(checkpoint, checkpoint, config, making)
        details["registered"] = register(config.register_as, making, checkpoint, metrics)
    return Made(metrics, details)
