"""``predict``: a checkpoint's answers to many records, part by part on Ray Data, in the schema of its task.

A part that is written stays: a run that was stopped goes on behind it. The driver sees counts only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, islice
from typing import Any, TypeVar

from pydantic import TypeAdapter

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.core.seeds import mix
from llmyard.core.storage import Storage
from llmyard.sources.config import ExampleSource, unfit
from llmyard.sources.corpus import listing, revision
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples
from llmyard.sources.records import BadRecord
from llmyard.stages.bases import tokenizer_of
from llmyard.stages.predict_config import Predict
from llmyard.stages.stage import Made, Making
from llmyard.tasks.answered import ASKED, completed, questions
from llmyard.tasks.config import Task as TaskConfig
from llmyard.tasks.task import BadExample, Record, Task

REVISION = 1
PART = 256  # records
LANES = 4  # workers that share a file: each reads it, and answers every fourth part
SHOWN = 20  # records that could not be used
FOLDER, SET_ASIDE = "records", "set-aside"
_TASK: TypeAdapter[Any] = TypeAdapter(TaskConfig)
_ALL = 1 << 62

T = TypeVar("T")


def parents(config: Predict, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the checkpoint, and the shards whose documents are asked.

    Raises:
        RequestError: It was tuned for no task, or for one whose records are not these.
    """
    checkpoint = store.get(config.checkpoint, "checkpoint")
    task = str((checkpoint.details.get("task_config") or {}).get("kind", ""))
    if task not in ASKED:
        raise RequestError(
            f"{checkpoint.reference} is for {task or 'no task'}, which is asked no records",
            f"one of: {', '.join(ASKED)}",
        )
    if config.data is not None and (why := unfit(config.data, task)):
        raise RequestError(why, "name a source of its task's examples")
    if config.shards is None:
        return {"checkpoint": checkpoint}
    if task not in _OF_DOCUMENTS:
        raise RequestError(
            f"documents are asked of {', '.join(_OF_DOCUMENTS)}; {checkpoint.reference} is for {task}",
            "give `files` or `data`",
        )
    shards = store.get(config.shards, "shards")
    tokenizer = tokenizer_of(shards, store)
    if tokenizer is None:
        raise RequestError(f"{shards.reference} is no prepared corpus", "name the output of a stage of kind `prepare`")
    return {"checkpoint": checkpoint, "shards": shards, "tokenizer": tokenizer}


def sources(config: Predict, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of the files."""
    data = _data(config)
    return [] if data is None else [listing(data), revision(data)]


def make(config: Predict, making: Making) -> Made:
    """Answers, and writes the records."""
    from llmyard.runtime.datasets import map_with

    draft = making.draft
    units = _units(config, making)
    rows = [{**unit, "lane": lane} for unit in units for lane in range(LANES)]
    arguments = (config, dict(making.parents), draft.storage, draft.folder)
    counts: Counter[str] = Counter()
    bad: list[Any] = []
    for done, result in enumerate(map_with(rows, Answerer, arguments), start=1):
        counts.update(result["counts"])
        bad += result["bad"]
        making.progress.update(done, len(rows), "answering", answered=counts["answered"])
    _check(config, counts, bad)
    metrics = {name: float(counts[name]) for name in ("asked", "answered", "refused", "unusable", "bad")}
    task = making.parents["checkpoint"].details["task_config"]["kind"]
    return Made(
        metrics, {"task": task, "checkpoint": making.parents["checkpoint"].reference, "bad_records": bad[:SHOWN]}
    )


def _check(config: Predict, counts: Counter[str], bad: Sequence[Any]) -> None:
    """Raises DataError where nothing is answered, or too much of what was to be asked is no record."""
    shown = "; ".join(f"{each['path']}: {each['reason']}" for each in bad[:3])
    if not counts["answered"]:
        raise DataError(
            f"none of {sum(counts.values())} records was answered ({dict(counts)}) {shown}", "check the data"
        )
    source = config.files or config.data
    share = counts["bad"] / max(1, counts["bad"] + counts["asked"])
    if share > getattr(source, "max_bad_share", 0.01):
        raise DataError(f"{counts['bad']} records ({share:.1%}) cannot be asked ({shown})", "mend them")


def _data(config: Predict) -> ExampleSource | None:
    return config.files.source() if config.files is not None else config.data


def _units(config: Predict, making: Making) -> list[dict[str, Any]]:
    """Returns the units of work, each with how many of its records are asked."""
    from llmyard.runtime.datasets import map_units

    data = _data(config)
    units: list[dict[str, Any]] = []
    for split in config.splits:
        if data is None:
            own = [asdict(ExampleUnit(split, "", at, at + 1)) for at in range(_shards(making, split))]
        else:
            own = [asdict(unit) for unit in plan_examples(data, split)]
        own = [{"index": index, "most": _ALL, **unit} for index, unit in enumerate(own)]
        if config.limit is not None:
            counted = map_units(own, Count(config, dict(making.parents), config.limit))
            counts = [row["count"] for row in sorted(counted, key=lambda row: int(row["index"]))]
            before = [0, *accumulate(counts)]
            own = [{**unit, "most": max(0, config.limit - gone)} for unit, gone in zip(own, before, strict=False)]
        units += [unit for unit in own if unit["most"]]
    return units


def _shards(making: Making, split: str) -> int:
    from llmyard.tokens.shards import ShardSet

    try:
        return len(ShardSet.of(making.parents["shards"], split).shards)
    except DataError:  # a split that is empty
        return 0


class _Reading:
    """Reads the records of units."""

    def __init__(self, config: Predict, parents: Mapping[str, Artifact]) -> None:
        from llmyard.stages.asked import family_of
        from llmyard.tasks.catalogue import task_of

        self.config, self.parents = config, parents
        details = parents["checkpoint"].details
        self.task: Task = task_of(
            _TASK.validate_python(details["task_config"]),
            family_of(parents["checkpoint"]),
            details.get("prompt_ids", ()),
        )

    def records(self, row: Mapping[str, Any]) -> Iterator[Record | BadRecord]:
        """Yields the records of a unit, and what could not be read."""
        data = _data(self.config)
        if data is None:
            yield from self._documents(row)
            return
        unit = ExampleUnit(**{key: row[key] for key in ("split", "path", "start", "stop")})
        yield from read_examples(unit, data, self.task.name)

    def _documents(self, row: Mapping[str, Any]) -> Iterator[Record]:
        from llmyard.tokens.shards import ShardSet
        from llmyard.tokens.tokenizer import FILE, Tokenizer

        tokenizer = Tokenizer.load(self.parents["tokenizer"].local(FILE))
        shard = ShardSet.of(self.parents["shards"], row["split"]).shards[row["start"]]
        table = shard.document_columns("id", "start", "length")
        field = _OF_DOCUMENTS[self.task.name]
        for some in _parts(zip(*(table[name].to_pylist() for name in ("id", "start", "length")), strict=True)):
            texts = tokenizer.decode_batch([shard.read(start, length).tolist() for _, start, length in some])
            yield from ({"id": id_, field: text} for (id_, _, _), text in zip(some, texts, strict=True))

    def asked(self, record: Record | BadRecord, place: str) -> tuple[Record, list[Record]] | BadRecord:
        """Returns a record with what it asks, or what is wrong with it."""
        if isinstance(record, BadRecord):
            return record
        try:
            return record, questions(record, self.task)
        except (BadExample, KeyError, TypeError, AttributeError) as error:
            what = error.what if isinstance(error, BadExample) else f"{type(error).__name__}: {error}"
            return BadRecord(place, 0, f"{record.get('id', '')}: {what}")


def _parts(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    left = iter(items)
    while part := tuple(islice(left, PART)):
        yield part


# The field of a record that a document is.
_OF_DOCUMENTS = {"translation": "source", "summarization": "text", "knowledge_graph": "text", "classification": "text"}


class Count(_Reading):
    """Counts a unit's records, as far as they are asked for."""

    def __init__(self, config: Predict, parents: Mapping[str, Artifact], most: int) -> None:
        super().__init__(config, parents)
        self.most = most

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        good = (each for each in self.records(row) if not isinstance(self.asked(each, ""), BadRecord))
        return {"index": row["index"], "count": sum(1 for _ in islice(good, self.most))}


class Answerer(_Reading):
    """Answers the parts of a unit that are of its lane."""

    def __init__(self, config: Predict, parents: Mapping[str, Artifact], storage: Storage, folder: str) -> None:
        from llmyard.generation.model import engine_of, labels_of

        super().__init__(config, parents)
        self.storage, self.folder = storage, folder
        self.engine = engine_of(parents["checkpoint"], threads=1)
        self.labels = labels_of(parents["checkpoint"])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        bad: list[Any] = []
        good = self._good(row, counts, bad)
        for number, part in enumerate(_parts(good)):
            if number % LANES == row["lane"]:
                counts.update(self._part(f"{row['split']}-{row['index']:06d}-{number:06d}", part))
        if row["lane"]:  # each lane reads all of it; what is bad counts once
            counts["bad"], bad = 0, []
        return {"counts": dict(counts), "bad": bad[:SHOWN]}

    def _good(
        self, row: Mapping[str, Any], counts: Counter[str], bad: list[Any]
    ) -> Iterator[tuple[Record, list[Record]]]:
        place = str(row["path"] or row["split"])
        left = row["most"]
        for record in self.records(row):
            found = self.asked(record, place)
            if isinstance(found, BadRecord):
                counts["bad"] += 1
                bad.append({"path": found.path, "reason": found.reason})
                continue
            if not left:
                return
            left -= 1
            yield found

    def _part(self, name: str, part: Sequence[tuple[Record, list[Record]]]) -> dict[str, int]:
        """Returns the counts of a part, which is answered unless it has been."""
        receipt = f"{self.folder}/_making/{name}.json"
        done = self.storage.read(receipt)
        if done is None:
            lines, aside = self._answered(part)
            for folder, rows in ((FOLDER, lines), (SET_ASIDE, aside)):
                text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
                self.storage.write(f"{self.folder}/{folder}/{name}.jsonl", text.encode())
            reasons = Counter(str(each["kind"]) for each in aside)
            done = json.dumps({"asked": len(part), "answered": len(lines), **reasons}).encode()
            self.storage.write(receipt, done)
        counts: dict[str, int] = json.loads(done)
        return counts

    def _answered(self, part: Sequence[tuple[Record, list[Record]]]) -> tuple[list[Record], list[Record]]:
        """Returns the records with their answers, and those that have none, with the reason."""
        from llmyard.generation.answers import answers_of

        fitting, aside = [], []
        for record, cases in part:
            excess = max((self.task.excess(case, self.engine.tokenizer)[0] for case in cases), default=0)
            if excess > 0:
                reason = f"{excess} tokens longer than is read at once"
                aside.append({"kind": "refused", "reason": reason, "record": record})
            else:
                fitting.append((record, cases))
        asked = [case for _, cases in fitting for case in cases]
        sampling, lines = self.config.sampling, []
        for turn in range(sampling.answers):
            control = {**self.config.control.model_dump(), **self._drawn(turn)}
            said = iter(answers_of(self.engine, self.task, asked, self.config.batch_size, self.labels, control))
            for record, cases in fitting:
                predictions = [self.task.prediction(case, next(said)) for case in cases]
                try:
                    lines.append(self._named(completed(record, self.task, predictions), turn))
                except BadExample as error:
                    aside.append({"kind": "unusable", "reason": error.what, "record": record})
        return lines, aside

    def _drawn(self, turn: int) -> dict[str, Any]:
        sampling = self.config.sampling
        seed = mix(sampling.seed, turn) >> 2 if sampling.temperature else 0
        return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}

    def _named(self, record: Record, turn: int) -> Record:
        """Returns a record with an id of its own where it has several answers."""
        if self.config.sampling.answers == 1 or "id" not in record:
            return record
        return {**record, "id": f"{record['id']}~{turn}"}
