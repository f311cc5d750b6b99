"""Task examples encoded into shards, on Ray Data: checked, without those that held-out ones ask too."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmyard.core.artifacts import Artifact, FileEntry
from llmyard.core.errors import DataError
from llmyard.core.fingerprint import fingerprint
from llmyard.core.storage import Storage
from llmyard.sources.config import ExampleSource
from llmyard.sources.corpus import BadRecord, listing, revision
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples, splits_of
from llmyard.stages.config import Finetune
from llmyard.stages.preparing.encoding import folder_for
from llmyard.stages.stage import Making
from llmyard.stages.training_config import NAME_TOKENS, prompt_tokens
from llmyard.tasks.catalogue import form_of, task_of
from llmyard.tasks.task import BadExample, Record, Task
from llmyard.tokens.tokenizer import FILE

REVISION = 4
ENCODED_SPLITS = ("train", "validation")
BLOCK_TOKENS = 1024
TRANSLATED_AT_ONCE = 32


def prompt_ids(config: Finetune, tokenizer: Artifact) -> list[int]:
    """Returns the ids that stand before every prompt: trained ones behind the tokenizer's, or the name of the task
    where there are several; none otherwise.
    """
    from llmyard.tokens.growth import Vocabulary
    from llmyard.tokens.tokenizer import Tokenizer

    if config.also:
        return Tokenizer.load(tokenizer.local(FILE)).encode(f"{config.task.kind}: ")[:NAME_TOKENS]
    count = prompt_tokens(config)
    size = Vocabulary.load(tokenizer.local(FILE)).size if count else 0
    return list(range(size, size + count))


def parts_of(config: Finetune) -> list[Finetune]:
    """Returns the stage for each of its tasks alone, its own first."""
    others = [
        config.model_copy(update={"task": each.task, "data": each.data, "output": f"{config.output}-{each.task.kind}"})
        for each in config.also
    ]
    return [config, *others]


def content(config: Finetune, family: str) -> list[Any]:
    """Returns the listing of the example files, and the revisions of generated data and of the task."""
    task = task_of(config.task, family)
    return [listing(config.data), revision(config.data), task.output, task.revision]


def encode_examples(config: Finetune, making: Making, family: str) -> Artifact:
    """Returns the shards artifact of the encoded examples, made unless an equal one is there."""
    from llmyard.runtime.datasets import map_units
    from llmyard.tokens import shard_index
    from llmyard.tokens.shard_index import ShardFacts

    store, name = making.context.store, f"{config.output}-data"
    tokenizer, translator = making.parents["tokenizer"], making.parents.get("translator")
    print_ = fingerprint(
        data=config.data.decisive(),
        leaks=config.leaks,
        augment=None if config.augment is None else config.augment.decisive(),
        translator=None if translator is None else translator.reference,
        task=config.task.decisive(),
        form=form_of(family),
        before=[prompt_tokens(config), bool(config.also)],
        tokenizer=tokenizer.reference,
        sources=content(config, family),
        revision=REVISION,
    )
    finished = store.find("shards", name, print_)
    if finished is not None:
        store.settle(finished)
        return finished
    rows = _rows(config, ENCODED_SPLITS)
    making.progress.update(0, 1, "encoding examples")
    with store.begin("shards", name, print_) as draft:
        labels: dict[str, set[str]] = {}
        for result in map_units(rows, Labels(config, family)):
            for key, values in result.items():
                labels.setdefault(key, set()).update(values)
        names = {key: sorted(values) for key, values in sorted(labels.items())}
        held_out = {
            key: id_
            for result in map_units(
                _rows(config, [each for each in splits_of(config.data) if each != "train"]), Keys(config, family)
            )
            for key, id_ in result["keys"]
        }
        encode = Encode(
            config, family, tokenizer, translator, names, frozenset(held_out), draft.storage, draft.folder,
            draft.lease.fence,
        )  # fmt: skip
        entries: list[FileEntry] = []
        shards: list[ShardFacts] = []
        counts: Counter[str] = Counter()
        bad: list[dict[str, Any]] = []
        leaked: set[str] = set()
        for result in map_units(rows, encode):
            entries += [FileEntry(**entry) for entry in result["files"]]
            shards += [ShardFacts(**each) for each in result["shards"]]
            counts.update(result["counts"])
            bad += result["bad"]
            leaked.update(result["leaked"])
        if config.leaks == "refuse":
            _refuse_leaks(leaked, held_out)
        _refuse(config, counts, bad)
        entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(shards)))
        return draft.commit(
            config={"task": config.task.model_dump(mode="json"), "data": config.data.model_dump(mode="json")},
            parents=[tokenizer.reference],
            metrics={key: float(value) for key, value in counts.items()},
            details={"labels": names, "task": config.task.kind, "bad_records": bad[:20]},
            files=sorted(entries, key=lambda entry: entry.path),
        )


def _rows(config: Finetune, splits: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the units of work of some splits."""
    return [
        {"index": index, **asdict(unit)}
        for split in splits
        for index, unit in enumerate(plan_examples(config.data, split))
    ]


def _refuse_leaks(leaked: Collection[str], held_out: Mapping[str, str]) -> None:
    if not leaked:
        return
    first = ", ".join(sorted(held_out[key] for key in leaked)[:3])
    raise DataError(
        f"{len(leaked)} of {len(held_out)} different held-out examples are asked in training too (such as {first}): "
        "what is measured on them would be worth nothing",
        "take them out of the training data, or set `leaks: drop` to leave them out of training here",
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


def checked(
    data: ExampleSource, task: Task, row: Mapping[str, Any], check: Callable[[Record], Record] | None = None
) -> tuple[list[Record], list[BadRecord]]:
    """Returns the good records of a unit of work and what is wrong with the others.

    Args:
        data: The examples.
        task: What they are for.
        row: The unit.
        check: Says what is good; None: the task does.
    """
    check = check or task.check
    unit = ExampleUnit(**{key: row[key] for key in ("split", "path", "start", "stop")})
    good: list[Record] = []
    bad: list[BadRecord] = []
    for number, record in enumerate(read_examples(unit, data, task.name)):
        if isinstance(record, BadRecord):
            bad.append(record)
            continue
        try:
            good.append(check(record))
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


class Keys:
    """Finds what the records of a held-out unit ask."""

    def __init__(self, config: Finetune, family: str) -> None:
        self.config, self.family = config, family

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.sources.leaks import input_key

        records, _ = checked(self.config.data, task_of(self.config.task, self.family), row)
        return {"keys": [(input_key(record).hex(), str(record.get("id", ""))) for record in records]}


class Encode:
    """Encodes a unit's records into a shard; training records that ask what a held-out one asks are left out."""

    def __init__(
        self,
        config: Finetune,
        family: str,
        tokenizer: Artifact,
        translator: Artifact | None,
        labels: dict[str, list[str]],
        held_out: frozenset[str],
        storage: Storage,
        folder: str,
        fence: int,
    ) -> None:
        self.config, self.family, self.tokenizer, self.labels = config, family, tokenizer, labels
        self.translator = translator
        self.held_out = held_out
        self.storage, self.folder, self.fence = storage, folder, fence

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.sources.leaks import input_key
        from llmyard.tokens.shards import ShardWriter, token_dtype
        from llmyard.tokens.tokenizer import Tokenizer

        prefix = prompt_ids(self.config, self.tokenizer)
        task = task_of(self.config.task, self.family, prefix)
        records, bad = checked(self.config.data, task, row)
        leaked: list[str] = []
        leaked_copies = 0
        if row["split"] == "train":
            keys = [input_key(record).hex() for record in records]
            leaked = [key for key in keys if key in self.held_out]
            records = [record for record, key in zip(records, keys, strict=True) if key not in self.held_out]
        if row["split"] == "train":
            made = self._augmented(records)
            records = [record for record in made if input_key(record).hex() not in self.held_out]
            leaked_copies = len(made) - len(records)
        tokenizer = Tokenizer.load(self.tokenizer.local(FILE))
        encoded = task.encode(records, tokenizer, self.labels)
        counts = {
            row["split"]: 0,
            "bad": len(bad),
            "leaked": len(leaked),
            "leaked_copies": leaked_copies,
            "too_long": sum(examples is None for examples in encoded),
        }
        name = f"{row['split']}-{row['index']:06d}-f{self.fence}"
        kept = [
            (record, example) for record, examples in zip(records, encoded, strict=True) for example in examples or ()
        ]
        counts[row["split"]] = len(kept)
        labelled = any(example.labels is not None for _, example in kept)
        with folder_for(self.storage, self.folder) as target:
            dtype = token_dtype(max([tokenizer.vocab_size, *(id_ + 1 for id_ in prefix)]))
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
            "leaked": leaked,
            "bad": [asdict(item) for item in bad[:20]],
        }

    def _augmented(self, records: list[Record]) -> list[Record]:
        """Returns training records with the copies that the config asks for."""
        from llmyard.tasks.back_translation import back_translated
        from llmyard.tasks.disturbing import augmented

        augment, kind = self.config.augment, self.config.task.kind
        if augment is None:
            return records
        found = list(records)
        if augment.disturb is not None:
            found = list(augmented(records, kind, augment.disturb, augment.copies))
        if self.translator is not None:
            with _translating(self.translator) as translate:
                found += back_translated(records, kind, translate)
        return found


@contextlib.contextmanager
def _translating(translator: Artifact) -> Iterator[Callable[[Sequence[str], str], list[str]]]:
    """Gives a checkpoint that translates, as a function of texts and the language to translate into; "" of a text that
    is too long for it.
    """
    from llmyard.generation.answers import answers_of
    from llmyard.generation.model import engine_of, task_of_checkpoint

    engine, task = engine_of(translator, threads=1), task_of_checkpoint(translator)
    assert task is not None

    def translate(texts: Sequence[str], target: str) -> list[str]:
        cases = [{"source": text, "target_language": target} for text in texts]
        whole = [case for case in cases if task.excess(case, engine.tokenizer)[0] <= 0]
        said = iter(answers_of(engine, task, whole, TRANSLATED_AT_ONCE, {}))
        return [str(next(said)) if case in whole else "" for case in cases]

    try:
        yield translate
    finally:
        engine.close()
