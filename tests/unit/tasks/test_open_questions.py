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
from llmyard.tasks.open_questions import (
    CITED,
    FOUND,
    HOME,
    OpenQuestion,
    _holds,
    asked_anew,
    best_part,
    checked_open,
    measures,
    without_passages,
)
from llmyard.tasks.passages import Passage, Passages, build_passages, passages_of
from llmyard.tasks.task import BadExample
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
        question = OpenQuestion(record, found)
        asked = question.answered(record["answers"][0]["text"], len(found))
        (right,) = [each["id"] for each in asked[FOUND] if each["right"]]
        assert right.startswith(document)
        assert asked[CITED] == right
        for prediction in ("a zebra", " ", ""):
            assert question.answered(prediction, len(found))[CITED] is None
        assert "start" not in asked["answers"][0]  # it stands elsewhere now


def test_a_question_without_a_known_word_finds_nothing(passages: Passages) -> None:
    assert passages.search(["zzz qqq"], 3) == [[]]
    assert passages.search([], 3) == []
    question = OpenQuestion(BRIDGES, [])
    assert [each["context"] for each in (question.read(0), *question.apart())] == ["", ""]
    assert question.fitting(lambda record: False) == 0
    asked = question.answered("nine", 0, best_part([[]]))
    assert asked[CITED] is None
    assert values_of(measures([asked], 5)) == {"recall_at_5": 0.0, "nothing_found": 1.0}


def test_an_index_without_passages_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hold no words"):
        build_passages([], tmp_path)


def rights(record: dict[str, Any], *found: Passage) -> list[bool]:
    return [each["right"] for each in OpenQuestion(record, found).answered("", len(found))[FOUND]]


def test_a_passage_of_another_text_is_not_right_though_it_holds_the_answer() -> None:
    wide = Passage("towns", 1, "ＩＴ has nine bridges.")  # a prepared corpus has one width
    longer = Passage("book", 0, f"A book begins. {BRIDGES['context']} It goes on.")
    assert rights(BRIDGES, OTHER, RIGHT, wide, longer) == [False, True, True, True]
    assert rights(LAMP, Passage("灯", 0, "多年没有人点它了。"), Passage("灯", 1, "桌上有一盏 绿色的灯。")) == [
        False,
        True,
    ]
    assert rights({**BRIDGES, "context": ""}, OTHER) == [True]


@given(st.lists(st.text("ab马", min_size=1, max_size=9), max_size=12), st.integers(0, 60))
def test_as_many_of_the_best_passages_are_read_as_fit(texts: list[str], room: int) -> None:
    found = [Passage("d", place, text) for place, text in enumerate(texts)]
    question = OpenQuestion(BRIDGES, found)
    count = question.fitting(lambda record: len(record["context"]) <= room)
    assert question.read(count)["context"] == "\n".join(texts[:count])
    assert count == len(texts) or len(question.read(count + 1)["context"]) > room
    assert len(question.read(count)["context"]) <= room or count == 1  # the best one is cut where it is full


def test_what_was_not_read_is_not_cited() -> None:
    question = OpenQuestion(BRIDGES, [OTHER, RIGHT, Passage("x", 0, "The bridges.")])
    assert question.answered("It has nine", 1)[CITED] is None
    assert question.answered("It has nine", 2)[CITED] == "towns#1"
    assert [each["read"] for each in question.answered("nine", 2)[FOUND]] == [True, True, False]


def spans(*scores: float) -> list[dict[str, Any]]:
    return [{"entities": [{"text": "nine", "type": "answer", "score": score}], "triples": []} for score in scores]


def test_a_span_is_cited_where_it_stands_and_not_where_its_words_stand_too() -> None:
    question = OpenQuestion(BRIDGES, [OTHER, RIGHT])
    assert [each["context"] for each in question.apart()] == [OTHER.text, RIGHT.text]
    place = best_part([spans(1.0, 0.5), spans(-2.0, 3.0)])
    assert place == 1
    assert question.answered("nine", 2, place)[CITED] == "towns#1"
    assert question.answered("", 2, place)[CITED] is None
    assert best_part([spans(1.0), spans(1.0), []]) == 0  # as the first of equal spans is the answer
    evidence = [{"entities": [{"text": "It has nine.", "type": "evidence", "score": 0.0}], "triples": []}]
    assert best_part([evidence, spans(-1.0)]) == 1  # evidence is no answer, however little sure that is


def test_questions_about_one_text_are_known_by_it() -> None:
    other = {**BRIDGES, "question": "Where does Malo live?"}
    homes = [OpenQuestion(each, [RIGHT]).answered("", 1)[HOME] for each in (BRIDGES, other, LAMP)]
    assert homes[0] == homes[1] != homes[2]
    assert OpenQuestion({**BRIDGES, "context": ""}, [RIGHT]).answered("", 1)[HOME] == ""


def test_a_question_that_comes_without_a_text_is_taken() -> None:
    check = task_of(QuestionAnswering(), "bert").check
    bare = {"question": "桌上有什么灯？", "answers": [{"text": "绿色的灯", "start": 5}]}
    taken = checked_open(bare, check)
    assert (taken["context"], taken["language"], taken["answers"]) == ("", "zh", [{"text": "绿色的灯"}])
    assert checked_open(LAMP, check) == check(LAMP)
    for broken in ({**bare, "question": ""}, {**bare, "answers": [{"start": 5}]}, {**LAMP, "context": "灯"}):
        with pytest.raises(BadExample):
            checked_open(broken, check)


def test_the_text_is_not_disturbed_with_the_question() -> None:
    disturbed = {**BRIDGES, "id": "~0", "question": "How many brigdes?", "context": "Mlao", "answers": []}
    asked = asked_anew(BRIDGES, disturbed)
    assert asked == {**BRIDGES, "id": "~0", "question": "How many brigdes?"}


def test_recall_and_citations_are_measured() -> None:
    records = [
        OpenQuestion(BRIDGES, [RIGHT, OTHER]).answered("nine", 2),  # found, and named
        OpenQuestion(BRIDGES, [OTHER, RIGHT]).answered("nine", 2),  # found, another one named
        OpenQuestion(BRIDGES, [OTHER]).answered("ten", 1),  # not found, none named
        OpenQuestion({**BRIDGES, "answers": []}, [RIGHT]).answered("nine", 1),  # asks for nothing: counts for nothing
    ]
    wanted = {"recall_at_5": pytest.approx(2 / 3), "nothing_found": 0.0, "cited_right": 0.5}
    assert values_of(measures(records, 5)) == wanted
    assert values_of(measures([without_passages(each) for each in records], 5)) == wanted
    assert measures(records[3:], 5) == {}


@pytest.mark.parametrize("family", ["bert", "gpt2", "transformer"])
def test_every_form_of_model_reads_what_was_found(family: str) -> None:
    tokenizer = Tokenizer.train([*DOCUMENTS.values()] * 3, BpeTokenizer(vocab_size=400, split_han=True))
    task = task_of(QuestionAnswering(max_tokens=200), family)
    record = task.check({**LAMP, "id": "q", "language": "zh"})
    question = OpenQuestion(record, [Passage("灯", 0, DOCUMENTS["灯"]), Passage("城镇", 0, DOCUMENTS["城镇"])])
    asked = question.read(2)

    def read(record: dict[str, Any]) -> str:
        if family == "bert":
            return "".join(each.text for each in task.inputs(record, tokenizer))
        return tokenizer.decode(task.prompt(record, tokenizer))

    assert DOCUMENTS["灯"] in read(asked)
    assert "马洛住在科拉镇" in read(asked)
    assert "绿色" not in read(question.read(0))
    assert "绿色" not in read(question.apart()[1])
    assert values_of(task.measures(["绿色的灯"], [asked]))["f1"] == 1.0


@pytest.mark.parametrize("family", ["gpt2", "transformer"])
def test_a_model_that_writes_reads_the_passages_that_fit_whole(family: str) -> None:
    tokenizer = Tokenizer.train([*DOCUMENTS.values()] * 3, BpeTokenizer(vocab_size=400, split_han=True))
    record = task_of(QuestionAnswering(), family).check({**LAMP, "id": "q", "language": "zh"})
    question = OpenQuestion(record, [Passage(name, 0, text) for name, text in DOCUMENTS.items()])
    whole = tokenizer.encode(f"{record['question']}{question.read(3)['context']}")
    task: Any = task_of(QuestionAnswering(max_tokens=len(whole) + 2), family)  # and two separators
    count = question.fitting(lambda record: task.excess(record, tokenizer)[0] <= 0)
    prompt = tokenizer.decode(task.prompt(question.read(count), tokenizer))
    assert count in (2, 3)  # of two parts a token more can be made than of one
    assert [text in prompt for text in DOCUMENTS.values()] == [True, True, count == 3, False]


@pytest.mark.parametrize(
    ("text", "answer", "stands"),
    [("在1997年", "7", False), ("在7年", "7", True), ("The catalogue", "cat", False), ("A Cat sat.", "cat", True),
     ("绿色的灯", "色的", True), ("new  York", "New York", True), ("x", " ", False)],
)  # fmt: skip
def test_an_answer_stands_in_a_text_as_whole_words_and_numbers(text: str, answer: str, stands: bool) -> None:
    assert _holds(text, answer) is stands
