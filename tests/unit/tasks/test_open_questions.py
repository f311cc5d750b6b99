"""Questions without a text: passages that are cut, found and cited, in both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.measure import values_of
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import QuestionAnswering
from llmyard.tasks.open_questions import CITED, FOUND, cited, closed, measures, opened
from llmyard.tasks.passages import Passage, Passages, build_passages, passages_of
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

DOCUMENTS = {
    "towns": "Malo lives in Kora Town. The town lies by a river. It has nine bridges.",
    "lamps": "A green lamp stands on the table. Nobody has lit it for years.",
    "城镇": "马洛住在科拉镇。镇子在河边。镇上有九座桥。",
    "灯": "桌上有一盏绿色的灯。多年没有人点它了。",
}
BRIDGES: dict[str, Any] = {
    "context": DOCUMENTS["towns"], "question": "How many bridges has the town?",
    "answers": [{"text": "nine", "start": 58}],
}  # fmt: skip
LAMP: dict[str, Any] = {
    "context": DOCUMENTS["灯"], "question": "桌上有什么灯？", "answers": [{"text": "绿色的灯", "start": 5}]
}  # fmt: skip
RIGHT, OTHER = Passage("towns", 1, "It has nine  bridges."), Passage("cats", 0, "A cat has nine lives.")


@given(st.text("ab 好。.!\n", max_size=80), st.integers(1, 30))
def test_passages_hold_all_of_a_document_in_order(text: str, characters: int) -> None:
    made = list(passages_of("d", text, characters))
    assert [each.place for each in made] == list(range(len(made)))
    assert all(0 < len(each.text) <= characters for each in made)
    assert "".join("".join(each.text for each in made).split()) == "".join(text.split())


def test_passages_end_with_sentences() -> None:
    made = [each.text for each in passages_of("d", DOCUMENTS["towns"], 52)]
    assert made == ["Malo lives in Kora Town. The town lies by a river.", "It has nine bridges."]
    assert [each.text for each in passages_of("d", DOCUMENTS["城镇"], 14)] == [
        "马洛住在科拉镇。镇子在河边。",
        "镇上有九座桥。",
    ]


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Passages:
    folder = tmp_path_factory.mktemp("index")
    made = [each for name, text in DOCUMENTS.items() for each in passages_of(name, text, 60)]
    assert build_passages(made, folder) == len(made)
    return Passages(folder)


def test_the_right_passage_is_found_and_cited(passages: Passages) -> None:
    for record, document in ((BRIDGES, "towns"), (LAMP, "灯")):
        found = passages.search([record["question"]], 5)[0]
        assert document in [each.document for each in found]
        asked = opened(record, found)
        (right,) = [each["id"] for each in asked[FOUND] if each["right"]]
        assert right.startswith(document)
        assert cited(asked, record["answers"][0]["text"])[CITED] == right
        assert cited(asked, "a zebra")[CITED] is None
        assert cited(asked, " ")[CITED] is None
        assert "start" not in asked["answers"][0]  # it stands elsewhere now


def test_a_question_without_a_known_word_finds_nothing(passages: Passages) -> None:
    assert passages.search(["zzz qqq"], 3) == [[]]
    assert passages.search([], 3) == []
    asked = opened(BRIDGES, [])
    assert asked["context"] == ""
    assert cited(asked, "nine")[CITED] is None


def test_an_index_without_passages_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hold no words"):
        build_passages([], tmp_path)


def test_a_passage_of_another_text_is_not_right_though_it_holds_the_answer() -> None:
    wide = Passage("towns", 1, "ＩＴ has nine bridges.")  # a prepared corpus has one width
    assert [each["right"] for each in opened(BRIDGES, [OTHER, RIGHT, wide])[FOUND]] == [False, True, True]
    assert [each["right"] for each in opened({**BRIDGES, "context": ""}, [OTHER])[FOUND]] == [True]


def test_recall_and_citations_are_measured() -> None:
    records = [
        cited(opened(BRIDGES, [RIGHT, OTHER]), "nine"),  # found, and named
        cited(opened(BRIDGES, [OTHER, RIGHT]), "nine"),  # found, another one named
        cited(opened(BRIDGES, [OTHER]), "ten"),  # not found, none named
        cited(opened({**BRIDGES, "answers": []}, [RIGHT]), "nine"),  # asks for nothing: counts for nothing
    ]
    assert values_of(measures(records, 5)) == {"recall_at_5": pytest.approx(2 / 3), "cited_right": 0.5}
    assert measures(records[3:], 5) == {}


@pytest.mark.parametrize("family", ["bert", "gpt2", "transformer"])
def test_every_form_of_model_reads_what_was_found(family: str) -> None:
    tokenizer = Tokenizer.train([*DOCUMENTS.values()] * 3, BpeTokenizer(vocab_size=400, split_han=True))
    task = task_of(QuestionAnswering(max_tokens=200), family)
    record = task.check({**LAMP, "id": "q", "language": "zh"})
    asked = opened(record, [Passage("灯", 0, DOCUMENTS["灯"]), Passage("城镇", 0, DOCUMENTS["城镇"])])

    def read(record: dict[str, Any]) -> str:
        if family == "bert":
            return "".join(each.text for each in task.inputs(record, tokenizer))
        return tokenizer.decode(task.prompt(record, tokenizer))

    assert DOCUMENTS["灯"] in read(asked)
    assert "马洛住在科拉镇" in read(asked)
    assert "绿色" not in read(closed(record))
    assert values_of(task.measures(["绿色的灯"], [asked]))["f1"] == 1.0
