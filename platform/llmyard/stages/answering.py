"""A split's examples asked and scored, part by part on Ray Data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from llmyard.core.artifacts import Artifact
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.evaluation.scoring import Answered, scored
from llmyard.sources.examples import ExampleUnit, plan_examples
from llmyard.stages.config import Evaluate, Finetune
from llmyard.stages.finetune import checked
from llmyard.stages.stage import Making
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.task import Record, Task

WHOLE = 1 << 62


def task_metrics(config: Evaluate, making: Making) -> dict[str, Any]:
    """Returns what the report says of each split."""
    from llmyard.runtime.datasets import map_units, map_with

    checkpoint, draft = making.parents["checkpoint"], making.draft
    asked = Asked.of(checkpoint)
    rows = []
    for split in config.splits:
        units = plan_examples(asked.trained.data, split)
        for index, (unit, share) in enumerate(zip(units, _shares(config.limit, units, asked), strict=True)):
            # Halves of a unit, so that two workers have something to do on a small test set.
            rows += [
                {"index": index, "half": half, "share": share, **asdict(unit)} for half in (0, 1) if share or not index
            ]
    parts = f"{draft.folder}/predictions"
    arguments = (checkpoint, asked, draft.storage, parts, config.batch_size)
    for done, _ in enumerate(map_with(rows, Predictor, arguments), start=1):
        making.progress.update(done, len(rows) + len(config.splits), "answering")
    score = Scorer(asked, draft.storage, parts)
    found = {}
    for done, row in enumerate(map_units([{"split": split} for split in config.splits], score), start=1):
        found[row["split"]] = row["scored"]
        making.progress.update(len(rows) + done, len(rows) + len(config.splits), "scoring")
    return {split: found[split] for split in config.splits}


class Asked:
    """What a checkpoint was tuned for, and on which data.

    Args:
        trained: The stage that tuned it.
        family: Of the model.
        prefix: Ids before every prompt, where these were tuned.
    """

    def __init__(self, trained: Finetune, family: str, prefix: Sequence[int] = ()) -> None:
        self.trained, self.family, self.prefix = trained, family, tuple(prefix)

    @classmethod
    def of(cls, checkpoint: Artifact) -> Asked:
        """Returns what a checkpoint's record says."""
        details = checkpoint.details
        return cls(Finetune.model_validate(checkpoint.config), str(details["family"]), details.get("prompt_ids", ()))

    @property
    def task(self) -> Task:
        """The task."""
        return task_of(self.trained.task, self.family, self.prefix)

    def records(self, row: Mapping[str, Any]) -> list[Record]:
        """Returns the good records of a unit of work."""
        return checked(self.trained.data, self.task, row)[0]


def _shares(limit: int | None, units: Sequence[ExampleUnit], asked: Asked) -> list[int]:
    """Returns how many examples of each unit are taken: a split's first ``limit`` ones, whatever files they are in."""
    from llmyard.runtime.datasets import map_units

    if limit is None:
        return [WHOLE] * len(units)
    if len(units) > 1 and units[0].path:
        counted = map_units([{"index": index, **asdict(unit)} for index, unit in enumerate(units)], Count(asked))
        counts = [row["count"] for row in sorted(counted, key=lambda row: int(row["index"]))]
    else:
        counts = [limit if unit.path else unit.stop - unit.start for unit in units]
    before = [0, *accumulate(counts)]
    return [max(0, min(count, limit - gone)) for count, gone in zip(counts, before, strict=False)]


class Count:
    """Counts a unit's good records."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"index": row["index"], "count": len(self.asked.records(row))}


def _part(row: Mapping[str, Any]) -> str:
    return f"{row['split']}-{row['index']:06d}-{row['half']}.json"


class Predictor:
    """Answers a unit's cases with the engine that also serves, and writes them with their records."""

    def __init__(self, checkpoint: Artifact, asked: Asked, storage: Storage, folder: str, batch_size: int) -> None:
        from llmyard.generation.model import engine_of, labels_of

        self.engine, self.labels = engine_of(checkpoint, threads=1), labels_of(checkpoint)
        self.asked, self.storage, self.folder, self.batch_size = asked, storage, folder, batch_size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.generation.answers import answers_of

        path = f"{self.folder}/{_part(row)}"
        if self.storage.read(path) is None:
            task = self.asked.task
            records = self.asked.records(row)[: row["share"]]
            middle = -(-len(records) // 2)
            halves = records[:middle], records[middle:]
            cases = [case for record in halves[row["half"]] for case in task.cases(record)]
            answers = answers_of(self.engine, task, cases, self.batch_size, self.labels)
            lines = [{"record": case, "answer": answer} for case, answer in zip(cases, answers, strict=True)]
            self.storage.write(path, json.dumps(lines, ensure_ascii=False).encode())
        return {}


class Scorer:
    """Scores one split's answers, and its baseline's."""

    def __init__(self, asked: Asked, storage: Storage, folder: str) -> None:
        self.asked, self.storage, self.folder = asked, storage, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        split, data = row["split"], self.asked.trained.data
        lines = []
        for index, _ in enumerate(plan_examples(data, split)):
            for half in (0, 1):
                part = self.storage.read(f"{self.folder}/{_part({'split': split, 'index': index, 'half': half})}")
                lines += json.loads(part or b"[]")
        if not lines:
            raise RequestError(f"split {split!r} has no examples", "check the data, or leave the split out")
        train: list[Record] = []
        for unit in plan_examples(data, "train"):
            train += self.asked.records(asdict(unit))
        answered = [Answered(line["record"], line["answer"]) for line in lines]
        return {"split": split, "scored": scored(self.asked.task, answered, train)}
