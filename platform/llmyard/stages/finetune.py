"""``finetune``: task examples to shards, then a model for that task, on Ray Data and Ray Train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore, FileEntry
from llmyard.core.errors import DataError, RequestError
from llmyard.core.fingerprint import fingerprint
from llmyard.core.storage import Storage
from llmyard.sources.corpus import BadRecord, listing, revision
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples
from llmyard.stages.bases import base_of, check_family, same_tokenizer
from llmyard.stages.config import Finetune, families_for
from llmyard.stages.preparing.encoding import folder_for
from llmyard.stages.stage import Made, Making
from llmyard.stages.training import TrainJob, run_training
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.task import BadExample, Record
from llmyard.tokens.tokenizer import FILE

REVISION = 2
ENCODED_SPLITS = ("train", "validation")
BLOCK_TOKENS = 1024


def parents(config: Finetune, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the tokenizer and the checkpoint to go on from."""
    found = {"tokenizer": store.get(config.tokenizer, "tokenizer")}
    if config.init != "scratch":
        found["base"] = base_of(config.init, store)
        same_tokenizer(found["base"], found["tokenizer"])
        _check_base(config, found["base"])
        check_family(config, found["base"])
    return found


def _check_base(config: Finetune, base: Artifact) -> None:
    """Raises RequestError for a checkpoint that cannot learn the task; workers would find out one after the other."""
    family, wanted = str(base.details.get("family", "")), families_for(config.task.kind)
    if family not in wanted:
        raise RequestError(
            f"{base.reference} is of family {family or 'unknown'!r}; {config.task.kind} is trained with "
            f"{' or '.join(wanted)}",
            "name another checkpoint as `init`, or give `model` with `init: scratch`",
        )
    positions = int(base.details.get("sequence_length", config.task.longest))
    if family != "transformer" and positions < config.task.longest:
        raise RequestError(
            f"{base.reference} reads {positions} tokens, an example of {config.task.kind} has up to "
            f"{config.task.longest}",
            "lower the limits under `task:`, or pretrain with a longer sequence_length",
        )
    learned = base.details.get("task")
    if family == "bert" and base.config.get("kind") == "finetune" and learned != config.task.kind:
        raise RequestError(
            f"{base.reference} has the heads of {learned}, not of {config.task.kind}",
            "go on from the pretrained encoder, or from a checkpoint of the same task",
        )


def sources(config: Finetune, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of the example files, and the revisions of generated data and of the task."""
    return [listing(config.data), revision(config.data), task_of(config.task).revision]


def make(config: Finetune, making: Making) -> Made:
    """Encodes the examples and trains."""
    from llmyard.runtime.trainer import Board

    draft = making.draft
    data = _encode(config, making)
    labels = data.details["labels"]
    base = making.parents.get("base")
    family = config.model.family if config.model is not None else base.details["family"] if base is not None else ""
    job = TrainJob(
        config=config,
        storage=draft.storage,
        shards=data,
        tokenizer=making.parents["tokenizer"],
        base=base,
        labels=labels,
        folder=draft.folder,
        fence=draft.lease.fence,
        ticket=making.run.ticket(),
        board=Board.start(),
        family=family,
        label_smoothing=float(base.details.get("label_smoothing", 0.0)) if base is not None else 0.0,
    )
    metrics = run_training(job, making)
    task = task_of(config.task)
    details = {
        "task": task.name,
        "task_config": config.task.model_dump(mode="json"),
        "family": family,
        "sequence_length": config.task.longest,
        "label_smoothing": getattr(config.model, "label_smoothing", job.label_smoothing),
        **labels,
    }
    return Made(metrics, details, also=(data,), extra_parents=(data.reference,))


def _encode(config: Finetune, making: Making) -> Artifact:
    """Returns the shards artifact of the encoded examples, made unless an equal one is there."""
    from llmyard.runtime.datasets import map_units
    from llmyard.tokens import shard_index
    from llmyard.tokens.shard_index import ShardFacts

    store, name = making.context.store, f"{config.output}-data"
    tokenizer = making.parents["tokenizer"]
    task = task_of(config.task)
    print_ = fingerprint(
        data=config.data.decisive(),
        task=config.task.decisive(),
        tokenizer=tokenizer.reference,
        sources=sources(config, making.parents),
        revision=REVISION,
    )
    finished = store.find("shards", name, print_)
    if finished is not None:
        store.settle(finished)
        return finished
    rows = [
        {"index": index, **asdict(unit)}
        for split in ENCODED_SPLITS
        for index, unit in enumerate(plan_examples(config.data, split))
    ]
    making.progress.update(0, 1, "encoding examples")
    with store.begin("shards", name, print_) as draft:
        labels: dict[str, set[str]] = {}
        for result in map_units(rows, Labels(config)):
            for key, values in result.items():
                labels.setdefault(key, set()).update(values)
        names = {key: sorted(values) for key, values in sorted(labels.items())}
        encode = Encode(config, tokenizer, names, draft.storage, draft.folder, draft.lease.fence)
        entries: list[FileEntry] = []
        shards: list[ShardFacts] = []
        counts: Counter[str] = Counter()
        bad: list[dict[str, Any]] = []
        for result in map_units(rows, encode):
            entries += [FileEntry(**entry) for entry in result["files"]]
            shards += [ShardFacts(**each) for each in result["shards"]]
            counts.update(result["counts"])
            bad += result["bad"]
        _refuse(config, counts, bad)
        entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(shards)))
        return draft.commit(
            config={"task": config.task.model_dump(mode="json"), "data": config.data.model_dump(mode="json")},
            parents=[tokenizer.reference],
            metrics={key: float(value) for key, value in counts.items()},
            details={"labels": names, "task": task.name, "bad_records": bad[:20]},
            files=sorted(entries, key=lambda entry: entry.path),
        )


def _refuse(config: Finetune, counts: Counter[str], bad: list[dict[str, Any]]) -> None:
    if not counts["validation"] and counts["train"]:
        raise DataError(f"no validation example is left of {sum(counts.values())} ({dict(counts)})", "check `data:`")
    if not counts["train"]:
        first = f"; first: {bad[0]['path']}: {bad[0]['reason']}" if bad else ""
        raise DataError(
            f"no training example is left of {sum(counts.values())} ({dict(counts)}){first}", "check `data:`"
        )
    allowed = getattr(config.data, "max_bad_share", 0.01)
    share = counts["bad"] / max(1, sum(counts.values()))
    if share > allowed:
        places = "; ".join(f"{item['path']}: {item['reason']}" for item in bad[:3])
        raise DataError(f"{counts['bad']} records ({share:.1%}) cannot be used ({places})", "mend them")


def checked(config: Finetune, row: Mapping[str, Any]) -> tuple[list[Record], list[BadRecord]]:
    """Returns the good records of a unit of work and what is wrong with the others."""
    unit = ExampleUnit(**{key: row[key] for key in ("split", "path", "start", "stop")})
    task = task_of(config.task)
    good: list[Record] = []
    bad: list[BadRecord] = []
    for number, record in enumerate(read_examples(unit, config.data, task.name)):
        if isinstance(record, BadRecord):
            bad.append(record)
            continue
        try:
            good.append(task.check(record))
        except (BadExample, KeyError, TypeError, AttributeError) as error:
            what = error.what if isinstance(error, BadExample) else f"{type(error).__name__}: {error}"
            bad.append(BadRecord(unit.path or unit.split, number, f"{record.get('id', number)}: {what}"))
    return good, bad


class Labels:
    """Finds the label names of a unit's records."""

    def __init__(self, config: Finetune) -> None:
        self.config = config

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = task_of(self.config.task)
        if task.output == "text":
            return {}
        return task.labels(checked(self.config, row)[0])


class Encode:
    """Encodes a unit's records into a shard."""

    def __init__(
        self,
        config: Finetune,
        tokenizer: Artifact,
        labels: dict[str, list[str]],
        storage: Storage,
        folder: str,
        fence: int,
    ) -> None:
        self.config, self.tokenizer, self.labels = config, tokenizer, labels
        self.storage, self.folder, self.fence = storage, folder, fence

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.tokens.shards import ShardWriter, token_dtype
        from llmyard.tokens.tokenizer import Tokenizer

        records, bad = checked(self.config, row)
        tokenizer, task = Tokenizer.load(self.tokenizer.local(FILE)), task_of(self.config.task)
        examples = task.encode(records, tokenizer, self.labels)
        counts = {row["split"]: 0, "bad": len(bad), "too_long": 0}
        name = f"{row['split']}-{row['index']:06d}-f{self.fence}"
        with folder_for(self.storage, self.folder) as target:
            dtype, tagged = token_dtype(tokenizer.vocab_size), task.output == "spans"
            writer = ShardWriter(target.path, name, dtype, BLOCK_TOKENS, with_labels=tagged)
            for record, example in zip(records, examples, strict=True):
                if example is None:
                    counts["too_long"] += 1
                    continue
                counts[row["split"]] += 1
                writer.add(
                    example.ids, document=str(record["id"]), source=self.config.data.kind, labels=example.labels,
                    target_start=example.target_start, pairs=example.pairs,
                )  # fmt: skip
            files = writer.close() if writer.documents else []
        return {
            "files": [asdict(entry) for entry in files],
            "shards": [asdict(writer.facts)] if files else [],
            "counts": counts,
            "bad": [asdict(item) for item in bad[:20]],
        }
