"""Questions asked over an index, without Ray: what is read, cited, refused, measured, and shown on the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.evaluation.config import Merging
from llmyard.evaluation.endpoint import Refused
from llmyard.sources.config import Records
from llmyard.sources.examples import plan_examples
from llmyard.stages.answering import Scorer, _Answering
from llmyard.stages.asked import Asked
from llmyard.stages.evaluation_report import pages
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import QuestionAnswering
from llmyard.tasks.few_shot import FewShot
from llmyard.tasks.passages import build_passages, passages_of
from llmyard.tasks.task import Record
from llmyard.text.disturbances import Disturbance
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

TOWNS = {
    "towns": ("Kora lies by a river. It has nine bridges.", "How many bridges has Kora?", "nine"),
    "城镇": ("马洛镇在河边。马洛镇有七座桥。", "马洛镇有几座桥？", "七座"),
}
STRANGE = {"id": "strange", "question": "zzz qqq?", "answers": [{"text": "nine"}]}  # and without a text of its own


def records() -> list[Record]:
    return [
        {"id": name, "context": text, "question": question, "answers": [{"text": answer, "start": text.index(answer)}]}
        for name, (text, question, answer) in TOWNS.items()
    ]


class Reading(_Answering):
    """Answers with whatever accepted answer stands in what it reads."""

    said: Sequence[str] = ("nine", "七座")

    def answers(self, cases: Sequence[Record]) -> list[Any]:
        self.cases: list[Record] = [*getattr(self, "cases", []), *cases]
        return [self.answer(next((each for each in self.said if each in case["context"]), "")) for case in cases]

    def answer(self, text: str) -> Any:
        if self.task.output == "text":
            return text
        entities = [{"text": text, "type": "answer", "start": 0, "end": 1, "score": 2.0}] if text else []
        return [{"entities": entities, "triples": []}]


class Refusing(Reading):
    """Takes short texts only, as an endpoint does."""

    room = 45

    def answers(self, cases: Sequence[Record]) -> list[Any]:
        said = super().answers(cases)
        refused = [len(case["context"]) > self.room for case in cases]
        return [Refused("too long", "split it") if no else each for each, no in zip(said, refused, strict=True)]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    rows = [*records(), STRANGE]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in rows))
    path = str(tmp_path / "a.jsonl")
    data = Records.model_validate({"kind": "records", "train": path, "validation": path, "test": path})
    build_passages(
        (each for name, town in TOWNS.items() for each in passages_of(name, town[0], 24)), tmp_path / "index"
    )
    found = Asked(QuestionAnswering(always_answers=True), data, "bert")
    index = SimpleNamespace(local=lambda: tmp_path / "index", reference="index/library@1")
    found.index, found.passages = index, 3  # type: ignore[assignment]
    return found


def lines(
    worker: type[Reading], asked: Asked, folder: Path, name: str = "predictions", disturb: Disturbance | None = None
) -> dict[str, Any]:
    storage = Storage(str(folder))
    work = worker(asked, storage, f"report/{name}", disturb)
    (unit,) = plan_examples(asked.data, "test")
    found = []
    for half in (0, 1):
        row = {"index": 0, "half": half, "share": 99, **asdict(unit)}
        work(row)
        found += json.loads(storage.read(f"report/{name}/test-000000-{half}.json") or b"")
    return {line["record"]["id"].rstrip("~0"): line for line in found}


def test_spans_are_read_a_passage_at_a_time_and_cited(asked: Asked, tmp_path: Path) -> None:
    found = lines(Reading, asked, tmp_path)
    assert [found[name]["record"]["cited"] for name in ("towns", "城镇", "strange")] == ["towns#1", "城镇#0", None]
    assert found["strange"]["record"]["passages"] == []
    assert found["strange"]["record"]["context"] == ""
    assert not any(line["refused"] for line in found.values())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_an_index_is_worth_is_measured_and_shown(asked: Asked, tmp_path: Path, family: str) -> None:
    asked.family = family
    lines(Reading, asked, tmp_path)
    closed = asked.without_texts()
    closed_lines = lines(Reading, closed, tmp_path, "predictions-without")
    assert {line["record"]["context"] for line in closed_lines.values()} == {""}
    score = Scorer({"": asked, "without": closed}, Storage(str(tmp_path)), "report", None, Merging())
    found = score({"split": "test"})["scored"]
    wanted = {
        "recall_at_3": 2 / 3, "nothing_found": 1 / 3, "cited_right": 1.0, "exact_match": 0.75,  # of the languages' mean
        "exact_match_without": 0.0, "f1_without": 0.0,
    }  # fmt: skip
    assert {name: found["metrics"][name] for name in wanted} == {
        name: pytest.approx(each) for name, each in wanted.items()
    }
    assert set(wanted) <= set(found["intervals"])
    shown = [example["record"] for error in found["errors"] for example in error["examples"]]
    assert {each["cited"] for each in shown} == {"towns#1", "城镇#0", None}
    english, chinese = pages("r", "checkpoint/reader@1", {"test": found}, {}).values()
    for page in (english, chinese):
        for text in ("recall_at_3", "index/library@1", "towns#1", "城镇#0", "✓ towns#1"):
            assert text in page
        assert "<dt>home</dt>" not in page
    assert "<dt>cited</dt>" in english
    assert "the best 3 passages of index/library@1" in english
    assert "<dt>引自段落</dt>" in chinese
    assert "最佳的 3 个段落" in chinese


def test_a_model_that_refuses_reads_one_passage_less(asked: Asked, tmp_path: Path) -> None:
    asked.family, asked.passages = "gpt2", 3
    question = {"question": "Kora: bridges? 马洛镇有几座桥？"}  # finds passages of both
    rows = [{**each, **question, "id": str(at)} for at, each in enumerate(records() * 4)]
    Path(str(asked.data.test)).write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in rows))  # type: ignore[union-attr]
    found = lines(Refusing, asked, tmp_path)
    for line in found.values():
        assert len(line["record"]["passages"]) == 3
        assert len(line["record"]["context"]) <= Refusing.room
        read = [each["id"] for each in line["record"]["passages"] if each["read"]]
        assert 0 < len(read) < 3
        assert line["record"]["cited"] in read
        assert not line["refused"]

    class Deaf(Refusing):
        room = 5

    with pytest.raises(RequestError, match="all of 4 cases are refused; the first: too long"):
        lines(Deaf, asked, tmp_path, "deaf")


def test_a_disturbed_question_finds_undisturbed_texts(asked: Asked, tmp_path: Path) -> None:
    disturb = Disturbance.model_validate({"typos": 0.9})
    found = lines(Reading, asked, tmp_path, disturb=disturb)
    plain = lines(Reading, asked, tmp_path, "plain")
    assert any(found[name]["record"]["question"] != plain[name]["record"]["question"] for name in TOWNS)
    for name in TOWNS:
        assert found[name]["record"]["home"] == plain[name]["record"]["home"]
        right = [[each["id"] for each in one[name]["record"]["passages"] if each["right"]] for one in (found, plain)]
        assert set(right[0]) <= set(right[1])


def test_a_question_in_plain_text_tells_how_long_it_is() -> None:
    tokenizer = Tokenizer.train([town[0] for town in TOWNS.values()] * 3, BpeTokenizer(vocab_size=400, split_han=True))
    task, record = task_of(QuestionAnswering(max_answer_tokens=8), "gpt2"), {**records()[0], "language": "en"}
    length = len(FewShot(task, [], 1000).prompt(record, tokenizer))
    assert FewShot(task, [], length + 8).excess(record, tokenizer) == (0, length)
    assert FewShot(task, [], length + 5).excess(record, tokenizer) == (3, length - 3)
