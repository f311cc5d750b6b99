"""``evaluate``: held-out metrics of a checkpoint beside a baseline that learns nothing; registered on request.

Answers are written part by part on Ray Data; the driver sees metrics only.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, islice
from typing import Any

from pydantic import TypeAdapter

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.sources.config import ExampleSource
from llmyard.sources.corpus import listing, revision
from llmyard.sources.examples import ExampleUnit, plan_examples, splits_of
from llmyard.stages.config import Evaluate, Finetune, Pretrain
from llmyard.stages.finetune import checked
from llmyard.stages.stage import Made, Making
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.task import Annotation, Entity, Record

REVISION = 2
LOSS_PARTS = 4  # shares of a split's sequences; fixed, so that the sum's rounding does not depend on the machine
_SOURCE: TypeAdapter[Any] = TypeAdapter(ExampleSource)


def parents(config: Evaluate, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the checkpoint and, of a base model, the shards it was trained on."""
    checkpoint = store.get(config.checkpoint, "checkpoint")
    kind = checkpoint.config.get("kind")
    if kind not in ("pretrain", "finetune"):
        raise RequestError(f"{checkpoint.reference} was not trained here: its data is not known", "fine-tune it first")
    found = {"checkpoint": checkpoint}
    if kind == "pretrain":
        found["shards"] = store.get(next(item for item in checkpoint.parents if item.startswith("shards/")))
        there = _held_out(checkpoint, found["shards"])
    else:
        there = splits_of(_SOURCE.validate_python(checkpoint.config["data"]))
    unknown = [split for split in config.splits if split not in there]
    if unknown:
        named = f"one of: {', '.join(there)}" if there else "prepare the corpus with a larger share under `splits:`"
        raise RequestError(f"{checkpoint.reference} has no split {unknown[0]!r}", named)
    return found


def _held_out(checkpoint: Artifact, shards: Artifact) -> tuple[str, ...]:
    """Returns the splits of a base model's shards that hold at least one sequence of its length."""
    whole = checkpoint.config.get("packing", "concatenate") != "concatenate"
    least = 0 if whole else int(checkpoint.config.get("sequence_length", 0))
    return tuple(split for split in ("validation", "test") if shards.metrics.get(f"tokens_{split}", 0.0) > least)


def sources(config: Evaluate, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of the example files."""
    data = parents["checkpoint"].config.get("data")
    if data is None:
        return []
    source = _SOURCE.validate_python(data)
    return [listing(source), revision(source)]


def make(config: Evaluate, making: Making) -> Made:
    """Answers, scores, writes the report, registers."""
    checkpoint = making.parents["checkpoint"]
    scored = _perplexity(config, making) if "shards" in making.parents else _task_metrics(config, making)
    draft = making.draft
    report = {"checkpoint": checkpoint.reference, "splits": scored}
    draft.storage.write(f"{draft.folder}/report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    metrics = {
        f"{split}/{prefix}{name}": value
        for split, result in scored.items()
        for prefix, values in (("", result["metrics"]), ("baseline_", result["baseline"]))
        for name, value in values.items()
    }
    details: dict[str, Any] = {
        "key_metric": next(iter(scored.values()))["key_metric"],
        "baseline": next(iter(scored.values()))["baseline_name"],
        "checkpoint": checkpoint.reference,
    }
    if config.register_as is not None:
        details["registered"] = _register(config, making, checkpoint, metrics)
    return Made(metrics, details)


def _register(config: Evaluate, making: Making, checkpoint: Artifact, metrics: Mapping[str, float]) -> str:
    assert config.register_as is not None
    name, alias = config.register_as.name, config.register_as.alias
    version = making.context.tracking.call("register", name, **_registration(config, checkpoint, metrics))
    return f"models:/{name}@{alias} (version {version})"


def keep_alias(config: Evaluate, report: Artifact, store: ArtifactStore) -> None:
    """Moves the alias back to the checkpoint of a finished report, where a newer report may have taken it."""
    assert config.register_as is not None
    newest = next(store.versions(report.kind, report.name), report)
    if newest.reference == report.reference:
        return
    from llmyard.runtime.registry import gateway

    checkpoint = store.get(str(report.details["checkpoint"]))
    with gateway(store.storage.uri) as mlflow:
        mlflow.register(config.register_as.name, **_registration(config, checkpoint, report.metrics))


def _registration(config: Evaluate, checkpoint: Artifact, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Returns what the registry is told of a checkpoint."""
    assert config.register_as is not None
    return {
        "artifact": checkpoint.reference,
        "source": checkpoint.uri,
        "run_id": checkpoint.details.get("mlflow_run") or None,
        "aliases": [config.register_as.alias],
        "tags": {
            f"metric.{key.replace('/', '.')}": f"{value:.4f}" for key, value in metrics.items() if "baseline" not in key
        },
    }


def _perplexity(config: Evaluate, making: Making) -> dict[str, Any]:
    from llmyard.runtime.datasets import map_with

    checkpoint, shards = making.parents["checkpoint"], making.parents["shards"]
    trained = Pretrain.model_validate(checkpoint.config)
    scored = {}
    for split in config.splits:
        # A model with a memory reads the split in one piece.
        parts = 1 if trained.objective.kind == "recurrent_lm" else LOSS_PARTS
        units = [{"split": split, "part": part, "parts": parts} for part in range(parts)]
        sums: Counter[str] = Counter()
        arguments = (checkpoint, shards, trained, config.batch_size, config.limit)
        for done, row in enumerate(map_with(units, LossWorker, arguments), start=1):
            sums.update(row)
            making.progress.update(done, len(units), split)
        figures = {
            name: sums[name] / max(1.0, sums[f"{name}/count"]) for name in sorted(sums) if f"{name}/count" in sums
        }
        if "frequency_loss" in figures:  # of pairs, not of tokens: there is no perplexity
            scored[split] = {
                "metrics": {"loss": figures["loss"]},
                "baseline": {"loss": figures["frequency_loss"]},
                "baseline_name": "token frequencies",
                "key_metric": "loss",
            }
            continue
        loss = figures.get("masked_loss", figures["loss"])
        unigram = figures.pop("unigram")
        trigram = {"trigram_perplexity": math.exp(figures.pop("trigram"))} if "trigram" in figures else {}
        scored[split] = {
            "metrics": {"perplexity": math.exp(min(loss, 50.0)), **figures},
            "baseline": {"perplexity": math.exp(unigram), "loss": unigram, **trigram},
            "baseline_name": "token frequencies",
            "key_metric": "perplexity",
        }
    return scored


COUNTED_TOKENS = 8_000_000  # some 500 MB while they are sorted
COUNTED_RUN = 512


class LossWorker:
    """Sums the figures over its share of a split's sequences, read as in training, and the loss of the training
    split's token frequencies on the same tokens.
    """

    def __init__(
        self, checkpoint: Artifact, shards: Artifact, trained: Pretrain, batch_size: int, limit: int | None
    ) -> None:
        from llmyard.models.families import load
        from llmyard.tokens.tokenizer import FILE, Tokenizer

        self.model = load(checkpoint.local())
        self.tokenizer = Tokenizer.load(checkpoint.local(FILE))
        self.shards = shards
        self.trained, self.batch_size, self.limit = trained, batch_size, limit

    def __call__(self, unit: dict[str, Any]) -> dict[str, float]:
        import numpy as np
        import torch

        from llmyard.stages.streams import pretraining
        from llmyard.tokens.shards import ShardSet
        from llmyard.training.config import objectives_of
        from llmyard.training.objectives import IGNORE

        counts = self._counts()
        smoothed = counts + 1.0
        surprise = -np.log(smoothed / smoothed.sum())
        objective = objectives_of(self.trained.objective)[0]
        shards = ShardSet.of(self.shards, unit["split"])
        stream = pretraining(self.trained, objective, shards, self.tokenizer, counts=counts)
        counting = self._counting() if objective.kind in ("causal_lm", "recurrent_lm") else None
        size = self.batch_size if unit["parts"] > 1 else self.trained.batch.micro_batch
        count = min(stream.order.samples_per_epoch, self.limit or stream.order.samples_per_epoch)
        sums: Counter[str] = Counter()
        with torch.inference_mode():
            for at in range(unit["part"] * size, count, unit["parts"] * size):
                batch = stream.batch([stream.order[sample] for sample in range(at, min(at + size, count))])
                for name, (value, weight) in stream.objective.measures(self.model, batch).items():
                    sums.update({name: value, f"{name}/count": weight})
                labels = stream.objective.labels(batch)
                wanted = labels[labels != IGNORE].numpy()
                sums.update({"unigram": float(surprise[wanted].sum()), "unigram/count": float(len(wanted))})
                if counting is not None:
                    for ids, row in zip(batch["ids"].numpy(), labels.numpy(), strict=True):
                        said = counting.surprise(ids)[1:][row != IGNORE]
                        sums.update({"trigram": float(said.sum()), "trigram/count": float(len(said))})
        return dict(sums)

    def _counting(self) -> Any:
        """Returns a model that counts the training split's n-grams, of as many tokens as fit."""
        from llmyard.tokens.ngrams import NgramModel
        from llmyard.tokens.shards import ShardSet
        from llmyard.tokens.views import PackedView

        view = PackedView(ShardSet.of(self.shards, "train"), COUNTED_RUN)
        places = ((shard, row) for shard, rows in enumerate(view.rows) for row in range(rows))
        runs = (view(shard, row) for shard, row in islice(places, COUNTED_TOKENS // COUNTED_RUN))
        return NgramModel(runs, int(self.model.config.vocab_size))

    def _counts(self) -> Any:
        """Returns how often each token stands in the training split."""
        from llmyard.tokens.frequencies import token_counts
        from llmyard.tokens.shards import ShardSet

        return token_counts(ShardSet.of(self.shards, "train").shards, int(self.model.config.vocab_size))


def _task_metrics(config: Evaluate, making: Making) -> dict[str, Any]:
    from llmyard.runtime.datasets import map_units, map_with

    checkpoint, draft = making.parents["checkpoint"], making.draft
    trained = Finetune.model_validate(checkpoint.config)
    rows = []
    for split in config.splits:
        units = plan_examples(trained.data, split)
        for index, (unit, share) in enumerate(zip(units, _shares(config.limit, units, trained), strict=True)):
            # Halves of a unit, so that two workers have something to do on a small test set.
            rows += [
                {"index": index, "half": half, "share": share, **asdict(unit)} for half in (0, 1) if share or not index
            ]
    parts = f"{draft.folder}/predictions"
    arguments = (checkpoint, trained, draft.storage, parts, config.batch_size)
    for done, _ in enumerate(map_with(rows, Predictor, arguments), start=1):
        making.progress.update(done, len(rows) + len(config.splits), "answering")
    score = Scorer(trained, draft.storage, parts)
    scored = {}
    for done, row in enumerate(map_units([{"split": split} for split in config.splits], score), start=1):
        scored[row.pop("split")] = row
        making.progress.update(len(rows) + done, len(rows) + len(config.splits), "scoring")
    return {split: scored[split] for split in config.splits}


WHOLE = 1 << 62


def _shares(limit: int | None, units: Sequence[ExampleUnit], trained: Finetune) -> list[int]:
    """Returns how many examples of each unit are taken: a split's first ``limit`` ones, whatever files they are in."""
    from llmyard.runtime.datasets import map_units

    if limit is None:
        return [WHOLE] * len(units)
    if len(units) > 1 and units[0].path:
        counted = map_units([{"index": index, **asdict(unit)} for index, unit in enumerate(units)], Count(trained))
        counts = [row["count"] for row in sorted(counted, key=lambda row: int(row["index"]))]
    else:
        counts = [limit if unit.path else unit.stop - unit.start for unit in units]
    before = [0, *accumulate(counts)]
    return [max(0, min(count, limit - gone)) for count, gone in zip(counts, before, strict=False)]


class Count:
    """Counts a unit's good records."""

    def __init__(self, trained: Finetune) -> None:
        self.trained = trained

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"index": row["index"], "count": len(checked(self.trained, row)[0])}


def _part(row: Mapping[str, Any]) -> str:
    return f"{row['split']}-{row['index']:06d}-{row['half']}.json"


def _records(trained: Finetune, row: Mapping[str, Any]) -> list[Record]:
    records = checked(trained, row)[0][: row["share"]]
    middle = -(-len(records) // 2)
    return records[:middle] if row["half"] == 0 else records[middle:]


class Predictor:
    """Answers a unit's records with the engine that also serves, and writes them with their records."""

    def __init__(self, checkpoint: Artifact, trained: Finetune, storage: Storage, folder: str, batch_size: int) -> None:
        from llmyard.generation.torch_engine import TorchEngine

        self.engine = TorchEngine(checkpoint.local(), checkpoint.reference, threads=1)
        self.trained, self.storage, self.folder, self.batch_size = trained, storage, folder, batch_size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        path = f"{self.folder}/{_part(row)}"
        if self.storage.read(path) is None:
            task = task_of(self.trained.task)
            records = _records(self.trained, row)
            answers: list[Any] = []
            for at in range(0, len(records), self.batch_size):
                batch = records[at : at + self.batch_size]
                if task.output == "spans":
                    texts = self._fitting([task.text(record) for record in batch])
                    answers += [asdict(each) for each in self.engine.annotate_batch(texts)]
                else:
                    prompts = [task.prompt(record, self.engine.tokenizer) for record in batch]
                    answers += self.engine.generate_batch(prompts, task.decoding.max_new_tokens)
            lines = [{"record": record, "answer": answer} for record, answer in zip(records, answers, strict=True)]
            self.storage.write(path, json.dumps(lines, ensure_ascii=False).encode())
        return {}

    def _fitting(self, texts: Sequence[str]) -> list[str]:
        """Returns the texts, cut where the model's positions end: what stands behind is not found, and scored so.

        A character of several tokens is not cut in two: it would be read again with all of them.
        """
        limit = self.engine.capabilities().max_prompt_tokens
        encoded = self.engine.tokenizer.encode_with_spans(texts)
        return [
            text if len(item.ids) <= limit else text[: min(item.spans[limit - 1][1], item.spans[limit][0])]
            for text, item in zip(texts, encoded, strict=True)
        ]


class Scorer:
    """Scores one split's answers, and its baseline's."""

    def __init__(self, trained: Finetune, storage: Storage, folder: str) -> None:
        self.trained, self.storage, self.folder = trained, storage, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task, split = task_of(self.trained.task), row["split"]
        lines = []
        for index, _ in enumerate(plan_examples(self.trained.data, split)):
            for half in (0, 1):
                part = self.storage.read(f"{self.folder}/{_part({'split': split, 'index': index, 'half': half})}")
                lines += json.loads(part or b"[]")
        if not lines:
            raise RequestError(f"split {split!r} has no examples", "check the data, or leave the split out")
        records = [line["record"] for line in lines]
        answers = [as_prediction(line["answer"]) for line in lines]
        train: list[Record] = []
        for unit in plan_examples(self.trained.data, "train"):
            train += checked(self.trained, asdict(unit))[0]
        name, naive = task.baseline(train, records)
        return {
            "split": split,
            "examples": len(records),
            "metrics": task.score(answers, records),
            "baseline": task.score(naive, records),
            "baseline_name": name,
            "key_metric": task.metric,
        }


def as_prediction(answer: Any) -> Any:
    """Returns a stored answer as the task's metrics take it."""
    if isinstance(answer, str):
        return answer
    entities = tuple(Entity(**entity) for entity in answer["entities"])
    return Annotation(entities, tuple(tuple(triple) for triple in answer["triples"]))
