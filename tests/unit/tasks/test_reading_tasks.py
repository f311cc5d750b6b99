"""Question answering and summaries: templates, targets, scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from llmyard.sources.smallworld import SmallWorld
from llmyard.tasks.config import KnowledgeGraph, QuestionAnswering, Summarization
from llmyard.tasks.knowledge_graph import TaggedGraph, entities_of
from llmyard.tasks.question_answering import ExtractedAnswers
from llmyard.tasks.summarization import WrittenSummaries
from llmyard.tasks.tagging import with_read
from llmyard.tasks.task import BadExample
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

WORLD = SmallWorld("dev", seed=7)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [WORLD.document(index).text for index in range(200)]
    return Tokenizer.train(texts, BpeTokenizer(vocab_size=1000, split_han=True))


def test_tagged_answers_decode_to_the_right_answers(tokenizer: Tokenizer) -> None:
    task = ExtractedAnswers(QuestionAnswering())
    records = [task.check(WORLD.example(task.name, "train", index)) for index in range(200)]
    labels = task.labels(records)
    assert {record["language"] for record in records} == {"en", "zh"}
    predictions = []
    for record, made in zip(records, task.encode(records, tokenizer, labels), strict=True):
        assert made is not None
        (example,), (marked,) = made, task.inputs(record, tokenizer)
        (encoded,) = tokenizer.encode_with_spans([marked.text])
        assert example.ids == encoded.ids
        found = entities_of(marked.text, encoded, example.labels or [], labels["entity_types"])
        predictions.append(
            task.prediction(
                record, [{"entities": [{"text": one.text, "type": one.type, "score": 1.0} for one, _ in found]}]
            )
        )
    assert task.measures(predictions, records)["exact_match"].value == 1.0


@pytest.mark.parametrize(
    ("context", "facts", "question", "answer"),
    [
        (
            "Ann took the cup. Bob slept. Ann went home.",
            ("Ann took the cup.", "Ann went home."),
            "Where is the cup?",
            "home",
        ),
        ("安拿起杯子。鲍勃睡了。安回了家。", ("安拿起杯子。", "安回了家。"), "杯子在哪里？", "家"),
    ],
)
def test_evidence_is_tagged_around_the_answer_and_is_no_answer(
    context: str, facts: tuple[str, ...], question: str, answer: str
) -> None:
    read = Tokenizer.train([context, question] * 4, BpeTokenizer(vocab_size=400, split_han=True))
    task = ExtractedAnswers(QuestionAnswering())
    record = task.check({
        "context": context, "question": question, "answers": [{"text": answer, "start": context.rindex(answer)}],
        "evidence": [{"text": fact, "start": context.index(fact)} for fact in facts],
    })  # fmt: skip
    labels = task.labels([record])
    assert labels["entity_types"] == ["answer", "evidence"]
    (made,) = task.encode([record], read, labels)
    assert made is not None
    (example,), (marked,) = made, task.inputs(record, read)
    (encoded,) = read.encode_with_spans([marked.text])
    found = [one for one, _ in entities_of(marked.text, encoded, example.labels or [], labels["entity_types"])]
    assert [one.text for one in found if one.type == "answer"] == [answer]
    assert (
        "".join(one.text for one in found if one.type == "evidence")
        .replace(" ", "")
        .startswith(facts[0].replace(" ", ""))
    )
    entities = [{"text": one.text, "type": one.type, "score": 1.0 if one.type == "answer" else 9.0} for one in found]
    assert task.prediction(record, [{"entities": entities}]) == answer
    plain = {**record, "evidence": []}
    assert task.labels([plain])["entity_types"] == ["answer"]
    with pytest.raises(BadExample, match="evidence"):
        task.check({**record, "evidence": [{"text": facts[0], "start": 1}]})


def test_an_answer_elsewhere_than_it_says_is_a_bad_record() -> None:
    task = ExtractedAnswers(QuestionAnswering())
    with pytest.raises(BadExample, match="'河镇'"):
        task.check({"context": "他住在山村。", "question": "他住在哪里？", "answers": [{"text": "河镇", "start": 3}]})


def test_a_summary_is_all_that_is_learned(tokenizer: Tokenizer) -> None:
    task = WrittenSummaries(Summarization())
    records = [task.check(WORLD.example(task.name, "train", index)) for index in range(20)]
    for record, made in zip(records, task.encode(records, tokenizer, {}), strict=True):
        (example,) = made or ()
        assert example.ids[: example.target_start] == task.prompt(record, tokenizer)
        assert tokenizer.decode(example.ids[example.target_start :]) == record["summary"]
        assert example.ids[-1] == tokenizer.end_id


def test_right_summaries_score_one_and_the_lead_scores_less() -> None:
    task = WrittenSummaries(Summarization())
    records = [WORLD.example(task.name, "test", index) for index in range(40)]
    assert task.measures([record["summary"] for record in records], records)["rouge_l"].value == pytest.approx(1.0)
    _, lead = task.baseline([], records)
    assert task.measures(lead, records)["rouge_l"].value < 0.5


def test_entities_that_overlap_are_a_bad_record() -> None:
    entities = [
        {"text": "科拉镇", "type": "place", "start": 2, "end": 5},
        {"text": "镇长", "type": "person", "start": 4, "end": 6},
    ]
    with pytest.raises(BadExample, match="overlap at character 4"):
        TaggedGraph(KnowledgeGraph()).check({"text": "他是科拉镇长", "entities": entities, "triples": []})


def test_windows_hold_whole_answers_or_teach_that_there_is_none(tokenizer: Tokenizer) -> None:
    context = " ".join(f"Word {at} is here." for at in range(60))
    for at in (0, 17, 31, 59):
        text = f"Word {at} is"
        answer = {"text": text, "start": context.index(text + " here")}
        question = "Which\nword \u3000 is it? "
        record = {"question": question, "context": context, "answers": [answer], "language": "en"}
        task = ExtractedAnswers(QuestionAnswering(max_tokens=64, overlap_tokens=24))
        (made,) = task.encode([task.check(record)], tokenizer, {})
        assert made is not None
        assert len(made) > 1
        found = []
        for example, marked in zip(made, task.inputs(record, tokenizer), strict=False):
            assert len(example.ids) <= 64
            tagged = [id_ for id_, tag in zip(example.ids, example.labels or [], strict=True) if tag]
            found += [tokenizer.decode(tagged).strip()] if tagged else []
            assert marked.text.count("\n") == 1
        assert set(found) == {text}  # never a piece of it


def test_a_prompt_without_room_for_its_first_part_is_left_out(tokenizer: Tokenizer) -> None:
    task = WrittenSummaries(Summarization(max_source_tokens=20, cut_sources=True))
    record = {"language": "en", "text": "Short.", "summary": "Yes.", "query": "word " * 40}
    assert task.encode([record], tokenizer, {}) == [None]


def test_evidence_that_a_window_cuts_is_evidence_as_far_as_it_is_read(tokenizer: Tokenizer) -> None:
    fact = "Word " * 100 + "ends here."
    context = f"Ann went home. {fact}"
    task = ExtractedAnswers(QuestionAnswering(max_tokens=64, overlap_tokens=24))
    record = task.check({
        "context": context, "question": "Where?", "answers": [{"text": "home", "start": 9}],
        "evidence": [{"text": fact, "start": context.index(fact)}], "language": "en",
    })  # fmt: skip
    (made,) = task.encode([record], tokenizer, task.labels([record]))
    assert made is not None
    assert len(made) > 2
    assert all(any(tag >= 3 for tag in example.labels or ()) for example in made)


@pytest.mark.parametrize(
    ("context", "facts", "question", "answer"),
    [
        (
            "Ann took the cup. Bob slept. Ann went home.",
            ("Ann took the cup.", "Ann went home."),
            "Where is the cup?",
            "home",
        ),
        ("安拿起杯子。鲍勃睡了。安回了家。", ("安拿起杯子。", "安回了家。"), "杯子在哪里？", "家"),
    ],
)
def test_each_reading_looks_for_one_fact_and_goes_on_with_it(
    context: str, facts: tuple[str, ...], question: str, answer: str
) -> None:
    read = Tokenizer.train([context, question] * 4, BpeTokenizer(vocab_size=400, split_han=True))
    task = ExtractedAnswers(QuestionAnswering(hops=2))
    record = task.check({
        "context": context, "question": question, "answers": [{"text": answer, "start": context.rindex(answer)}],
        "evidence": [{"text": fact, "start": context.index(fact)} for fact in facts],
    })  # fmt: skip
    labels = task.labels([record])
    (made,) = task.encode([record], read, labels)
    assert made is not None
    asked: list[Any] = []
    learned: list[set[str]] = []
    following: Any = record
    while following is not None:
        asked.append(following)
        (marked,) = task.inputs(following, read)
        (encoded,) = read.encode_with_spans([marked.text])
        example = made[len(learned)]
        assert example.ids == encoded.ids  # what is asked next is what was learned
        found = [one for one, _ in entities_of(marked.text, encoded, example.labels or [], labels["entity_types"])]
        learned.append({one.type for one in found})
        sure = [{**asdict(one), "score": 1.0} for one in found]
        following = task.then(following, [{"entities": sure, "triples": []}])
    assert len(made) == len(learned) == 2
    assert learned[0] == {"evidence"}
    assert "answer" in learned[1]
    assert asked[1]["read"][0]["text"] == facts[0]
    said = with_read(asked[1], [{"entities": sure, "triples": []}])
    assert task.prediction(record, said) == answer
    assert said[0]["entities"][0]["text"] == facts[0]  # what it follows from is told
    assert task.then({**record, "read": [{"text": "x"}]}, [{"entities": sure[:1], "triples": []}]) is None
    assert task.then(record, [{"entities": [], "triples": []}]) is None
    (alone,) = task.encode([{**record, "evidence": []}], read, labels)
    assert len(alone or ()) == 1
    (once,) = ExtractedAnswers(QuestionAnswering()).encode([record], read, labels)
    assert len(once or ()) == 1
