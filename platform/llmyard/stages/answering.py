"""A split's examples asked and scored, part by part on Ray Data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from typing import Any

from llmyard.core.artifacts import Artifact, Draft
from llmyard.core.errors import RequestError
from llmyard.core.files import read_file
from llmyard.core.storage import Storage
from llmyard.evaluation.config import Merging
from llmyard.evaluation.endpoint import EndpointFailed, LiveModel, Refused
from llmyard.evaluation.harm import toxicity
from llmyard.evaluation.scoring import Answered, against, by_cluster, clusters, intervals, scored
from llmyard.metrics.measure import values_of
from llmyard.sources.examples import ExampleUnit, plan_examples
from llmyard.stages.asked import Asked
from llmyard.stages.config import Evaluate
from llmyard.stages.stage import Making
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.few_shot import FewShot
from llmyard.tasks.open_questions import OpenQuestion, asked_anew, best_part, measures, without_passages
from llmyard.tasks.passages import Passage, Passages
from llmyard.tasks.task import Record, Task
from llmyard.text.config import Toxicity
from llmyard.text.disturbances import Disturbance

WHOLE = 1 << 62
_BEHIND = "endpoint.json"
_OF_ONE = ("", "without", "undisturbed")  # what one model is asked: as the job says, without texts, as the data says
_ATTRIBUTIONS = "attributions-{}.json"
_FEW = 4  # cases: where so many are refused, and all, something else is wrong
# What stands for the answer to a case that a model behind a URL refused.
_EMPTY: Mapping[str, Any] = {
    "text": "", "spans": [{"entities": [], "triples": []}], "label": [{"label": "", "shares": {}}]
}  # fmt: skip


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
    identity = _one_model_answers(live, draft)
    done = 0
    control = config.control.model_dump()
    asked_of = {"": asked} | {name: Asked.of(other, config) for name, other in others.items()}
    models = {"": live if live is not None else making.parents["checkpoint"], **others}
    for each in asked_of.values():
        each.data = asked.data  # the same questions to all
        if config.retrieval is not None:
            each.index, each.passages = making.parents["index"], config.retrieval.passages
    if config.retrieval is not None and config.retrieval.without:
        asked_of["without"], models["without"] = asked.without_texts(), models[""]
    if config.disturb is not None:
        asked_of["undisturbed"], models["undisturbed"] = asked, models[""]
    total = len(rows) * len(models) + len(config.splits)
    for name, model in models.items():
        where = (draft.storage, _folder(draft.folder, name), None if name == "undisturbed" else config.disturb)
        arguments: tuple[Any, ...] = (model, asked_of[name], *where)
        if live is None:
            arguments += (config.batch_size, control, 0 if name == "undisturbed" else config.attributions)
        for _ in map_with(rows, Predictor if live is None else LivePredictor, arguments):
            done += 1
            making.progress.update(done, total, "answering")
    _refuse_another(live, identity)
    score = Scorer(asked_of, draft.storage, draft.folder, config.toxicity, config.graph)
    found = {}
    for row in map_units([{"split": split} for split in config.splits], score):
        found[row["split"]] = row["scored"]
        done += 1
        making.progress.update(done, total, "scoring")
    return {split: found[split] for split in config.splits}


def _one_model_answers(live: LiveModel | None, draft: Draft) -> str:
    """Returns which model answers behind a URL; drops what another one said there before the run was stopped."""
    if live is None:
        return ""
    identity = live.identity()
    said = draft.storage.read(f"{draft.folder}/{_BEHIND}")
    if said is not None and said.decode() != identity:
        for name in _OF_ONE:
            draft.storage.delete_folder(_folder(draft.folder, name))
    draft.storage.write(f"{draft.folder}/{_BEHIND}", identity.encode())
    return identity


def _refuse_another(live: LiveModel | None, identity: str) -> None:
    """Raises EndpointFailed where another model answers behind a URL than in the beginning: figures of two are none."""
    if live is not None and (now := live.identity()) != identity:
        raise EndpointFailed(
            f"{live.url} changed its model while it was asked: {identity} before, {now} now", "run the job again"
        )


def _folder(folder: str, name: str) -> str:
    return f"{folder}/predictions{'-' if name else ''}{name}"


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
        self.passages = Passages(asked.index.local()) if asked.index is not None else None

    def answers(self, cases: Sequence[Record]) -> list[Any]:
        """Returns what the model says of cases; of one that it refuses, the refusal."""
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
                changed = perturbed(records, task.name, self.disturb)
                pairs = zip(records, changed, strict=True)
                records = [new if self.passages is None else asked_anew(old, new) for old, new in pairs]
            middle = -(-len(records) // 2)
            halves = records[:middle], records[middle:]
            cases = [case for record in halves[row["half"]] for case in task.cases(record)]
            lines = self._lines(cases) if self.passages is None else self._open_lines(cases, self.passages)
            if row["index"] == row["half"] == 0:
                self.look_into(row["split"], [line["record"] for line in lines])
            self.storage.write(path, json.dumps(lines, ensure_ascii=False).encode())
        return {}

    def fitting(self, question: OpenQuestion) -> int:
        """Returns how many of a question's passages the model can read together, as far as that is known here."""
        return len(question.found)

    def _lines(self, cases: Sequence[Record]) -> list[dict[str, Any]]:
        said = _some_taken(self.answers(cases))
        return [self._line(case, answer) for case, answer in zip(cases, said, strict=True)]

    def _line(self, record: Record, answer: Any) -> dict[str, Any]:
        is_refused = isinstance(answer, Refused)
        said = _EMPTY[self.task.output] if is_refused else answer
        return {"record": record, "answer": said, "refused": is_refused}

    def _open_lines(self, cases: Sequence[Record], passages: Passages) -> list[dict[str, Any]]:
        """Answers questions from what is found for them."""
        asked = [str(case["question"]) for case in cases]
        nothing: list[list[Passage]] = [[] for _ in cases]
        found = nothing if self.asked.is_closed else passages.search(asked, self.asked.passages)
        questions = [OpenQuestion(case, each) for case, each in zip(cases, found, strict=True)]
        return self._tagged(questions) if self.task.output == "spans" else self._written(questions)

    def _tagged(self, questions: Sequence[OpenQuestion]) -> list[dict[str, Any]]:
        """Reads each passage alone, so that a span stands in one of them; the best scored span is the answer."""
        parts = [question.apart() for question in questions]
        said = iter(_some_taken(self.answers([case for part in parts for case in part])))
        lines = []
        for question, part in zip(questions, parts, strict=True):
            each = [next(said) for _ in part]
            refused = [one for one in each if isinstance(one, Refused)]
            tagged = [_EMPTY["spans"] if isinstance(one, Refused) else one for one in each]
            answer = [window for windows in tagged for window in windows]
            prediction = str(self.task.prediction(question.record, answer))
            record = question.answered(prediction, len(question.found), best_part(tagged))
            lines.append(self._line(record, refused[0] if refused and not prediction else answer))
        return lines

    def _written(self, questions: Sequence[OpenQuestion]) -> list[dict[str, Any]]:
        """Reads the passages joined, as many of the best as fit; of a model that refuses them, one less each time."""
        reads = [self.fitting(question) for question in questions]
        said = self.answers([question.read(read) for question, read in zip(questions, reads, strict=True)])
        while again := [at for at, answer in enumerate(said) if isinstance(answer, Refused) and reads[at] > 1]:
            for at in again:
                reads[at] -= 1
            for at, answer in zip(again, self.answers([questions[at].read(reads[at]) for at in again]), strict=True):
                said[at] = answer
        lines = []
        for question, read, answer in zip(questions, reads, _some_taken(said), strict=True):
            is_refused = isinstance(answer, Refused)
            prediction = "" if is_refused else str(self.task.prediction(question.read(read), answer))
            lines.append(self._line(question.answered(prediction, read), answer))
        return lines


def _some_taken(said: list[Any]) -> list[Any]:
    """Returns what was said; raises RequestError where several cases were asked and all were refused."""
    if len(said) >= _FEW and all(isinstance(answer, Refused) for answer in said):
        raise RequestError(f"all of {len(said)} cases are refused; the first: {said[0].what}", said[0].remedy)
    return said


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

    def fitting(self, question: OpenQuestion) -> int:
        """Returns how many passages fit in the task's prompt."""
        return question.fitting(lambda record: self.task.excess(record, self.engine.tokenizer)[0] <= 0)

    def look_into(self, split: str, cases: Sequence[Record]) -> None:
        """Writes what each token of some inputs did for the answer."""
        from llmyard.generation.attribution import attributions_of
        from llmyard.generation.torch_engine import TorchEngine

        if not self.attributions:
            return
        if not isinstance(self.engine, TorchEngine):
            raise RequestError("`attributions` needs gradients, which CTranslate2 has not", "leave it out")
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
            return list(self.model.chat([task.text(case) for case in cases], task.decoding({}).max_new_tokens))
        return self.model.predict(cases) if cases else []


class Scorer:
    """Scores one split's answers, and its baseline's; against those of another model, where there is one."""

    def __init__(
        self, asked: Mapping[str, Asked], storage: Storage, folder: str, toxicity: Toxicity | None, merging: Merging
    ) -> None:
        self.asked, self.storage, self.folder, self.toxicity = asked, storage, folder, toxicity
        self.merging = merging

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        split, asked = row["split"], self.asked[""]
        answered = self._answered(split, "")
        if asked.index is not None:  # the texts of the passages stay in the predictions
            answered = [replace(each, record=without_passages(each.record)) for each in answered]
        if not answered:
            raise RequestError(f"split {split!r} has no examples", "check the data, or leave the split out")
        task = asked.task()
        # Disturbed texts are all different; what belongs together is seen in the texts as they are.
        plain = self._answered(split, "undisturbed") if "undisturbed" in self.asked else answered
        places = clusters([each.record for each in plain])
        found = scored(task, answered, asked.training(task), places)
        if self.toxicity is not None and task.output == "text":
            harm = toxicity([str(each.answer) for each in answered], self.toxicity)
            found["metrics"] |= {f"toxic_{name}": each.share.value for name, each in harm.items()}
            found["intervals"] |= {f"toxic_{name}": [each.share.low, each.share.high] for name, each in harm.items()}
        if signatures := task.signatures([each.record for each in answered]):
            found["signatures"] = signatures
        if asked.index is not None:
            self._found(split, task, answered, found)
        if task.name == "knowledge_graph":
            found["graph"] = self._graph(split, task, answered)
        for name in ("other", "undisturbed"):
            if name in self.asked:
                found |= against(name, task, answered, self.asked[name].task(), self._answered(split, name), places)
        found["attributions"] = json.loads(
            self.storage.read(f"{_folder(self.folder, '')}/{_ATTRIBUTIONS.format(split)}") or b"[]"
        )
        return {"split": split, "scored": found}

    def _found(self, split: str, task: Task, answered: Sequence[Answered], found: dict[str, Any]) -> None:
        """Adds what an index was worth: how often the right passage was found and named, and answers without any."""
        asked = self.asked[""]
        assert asked.index is not None
        records = [each.record for each in answered]
        extra = by_cluster(measures(records, asked.passages), clusters(records))
        if "without" in self.asked:
            alone = self._answered(split, "without")
            bare = [each.record for each in alone]
            other = task.measures([task.prediction(each.record, each.answer) for each in alone], bare)
            extra |= by_cluster({f"{name}_without": other[name] for name in ("exact_match", "f1")}, clusters(bare))
        found["metrics"] |= values_of(extra)
        found["intervals"] |= {name: [each.low, each.high] for name, each in intervals(extra).items()}
        found["retrieval"] = {"index": asked.index.reference, "passages": asked.passages}

    def _graph(self, split: str, task: Task, answered: Sequence[Answered]) -> dict[str, int]:
        """Writes all that was found of a split as one graph, and returns how large it is."""
        from llmyard.tasks.graph import extractions_of, graph_of, read_aliases
        from llmyard.tasks.graph_files import entity_lines, triple_lines, turtle_lines

        found = extractions_of(task, [each.record for each in answered], [each.answer for each in answered])
        file = self.merging.aliases
        aliases = read_aliases(read_file(file).decode().splitlines(), file) if file is not None else []
        graph = graph_of(found, aliases=aliases, alias_relations=self.merging.alias_relations)
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
