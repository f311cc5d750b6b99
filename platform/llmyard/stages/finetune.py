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
from llmyard.sources.config import ExampleSource
from llmyard.sources.corpus import BadRecord, listing, revision
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples
from llmyard.stages.bases import base_of, check_family, same_tokenizer
from llmyard.stages.config import Finetune, prompt_tokens
from llmyard.stages.preparing.encoding import folder_for
from llmyard.stages.stage import Made, Making
from llmyard.stages.training import TrainJob, is_apart, run_training
from llmyard.tasks.catalogue import form_of, task_of
from llmyard.tasks.config import LABELLERS
from llmyard.tasks.task import BadExample, Record, Task
from llmyard.tokens.tokenizer import FILE

REVISION = 3
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
    family, wanted, kind = _family(config, base), config.task.families, config.task.kind
    if family not in wanted:
        raise RequestError(
            f"{base.reference} is of family {family or 'unknown'!r}; {kind} is trained with {' or '.join(wanted)}",
            "name another checkpoint as `init`, or give `model` with `init: scratch`",
        )
    longest = config.task.longest(family)
    positions = int(base.details.get("sequence_length", longest))
    if family not in ("transformer", "t5") and positions < longest:
        raise RequestError(
            f"{base.reference} reads {positions} tokens, an example of {kind} has up to {longest}",
            "lower the limits under `task:`, or pretrain with a longer sequence_length",
        )
    learned = base.details.get("task")
    if base.details.get("adapter_of"):
        raise RequestError(
            f"{base.reference} is an adapter of {base.details['adapter_of']}, not a whole model",
            "train it with `method: {kind: lora, merge: true}`, or begin with its base",
        )
    if family in LABELLERS and base.config.get("kind") == "finetune" and learned != kind:
        raise RequestError(
            f"{base.reference} has the heads of {learned}, not of {kind}",
            "go on from the pretrained encoder, or from a checkpoint of the same task",
        )


def _family(config: Finetune, base: Artifact | None) -> str:
    if config.model is not None:
        return config.model.family
    return str(base.details.get("family", "")) if base is not None else ""


def sources(config: Finetune, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of the example files, and the revisions of generated data and of the task."""
    task = task_of(config.task, _family(config, parents.get("base")))
    return [listing(config.data), revision(config.data), task.output, task.revision]


def make(config: Finetune, making: Making) -> Made:
    """Encodes the examples and trains."""
    from llmyard.runtime.trainer import Board

    draft = making.draft
    base = making.parents.get("base")
    family = _family(config, base)
    data = _encode(config, making, family)
    labels = data.details["labels"]
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
    details = {
        "task": config.task.kind,
        "task_config": config.task.model_dump(mode="json"),
        "family": family,
        "sequence_length": config.task.longest(family),
        "label_smoothing": getattr(config.model, "label_smoothing", job.label_smoothing),
        **labels,
    }
    if prompt_tokens(config):
        details["prompt_ids"] = list(prompt_ids(config, making.parents["tokenizer"]))
    if base is not None and is_apart(config.method):
        details["adapter_of"] = base.reference
    return Made(metrics, details, also=(data,), extra_parents=(data.reference,))


def prompt_ids(config: Finetune, tokenizer: Artifact) -> range:
    """Returns the ids that stand before every prompt, behind the tokenizer's; none unless prompts are tuned."""
    from llmyard.tokens.growth import Vocabulary

    count = prompt_tokens(config)
    size = Vocabulary.load(tokenizer.local(FILE)).size if count else 0
    return range(size, size + count)


def _encode(config: Finetune, making: Making, family: str) -> Artifact:
    """Returns the shards artifact of the encoded examples, made unless an equal one is there."""
    from llmyard.runtime.datasets import map_units
    from llmyard.tokens import shard_index
    from llmyard.tokens.shard_index import ShardFacts

    store, name = making.context.store, f"{config.output}-data"
    tokenizer = making.parents["tokenizer"]
    print_ = fingerprint(
        data=config.data.decisive(),
        task=config.task.decisive(),
        form=form_of(family),
        prompt_tokens=prompt_tokens(config),
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
        for result in map_units(rows, Labels(config, family)):
            for key, values in result.items():
                labels.setdefault(key, set()).update(values)
        names = {key: sorted(values) for key, values in sorted(labels.items())}
        encode = Encode(config, family, tokenizer, names, draft.storage, draft.folder, draft.lease.fence)
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
            details={"labels": names, "task": config.task.kind, "bad_records": bad[:20]},
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


def checked(data: ExampleSource, task: Task, row: Mapping[str, Any]) -> tuple[list[Record], list[BadRecord]]:
    """Returns the good records of a unit of work and what is wrong with the others."""
    unit = ExampleUnit(**{key: row[key] for key in ("split", "path", "start", "stop")})
    good: list[Record] = []
    bad: list[BadRecord] = []
    for number, record in enumerate(read_examples(unit, data, task.name)):
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

    def __init__(self, config: Finetune, family: str) -> None:
        self.config, self.family = config, family

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = task_of(self.config.task, self.family)
        return task.labels(checked(self.config.data, task, row)[0])


class Encode:
    """Encodes a unit's records into a shard."""

    def __init__(
        self,
        config: Finetune,
        family: str,
        tokenizer: Artifact,
        labels: dict[str, list[str]],
        storage: Storage,
        folder: str,
        fence: int,
    ) -> None:
        self.config, self.family, self.tokenizer, self.labels = config, family, tokenizer, labels
        self.storage, self.folder, self.fence = storage, folder, fence

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.tokens.shards import ShardWriter, token_dtype
        from llmyard.tokens.tokenizer import Tokenizer

        prefix = prompt_ids(self.config, self.tokenizer)
        task = task_of(self.config.task, self.family, prefix)
        records, bad = checked(self.config.data, task, row)
        tokenizer = Tokenizer.load(self.tokenizer.local(FILE))
        encoded = task.encode(records, tokenizer, self.labels)
        counts = {row["split"]: 0, "bad": len(bad), "too_long": sum(examples is None for examples in encoded)}
        name = f"{row['split']}-{row['index']:06d}-f{self.fence}"
        kept = [
            (record, example) for record, examples in zip(records, encoded, strict=True) for example in examples or ()
        ]
        counts[row["split"]] = len(kept)
        labelled = any(example.labels is not None for _, example in kept)
        with folder_for(self.storage, self.folder) as target:
            dtype = token_dtype(tokenizer.vocab_size + len(prefix))
            writer = ShardWriter(target.path, name, dtype, BLOCK_TOKENS, with_labels=labelled)
            for record, example in kept:
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
