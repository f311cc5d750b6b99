"""A split's examples asked and scored, part by part on Ray Data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from typing import Any

from pydantic import TypeAdapter

from llmyard.core.artifacts import Artifact
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.evaluation.endpoint import LiveModel
from llmyard.evaluation.harm import toxicity
from llmyard.evaluation.scoring import Answered, against, scored
from llmyard.models.written import shape_of
from llmyard.sources.config import ExampleSource
from llmyard.sources.examples import ExampleUnit, plan_examples
from llmyard.stages.config import Evaluate, Finetune
from llmyard.stages.examples import checked
from llmyard.stages.stage import Making
from llmyard.tasks.catalogue import form_of, task_of
from llmyard.tasks.config import AnyTask
from llmyard.tasks.config import Task as TaskConfig
from llmyard.tasks.few_shot import FewShot
from llmyard.tasks.task import Record, Task
from llmyard.text.config import Toxicity
from llmyard.text.disturbances import Disturbance

WHOLE = 1 << 62
_ATTRIBUTIONS = "attributions-{}.json"
_TASK: TypeAdapter[AnyTask] = TypeAdapter(TaskConfig)
# What stands for the answer to a case that a model behind a URL refused.
_EMPTY: Mapping[str, Any] = {
    "text": "", "spans": [{"entities": [], "triples": []}], "label": [{"label": "", "shares": {}}]
}  # fmt: skip
DEFAULT_ROOM = 1024  # tokens, of a model that nothing bounds


def family_of(checkpoint: Artifact) -> str:
    """Returns the family of a checkpoint's model; older records do not name it."""
    named = checkpoint.details.get("family") or shape_of(checkpoint.local("config.json")).family
    return str(named).removeprefix("llmyard_")


def check_askable(config: Evaluate, checkpoint: Artifact) -> None:
    """Raises RequestError for a checkpoint that cannot be asked a task: it was not taught it, nor reads plain text."""
    if _taught(checkpoint, config) is not None:
        return
    family = family_of(checkpoint)
    if config.task is not None and config.task.kind in ("dialogue", "instruction", "preference"):
        raise RequestError(f"{config.task.kind} is not asked in plain text", "fine-tune the model for it")
    if form_of(family) != "decoder" or family == "transformer_xl":
        raise RequestError(
            f"{checkpoint.reference} is of family {family or 'unknown'!r}: plain text is answered by models that go on "
            "writing (gpt2, llama and their like)",
            "fine-tune it for the task",
        )


def check_comparable(config: Evaluate, checkpoint: Artifact, other: Artifact) -> None:
    """Raises RequestError where two checkpoints do not answer the same questions."""
    if config.task is not None:
        check_askable(config, other)
        return
    kinds = [str(each.details.get("task", "")) for each in (checkpoint, other)]
    if kinds[0] != kinds[1] or not kinds[0]:
        raise RequestError(
            f"{checkpoint.reference} is for {kinds[0] or 'no task'}, {other.reference} for {kinds[1] or 'no task'}",
            "compare checkpoints that were tuned for the same task",
        )


def live_model(config: Evaluate) -> LiveModel | None:
    """Returns the model behind a URL that an evaluation asks; None where it asks a checkpoint.

    Its key is read here, from the environment of who began the job.
    """
    where = config.endpoint
    if where is None:
        return None
    key = os.environ.get(where.key_env, "")
    return LiveModel(where.url, where.model, key, where.streams, where.timeout_seconds)


def task_metrics(config: Evaluate, making: Making, live: LiveModel | None = None) -> dict[str, Any]:
    """Returns what the report says of each split."""
    from llmyard.runtime.datasets import map_units, map_with

    draft = making.draft
    asked = Asked.of(making.parents["checkpoint"], config) if live is None else Asked.live(live, config)
    others = {"other": making.parents["other"]} if "other" in making.parents else {}
    rows = []
    for split in config.splits:
        units = plan_examples(asked.data, split)
        for index, (unit, share) in enumerate(zip(units, _shares(config.limit, units, asked), strict=True)):
            # Halves of a unit, so that two workers have something to do on a small test set.
            rows += [
                {"index": index, "half": half, "share": share, **asdict(unit)} for half in (0, 1) if share or not index
            ]
    total = len(rows) * (1 + len(others)) + len(config.splits)
    done = 0
    control = config.control.model_dump()
    asked_of = {"": asked} | {name: Asked.of(other, config) for name, other in others.items()}
    for each in asked_of.values():
        each.data = asked.data  # the same questions to all
    models = {"": live if live is not None else making.parents["checkpoint"], **others}
    for name, model in models.items():
        where = (draft.storage, _folder(draft.folder, name), config.disturb)
        arguments: tuple[Any, ...] = (model, asked_of[name], *where)
        if live is None:
            arguments += (config.batch_size, control, config.attributions)
        for _ in map_with(rows, Predictor if live is None else LivePredictor, arguments):
            done += 1
            making.progress.update(done, total, "answering")
    score = Scorer(asked_of, draft.storage, draft.folder, config.toxicity)
    found = {}
    for row in map_units([{"split": split} for split in config.splits], score):
        found[row["split"]] = row["scored"]
        done += 1
        making.progress.update(done, total, "scoring")
    return {split: found[split] for split in config.splits}


def _folder(folder: str, name: str) -> str:
    return f"{folder}/predictions{'-' if name else ''}{name}"


class Asked:
    """What a checkpoint is asked: what it was tuned for, or another task in plain text.

    Args:
        task: The task.
        data: The examples.
        family: Of the model.
        prefix: Ids before every prompt, where these were tuned.
        shots: Solved examples before every question in plain text; None of a tuned model.
        room: Tokens that the model reads.
    """

    def __init__(
        self,
        task: AnyTask,
        data: ExampleSource,
        family: str,
        prefix: Sequence[int] = (),
        shots: int | None = None,
        room: int = 0,
    ) -> None:
        self.config, self.data, self.family, self.prefix = task, data, family, tuple(prefix)
        self.shots, self.room = shots, room

    @classmethod
    def of(cls, checkpoint: Artifact, config: Evaluate) -> Asked:
        """Returns what a checkpoint is asked in an evaluation."""
        details = checkpoint.details
        family = family_of(checkpoint)
        taught = _taught(checkpoint, config)
        if taught is not None:
            return taught
        if config.task is not None:
            assert config.data is not None
            room = int(details.get("sequence_length", 0)) or DEFAULT_ROOM
            return cls(config.task, config.data, family, shots=config.shots, room=room)
        trained = Finetune.model_validate(checkpoint.config)
        task = _TASK.validate_python(details["task_config"])
        return cls(task, config.data or trained.data, family, details.get("prompt_ids", ()))

    @classmethod
    def live(cls, model: LiveModel, config: Evaluate) -> Asked:
        """Returns what a model behind a URL is asked: records where it is llmyard's and made for the task, plain text
        else.
        """
        assert config.task is not None
        assert config.data is not None
        about = model.about()
        if about.get("task") == config.task.kind and "artifact" in about and not config.shots:
            return cls(config.task, config.data, str(about.get("family", "gpt2")))
        return cls(config.task, config.data, "gpt2", shots=config.shots)

    def task(self) -> Task:
        """Returns the task; in plain text with its solved examples, which are read here."""
        task = task_of(self.config, self.family, self.prefix)
        if self.shots is None:
            return task
        train = self.training(task)
        few = FewShot(task, train[: self.shots], self.room)
        few.learn_options(train)
        return few

    def training(self, task: Task) -> list[Record]:
        """Returns the training examples."""
        units = plan_examples(self.data, "train")
        return [record for unit in units for record in self.records(asdict(unit), task)]

    def records(self, row: Mapping[str, Any], task: Task) -> list[Record]:
        """Returns the good records of a unit of work."""
        return checked(self.data, task, row)[0]


def _taught(checkpoint: Artifact, config: Evaluate) -> Asked | None:
    """Returns one of several tasks of a checkpoint, as it was taught; None where an evaluation asks for another."""
    if config.task is None or config.data is None or config.shots:
        return None
    details = checkpoint.details
    taught = [{"task_config": details.get("task_config"), "prompt_ids": details.get("prompt_ids", ())}]
    for each in [*taught, *details.get("also", ())]:
        if (each["task_config"] or {}).get("kind") == config.task.kind:
            task = _TASK.validate_python(each["task_config"])
            return Asked(task, config.data, family_of(checkpoint), each["prompt_ids"])
    return None


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
        task = task_of(self.asked.config, self.asked.family)
        return {"index": row["index"], "count": len(self.asked.records(row, task))}


def _part(row: Mapping[str, Any]) -> str:
    return f"{row['split']}-{row['index']:06d}-{row['half']}.json"


class _Answering:
    """Answers a unit's cases, and writes them with their records."""

    def __init__(self, asked: Asked, storage: Storage, folder: str, disturb: Disturbance | None) -> None:
        self.asked, self.task, self.storage, self.folder = asked, asked.task(), storage, folder
        self.disturb = disturb

    def answers(self, cases: Sequence[Record]) -> list[Any]:
        """Returns what the model says of cases, None of one that it refuses."""
        raise NotImplementedError

    def look_into(self, split: str, cases: Sequence[Record]) -> None:
        """Explains the first answers of a split, where that is asked for."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.tasks.disturbing import perturbed

        path = f"{self.folder}/{_part(row)}"
        if self.storage.read(path) is None:
            task = self.task
            records = self.asked.records(row, task)[: row["share"]]
            if self.disturb is not None:
                records = list(perturbed(records, task.name, self.disturb))
            middle = -(-len(records) // 2)
            halves = records[:middle], records[middle:]
            cases = [case for record in halves[row["half"]] for case in task.cases(record)]
            lines = [
                {"record": case, "answer": _EMPTY[task.output] if answer is None else answer, "refused": answer is None}
                for case, answer in zip(cases, self.answers(cases), strict=True)
            ]
            if row["index"] == row["half"] == 0:
                self.look_into(row["split"], cases)
            self.storage.write(path, json.dumps(lines, ensure_ascii=False).encode())
        return {}


class Predictor(_Answering):
    """Answers with the engine that also serves."""

    def __init__(
        self,
        checkpoint: Artifact,
        asked: Asked,
        storage: Storage,
        folder: str,
        disturb: Disturbance | None,
        batch_size: int,
        control: Mapping[str, Any],
        attributions: int,
    ) -> None:
        from llmyard.generation.model import engine_of, labels_of

        super().__init__(asked, storage, folder, disturb)
        self.engine, self.labels = engine_of(checkpoint, threads=1), labels_of(checkpoint)
        self.batch_size, self.control, self.attributions = batch_size, control, attributions

    def answers(self, cases: Sequence[Record]) -> list[Any]:
        """Returns what the model says of cases."""
        from llmyard.generation.answers import answers_of

        return answers_of(self.engine, self.task, cases, self.batch_size, self.labels, self.control)

    def look_into(self, split: str, cases: Sequence[Record]) -> None:
        """Writes what each token of some inputs did for the answer."""
        from llmyard.generation.attribution import attributions_of

        if not self.attributions:
            return
        decoding = replace(self.task.decoding(self.labels), **self.control)
        some = cases[: self.attributions]
        found = [asdict(each) for each in attributions_of(self.engine, self.task, some, decoding)]
        self.storage.write(
            f"{self.folder}/{_ATTRIBUTIONS.format(split)}", json.dumps(found, ensure_ascii=False).encode()
        )


class LivePredictor(_Answering):
    """Answers with a model behind a URL."""

    def __init__(
        self, model: LiveModel, asked: Asked, storage: Storage, folder: str, disturb: Disturbance | None
    ) -> None:
        super().__init__(asked, storage, folder, disturb)
        self.model = model

    def answers(self, cases: Sequence[Record]) -> list[Any]:
        """Returns what the model says of cases; in plain text where it was not made for the task."""
        task = self.task
        if isinstance(task, FewShot):
            return self.model.chat([task.text(case) for case in cases], task.decoding({}).max_new_tokens)
        return self.model.predict(cases) if cases else []


class Scorer:
    """Scores one split's answers, and its baseline's; against those of another model, where there is one."""

    def __init__(
        self, asked: Mapping[str, Asked], storage: Storage, folder: str, toxicity: Toxicity | None = None
    ) -> None:
        self.asked, self.storage, self.folder, self.toxicity = asked, storage, folder, toxicity

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        split, asked = row["split"], self.asked[""]
        answered = self._answered(split, "")
        if not answered:
            raise RequestError(f"split {split!r} has no examples", "check the data, or leave the split out")
        task = asked.task()
        found = scored(task, answered, asked.training(task))
        if self.toxicity is not None and task.output == "text":
            harm = toxicity([str(each.answer) for each in answered], self.toxicity)
            found["metrics"] |= {f"toxic_{name}": each.share.value for name, each in harm.items()}
            found["intervals"] |= {f"toxic_{name}": [each.share.low, each.share.high] for name, each in harm.items()}
        if task.name == "knowledge_graph":
            found["graph"] = self._graph(split, task, answered)
        if "other" in self.asked:
            found |= against(task, answered, self.asked["other"].task(), self._answered(split, "other"))
        found["attributions"] = json.loads(
            self.storage.read(f"{_folder(self.folder, '')}/{_ATTRIBUTIONS.format(split)}") or b"[]"
        )
        return {"split": split, "scored": found}

    def _graph(self, split: str, task: Task, answered: Sequence[Answered]) -> dict[str, int]:
        """Writes all that was found of a split as one graph, and returns how large it is."""
        from llmyard.tasks.graph import graph_of_answers
        from llmyard.tasks.graph_files import entity_lines, triple_lines, turtle_lines

        graph = graph_of_answers(task, [each.record for each in answered], [each.answer for each in answered])
        tables = {
            f"graph-{split}.tsv": triple_lines(graph), f"graph-{split}-entities.tsv": entity_lines(graph),
            f"graph-{split}.ttl": turtle_lines(graph),
        }  # fmt: skip
        for name, lines in tables.items():
            self.storage.write(f"{self.folder}/{name}", "".join(lines).encode())
        return {"entities": len(graph.entities), "triples": len(graph.triples)}

    def _answered(self, split: str, name: str) -> list[Answered]:
        folder, lines = _folder(self.folder, name), []
        for index, _ in enumerate(plan_examples(self.asked[name].data, split)):
            for half in (0, 1):
                part = self.storage.read(f"{folder}/{_part({'split': split, 'index': index, 'half': half})}")
                lines += json.loads(part or b"[]")
        return [Answered(line["record"], line["answer"], line["refused"]) for line in lines]
