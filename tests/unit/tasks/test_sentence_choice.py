"""Sentences that stand for a text: what is read of them, which are learned, which are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.summaries import rouge
from llmyard.tasks.config import Summarization
from llmyard.tasks.labelling import parts_of
from llmyard.tasks.sentence_choice import (
    ASKED,
    COMMON,
    WORDS,
    best_sentences,
    in_order,
    marked_sentences,
    passed_over,
    sentences,
    summary_sentences,
)
from llmyard.tasks.summarization import CHOSEN, OTHER, summarization
from llmyard.tasks.task import Marked
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

ENGLISH = "The grant was signed. Marl likes tea. The river rose by two metres. Nobody was hurt. The river fell again."
CHINESE = "拨款已经签署。马洛喜欢喝茶。河水上涨了两米。没有人受伤。河水又落下了。"
TEXTS = {"en": (ENGLISH, "What did the river do?"), "zh": (CHINESE, "河水怎么了？")}


def joined(text: str, scores: list[float], count: int, language: str) -> str:
    return in_order(text, best_sentences(text, scores, count, language), language)


@pytest.mark.parametrize("language", TEXTS)
def test_each_sentence_is_read_behind_the_query_with_its_own_words_marked(language: str) -> None:
    text, query = TEXTS[language]
    found = marked_sentences(text, query, language)
    assert len(found) == 5
    for marked, (low, high) in zip(found, sentences(text), strict=True):
        assert marked.text.startswith(f"{query}\n")
        begin, end = marked.spans[0]
        assert marked.text[begin:end] == text[low:high]
        assert marked.numbers[0] == WORDS
        shared = {
            marked.text[a:b].lower() for (a, b), kind in zip(marked.spans, marked.numbers, strict=True) if kind == ASKED
        }
        assert shared <= {"the", "river"} | {"河水"}
        assert ("river" in shared or "河水" in shared) == ("river" in text[low:high] or "河水" in text[low:high])


def test_words_that_stand_all_over_a_text_are_a_part_of_their_own() -> None:
    found = marked_sentences("the dam broke. the dam held. a boat sank.", "", "en")
    kinds = [
        {one.text[a:b]: kind for (a, b), kind in zip(one.spans[1:], one.numbers[1:], strict=True)} for one in found
    ]
    assert kinds == [{"the": COMMON, "dam": COMMON}, {"the": COMMON, "dam": COMMON}, {}]


def test_several_spans_may_be_of_one_part() -> None:
    tokenizer = Tokenizer.train([ENGLISH, CHINESE] * 4, BpeTokenizer(vocab_size=400, split_han=True))
    (encoded,) = tokenizer.encode_with_spans(["河水 a 河水"])
    parts = parts_of(Marked("河水 a 河水", ((0, 7), (0, 2), (5, 7)), (1, 2, 2)), encoded)
    for part, (low, high) in zip(parts, encoded.spans, strict=True):
        assert part == (2 if set("河水 a 河水"[low:high]) & set("河水") else 1)
    assert set(parts) == {1, 2}


@pytest.mark.parametrize(
    ("language", "summary", "places"),
    [
        ("en", "The river rose by two metres, the river fell again.", [2, 4]),
        ("zh", "河水上涨了两米又落下了。", [2, 4]),
        ("en", "Quite another.", []),
    ],
)
def test_the_sentences_to_learn_are_those_most_like_the_summary(language: str, summary: str, places: list[int]) -> None:
    assert summary_sentences(TEXTS[language][0], summary, language, 2) == places


@given(
    st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5), min_size=1, max_size=6),
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6),
    st.integers(1, 3),
)
def test_more_sentences_are_never_worse_than_the_best_one(said: list[list[str]], wanted: list[str], most: int) -> None:
    text, summary = " ".join(f"{' '.join(words)}." for words in said), " ".join(wanted)
    spans = sentences(text)

    def likeness(places: list[int]) -> float:
        found = rouge([" ".join(text[slice(*spans[at])] for at in places)], [summary], "en")
        return found.rouge1 + found.rouge2

    taken = summary_sentences(text, summary, "en", most)
    assert len(taken) <= most
    assert taken == sorted(set(taken))
    best = max(likeness([at]) for at in range(len(spans)))
    assert (likeness(taken) if taken else 0.0) >= best - 1e-9


@given(st.integers(1, 8), st.sampled_from(["", "What did the river do?"]))
def test_sentences_passed_over_are_others_and_the_same_ones_each_time(count: int, query: str) -> None:
    found = passed_over(ENGLISH, query, "en", [2], count)
    assert 2 not in found
    assert len(found) == len(set(found)) == min(count, 4)
    assert found == passed_over(ENGLISH, query, "en", [2], count)
    if query and count > 1:
        assert 4 in found  # it shares the river with the query


def test_the_best_sentences_stand_in_the_order_of_the_text_and_none_twice() -> None:
    assert joined(ENGLISH, [0.1, 0.2, 0.8, 0.1, 0.9], 2, "en") == "The river rose by two metres. The river fell again."
    assert joined(CHINESE, [0.1, 0.2, 0.8, 0.1, 0.9], 2, "zh") == "河水上涨了两米。河水又落下了。"
    assert (
        joined("It rained all day. It rained all day! Then not.", [0.9, 0.8, 0.1], 2, "en")
        == "It rained all day. Then not."
    )
    assert joined("", [], 2, "en") == ""


@pytest.mark.parametrize("language", TEXTS)
def test_what_is_learned_is_what_is_asked(language: str) -> None:
    text, query = TEXTS[language]
    tokenizer = Tokenizer.train([text, query] * 4, BpeTokenizer(vocab_size=400, split_han=True))
    task = summarization(Summarization(sentences=2, max_source_tokens=32), "encoder")
    summary = "The river rose by two metres, the river fell again." if language == "en" else "河水上涨了两米又落下了。"
    record = task.check({"text": text, "query": query, "summary": summary, "language": language})
    labels = task.labels([record])
    (examples,) = task.encode([record], tokenizer, labels)
    assert examples is not None
    inputs = task.inputs(record, tokenizer)
    for example, marked in zip(examples, inputs, strict=True):  # twelve would be passed over: all are learned here
        (encoded,) = tokenizer.encode_with_spans([marked.text])
        assert example.ids == encoded.ids
        assert example.labels == parts_of(marked, encoded)
        assert len(example.ids) <= 32
    learned = [labels["classes"][example.pairs[0]] for example in examples]
    assert learned == [OTHER, OTHER, CHOSEN, OTHER, CHOSEN]
    answer = [{"label": name, "shares": {CHOSEN: float(name == CHOSEN), OTHER: 0.0}} for name in learned]
    assert task.prediction(record, answer) == joined(text, [0, 0, 1, 0, 1], 2, language)
    (none,) = task.encode([{**record, "summary": "zzz"}], tokenizer, labels)
    assert none is None


def test_a_refused_text_has_no_summary_and_scores_of_other_sentences_are_refused() -> None:
    task = summarization(Summarization(sentences=2), "encoder")
    record = {"text": ENGLISH, "summary": "It rose.", "language": "en"}
    assert task.prediction(record, [{"label": "", "shares": {}}]) == ""
    scored = [{"label": CHOSEN, "shares": {CHOSEN: 0.9, OTHER: 0.1}}] * 9
    with pytest.raises(DataError, match="9 scores are given for 5 sentences"):
        task.prediction(record, scored)


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("limit", [24, 28, 36, 48])
def test_a_sentence_has_its_room_before_what_stands_around_it(language: str, limit: int) -> None:
    text, query = TEXTS[language]
    text = text * 6
    tokenizer = Tokenizer.train([text, query] * 4, BpeTokenizer(vocab_size=300, split_han=True))
    task = summarization(Summarization(max_source_tokens=limit), "encoder")
    record = {"text": text, "query": query, "summary": text[:40], "language": language}
    if task.excess(record, tokenizer)[0] > 0:
        pytest.skip("the query alone is too long")
    for marked, (low, high) in zip(task.inputs(record, tokenizer), sentences(text), strict=True):
        (encoded,) = tokenizer.encode_with_spans([marked.text])
        assert len(encoded.ids) <= limit
        assert marked.text.startswith(f"{query}\n")
        own = text[low:high]
        begin, end = marked.spans[0]
        assert marked.text[begin:end] == own[: end - begin]
        assert end - begin == len(own) or end == len(marked.text)  # of one too long its beginning, and nothing else
        assert any(parts_of(marked, encoded))
        assert max(end for _, end in marked.spans) <= len(marked.text)


def test_a_query_that_leaves_no_room_is_not_learned_from_and_told_of() -> None:
    tokenizer = Tokenizer.train([ENGLISH] * 4, BpeTokenizer(vocab_size=300))
    task = summarization(Summarization(max_source_tokens=24), "encoder")
    record = {"text": ENGLISH, "query": ENGLISH * 3, "summary": "The river rose.", "language": "en"}
    excess, most = task.excess(record, tokenizer)
    assert excess > 0
    assert most == 12
    assert task.encode([record], tokenizer, task.labels([record])) == [None]
    for marked, (low, _) in zip(task.inputs(record, tokenizer), sentences(ENGLISH), strict=True):
        assert ENGLISH[low : low + 3] in marked.text  # evaluation reads the sentence all the same


def test_chinese_words_of_the_query_stand_above_common_ones_and_latin_ones_are_whole() -> None:
    text = "他用ChatGPT写信。他用ChatGPT写诗。他用ChatGPT读书。"
    found = marked_sentences(text, "ChatGPT写信", "zh")
    marks = [
        {one.text[a:b]: kind for (a, b), kind in zip(one.spans[1:], one.numbers[1:], strict=True)} for one in found
    ]
    assert marks[0] == {"他用": COMMON, "ChatGPT": ASKED, "写信": ASKED}
    assert marks[2] == {"他用": COMMON, "ChatGPT": ASKED}
    assert found[0].numbers == (WORDS, COMMON, ASKED, ASKED)
