"""Questions to models that were not tuned: solved examples in plain text, labels to choose from."""

from __future__ import annotations

from typing import Any

import pytest

from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Classification, QuestionAnswering, Translation
from llmyard.tasks.few_shot import FewShot
from llmyard.tasks.task import Choice
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

FILMS: list[dict[str, Any]] = [
    {"id": "1", "text": "很好看", "label": "好"}, {"id": "2", "text": "太差了", "label": "坏"},
    {"id": "3", "text": "还不错", "label": "好"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["文本: 很好看 太差了 还不错 好 坏 答案:", "Text: Question: Answer: Where is Ann? Ann is here."]
    return Tokenizer.train(texts * 5, BpeTokenizer(vocab_size=400, split_han=True))


def test_solved_examples_stand_before_the_question(tokenizer: Tokenizer) -> None:
    few = FewShot(task_of(Classification(), "gpt2"), FILMS[:2], room=200)
    few.learn_options(FILMS)
    said = tokenizer.decode(few.prompt(FILMS[2], tokenizer))
    assert said == "文本: 很好看\n答案: 好\n\n文本: 太差了\n答案: 坏\n\n文本: 还不错\n答案:"
    assert few.choices(FILMS[2]) == [" 坏", " 好"] or few.choices(FILMS[2]) == [" 好", " 坏"]
    assert few.prediction(FILMS[2], " 好") == Choice("好")
    name, guesses = few.baseline(FILMS, FILMS * 40)
    assert name == "chance"
    assert {guess.label for guess in guesses} == {"好", "坏"}


def test_for_a_model_behind_a_url_the_labels_are_listed(tokenizer: Tokenizer) -> None:
    few = FewShot(task_of(Classification(), "gpt2"), FILMS[:1], room=0)
    few.learn_options(FILMS)
    head, _, rest = few.text(FILMS[2]).partition("\n\n")
    assert head.startswith("请从下列选项中选一个回答：")
    assert set(head.partition("：")[2].split(", ")) == {"好", "坏"}
    assert rest == "文本: 很好看\n答案: 好\n\n文本: 还不错\n答案:"


@pytest.mark.parametrize("said", ["Positive", "positive.", "**positive**", "Answer: positive", " positive\nmore"])
def test_a_label_is_known_in_what_is_said_around_it(said: str) -> None:
    films = [{"id": label, "text": label, "label": label, "language": "en"} for label in ("positive", "negative")]
    few = FewShot(task_of(Classification(), "gpt2"), [], room=0)
    few.learn_options(films)
    assert few.prediction(films[0], said) == Choice("positive")
    assert few.prediction(films[0], "positive or negative") == Choice("positive or negative")


def test_examples_that_do_not_fit_are_left_out_from_the_first_on(tokenizer: Tokenizer) -> None:
    question = FewShot(task_of(Classification(), "gpt2"), [], room=200).prompt(FILMS[2], tokenizer)
    few = FewShot(task_of(Classification(max_label_tokens=4), "gpt2"), FILMS[:2], room=len(question) + 20)
    said = tokenizer.decode(few.prompt(FILMS[2], tokenizer))
    assert said.startswith("文本: 太差了")
    assert len(few.prompt(FILMS[2], tokenizer)) <= len(question) + 20


def test_free_answers_end_with_their_line(tokenizer: Tokenizer) -> None:
    record = {"context": "Ann is here.", "question": "Where is Ann?", "answers": [{"text": "here"}], "language": "en"}
    few = FewShot(task_of(QuestionAnswering(), "gpt2"), [record], room=300)
    assert few.choices(record) is None
    assert tokenizer.decode(few.prompt(record, tokenizer)).endswith(
        "Text: Ann is here.\nQuestion: Where is Ann?\nAnswer:"
    )
    said = few.prediction(record, " here\nText: more")
    assert said == "here"
    assert few.measures([said], [record])["exact_match"].value == 1.0


def test_translations_are_asked_by_the_name_of_the_language(tokenizer: Tokenizer) -> None:
    record = {"source": "Ann is here.", "target": "安在这里。", "source_language": "en", "target_language": "zh"}
    few = FewShot(task_of(Translation(), "gpt2"), [], room=300)
    assert tokenizer.decode(few.prompt(record, tokenizer)) == "Sentence: Ann is here.\nChinese:"
