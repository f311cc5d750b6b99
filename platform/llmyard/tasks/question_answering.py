"""Question answering over a text: the answer is a span of it, or is written, or there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmyard.core.errors import DataError
from llmyard.metrics.measure import Measure, by_group, mean
from llmyard.tasks.config import QuestionAnswering
from llmyard.tasks.knowledge_graph import OUTSIDE, tokens_of
from llmyard.tasks.labelling import whole_end
from llmyard.tasks.tagging import Tagging
from llmyard.tasks.task import (
    BadExample,
    EncodedExample,
    Entity,
    Form,
    Labels,
    Marked,
    Output,
    Record,
    Task,
    language_of,
    need,
)
from llmyard.tasks.writing import Writing
from llmyard.text.script import language_by_script
from llmyard.tokens.tokenizer import Tokenizer

ANSWER, EVIDENCE = "answer", "evidence"
QUESTION_END = "\n"
_SLACK = 2  # tokens by which a window may grow when it is read behind a question


def question_answering(config: QuestionAnswering, form: Form) -> Task:
    """Returns the task for a form of model."""
    return ExtractedAnswers(config) if form == "encoder" else WrittenAnswers(config)


class _Answers:
    """Records: ``language``, ``context``, ``question``, ``answers`` [{text, start}] (empty: unanswerable); some have
    ``evidence`` [{text, start}], the parts of the context from which the answer follows.

    An answer without a ``start`` stands nowhere in the context: only a model that writes can learn it.
    """

    name = "question_answering"
    revision = 2
    metric = "f1"

    def check(self, record: Record) -> Record:
        """Returns the record, with the question's language where none is named, if its answers stand where they say."""
        context = need(record, "context", str, self.name)
        need(record, "question", str, self.name)
        if "language" not in record:
            record = {**record, "language": language_by_script(record["question"])}
        language_of(record)
        for answer in need(record, "answers", list, self.name):
            need(answer, "text", str, "answer")
            if answer.get("start") is not None:
                _check_place(context, answer, "answer")
        for fact in record.get("evidence") or ():
            need(fact, "text", str, "evidence")
            need(fact, "start", int, "evidence")
            _check_place(context, fact, "evidence")
        return record

    def measures(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns exact match and F1 by the SQuAD rules (English) and the CMRC rules (Chinese), and their means; where
        some questions have no answer, F1 of those that have one and of those that have none, too.
        """
        from llmyard.metrics.answers import answer_scores_each

        def of(language: str, chosen: list[int]) -> dict[str, Measure]:
            accepted = [_accepted(records[at]) for at in chosen]
            each = answer_scores_each([predictions[at] for at in chosen], accepted, language)
            found = {"exact_match": mean([one.exact_match for one in each]), "f1": mean([one.f1 for one in each])}
            none = [not records[at]["answers"] for at in chosen]
            if any(none) and not all(none):
                values = [one.f1 for one in each]
                found["f1_answerable"] = mean(values, [not each for each in none])
                found["f1_unanswerable"] = mean(values, none)
            return found

        return by_group([record["language"] for record in records], of)

    def figures(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
        """There are none but the measures."""
        return {}

    def cases(self, record: Record) -> list[Record]:
        """Returns the record: it is one question."""
        return [record]

    def bucket(self, prediction: str, record: Record) -> str:
        """Returns what is wrong with an answer."""
        from llmyard.metrics.answers import answer_scores

        accepted = _accepted(record)
        score = answer_scores([prediction], [accepted], record["language"])
        if score.exact_match:
            return "right"
        if not prediction:
            return "no answer where there is one"
        if not record["answers"]:
            return "answer where there is none"
        if not score.f1:
            return "elsewhere in the text" if prediction in record["context"] else "not in the text"
        longer = len(prediction) > max(len(each) for each in accepted)
        return "too much around it" if longer else "a part of it"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the better of the commonest training answer, and the words of the asked kind in the sentence that
        shares most with the question.
        """
        from llmyard.sources.smallworld.baselines import majority_answer
        from llmyard.tasks.floors import overlap_answer

        commonest = [majority_answer(train)] * len(test)
        found = [overlap_answer(each["question"], each["context"], each["language"]).text for each in test]
        if self.measures(found, test)["f1"].value > self.measures(commonest, test)["f1"].value:
            return "sentence with most words of the question", found
        return "commonest answer", commonest


def _check_place(context: str, part: Record, what: str) -> None:
    found = context[part["start"] : part["start"] + len(part["text"])]
    if found != part["text"]:
        raise BadExample(f"{what} {part['text']!r} is said to stand where {found!r} stands", "mend its start")


def _asked(record: Record) -> str:
    """Returns the question, with what was found so far behind it, in one line: the first line feed is its end."""
    return " ".join(" ".join([str(record["question"]), *(fact["text"] for fact in record.get("read") or ())]).split())


def _accepted(record: Record) -> list[str]:
    return [answer["text"] for answer in record["answers"]] or [""]


class ExtractedAnswers(_Answers, Tagging):
    """For a model that tags spans.

    It reads ``question`` newline ``context``; the tokens of the first answer are tagged. A longer context is read in
    windows that overlap; a window without the answer teaches that there may be none. Where examples name the evidence,
    it is tagged too: steps from one fact to the next are hardly learned from answers alone.

    With several hops a question is read again with the fact that was found behind it, for the next fact or the answer
    (multi-hop reading as Qi et al. 2019 do it, "Answering Complex Open-domain Questions Through Iterative Query
    Generation"; here the fact itself is the query).
    """

    revision = 6

    def __init__(self, config: QuestionAnswering) -> None:
        self._config = config

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns the types of span there are: the answer, and the evidence where some records name it."""
        knows = any(record.get("evidence") for record in records)
        return {"entity_types": [ANSWER, EVIDENCE] if knows else [ANSWER], "relations": []}

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Returns question and context, in several windows where they are long; of one that is longer when it is read
        by itself the end is left out, as in training.
        """
        texts, most = [text for text, _ in self._windows(record, tokenizer)], self._config.max_tokens
        return [
            Marked(text if len(item.ids) <= most else text[: whole_end(item.spans, most)])
            for text, item in zip(texts, tokenizer.encode_with_spans(texts), strict=True)
        ]

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns ids and BIO tags of each window; None where no answer stands in the text or it cuts a token."""
        tags_evidence = EVIDENCE in labels.get("entity_types", ())
        found: list[list[EncodedExample] | None] = []
        for record in records:
            made = [self._encode(each, tokenizer, tags_evidence) for each in self._readings(record)]
            found.append(None if None in made else [example for each in made for example in each or ()])
        return found

    def _readings(self, record: Record) -> Iterator[Record]:
        """Yields what is learned of a record at each reading: one fact, at the last one the answer and all that is left
        of the evidence.
        """
        evidence = list(record.get("evidence") or ())
        last = min(self._config.hops, max(1, len(evidence))) - 1
        for at in range(last):
            yield {**record, "read": evidence[:at], "evidence": evidence[at : at + 1], "answers": []}
        yield {**record, "read": evidence[:last], "evidence": evidence[last:]}

    def then(self, record: Record, answer: Any) -> Record | None:
        """Returns the question with the fact that was found; None where an answer was, or nothing new, or where this
        was the last reading.
        """
        read = list(record.get("read") or ())
        found = [entity for window in answer for entity in window["entities"]]
        known = {fact["text"] for fact in read}
        facts = [each for each in found if each["type"] == EVIDENCE and each["text"] not in known]
        is_answered = any(each["type"] == ANSWER and each["score"] > 0 for each in found)
        if is_answered or not facts or len(read) + 1 >= self._config.hops:
            return None
        return {**record, "read": [*read, max(facts, key=lambda fact: float(fact["score"]))]}

    def _encode(self, record: Record, tokenizer: Tokenizer, tags_evidence: bool) -> list[EncodedExample] | None:
        border = len(_asked(record)) + len(QUESTION_END)
        answer = next((each for each in record["answers"] if each.get("start") is not None), None)
        if record["answers"] and answer is None:
            return None
        windows = list(self._windows(record, tokenizer))
        examples, is_found = [], answer is None
        for (text, shift), encoded in zip(
            windows, tokenizer.encode_with_spans([text for text, _ in windows]), strict=True
        ):
            tags = [OUTSIDE] * len(encoded.ids)
            for fact in record.get("evidence") or () if tags_evidence else ():
                start = fact["start"] - shift  # of one that the window cuts the rest is evidence too
                begin, end = max(border, start), min(start + len(fact["text"]), len(text))
                if begin < end:
                    _tag(tags, tokens_of(text, encoded, begin, end), 3)
            if answer is not None:
                start = answer["start"] - shift
                tokens = tokens_of(text, encoded, start, start + len(answer["text"]))
                is_whole = border <= start and start + len(answer["text"]) <= len(text)
                if tokens and is_whole:
                    is_found = True
                    _tag(tags, tokens, 1)
                elif start + len(answer["text"]) > border and start < len(text):
                    continue  # a part of the answer stands here, or cuts a token: that there is none would be untrue
            examples.append(
                EncodedExample(encoded.ids[: self._config.max_tokens], labels=tags[: self._config.max_tokens])
            )
        return examples if is_found else None

    def _windows(self, record: Record, tokenizer: Tokenizer) -> Iterator[tuple[str, int]]:
        """Yields each window's text, and what to take from a place in the context to get the one in the text."""
        question, context = _asked(record), record["context"]
        (encoded,) = tokenizer.encode_with_spans([f"{question}{QUESTION_END}{context}"])
        border = len(question) + len(QUESTION_END)
        if len(encoded.ids) <= self._config.max_tokens:
            yield f"{question}{QUESTION_END}{context}", -border
            return
        spans = [span for span in encoded.spans if span[0] >= border]
        room = max(16, self._config.max_tokens - (len(encoded.ids) - len(spans)) - _SLACK)
        step = max(1, room - min(self._config.overlap_tokens, room // 2))
        for at in range(0, max(1, len(spans) - room + step), step):
            low, high = spans[at][0] - border, spans[min(at + room, len(spans)) - 1][1] - border
            while low < high and context[low].isspace():  # it would join the line feed in one token
                low += 1
            yield f"{question}{QUESTION_END}{context[low:high]}", low - border

    def prediction(self, record: Record, answer: Any) -> str:
        """Returns the likeliest span of all windows, "" where none is likelier than that there is none."""
        best = self._best(answer)
        return "" if best is None else str(best[1]["text"])

    def located(self, record: Record, answer: Any, tokenizer: Tokenizer) -> Entity | None:
        """Returns the answer with its place in the context; None where there is none."""
        best = self._best(answer)
        if best is None:
            return None
        window, span = best
        facts, reading = self._read(record, answer, tokenizer)
        _, shift = reading[window - facts]
        start = int(span["start"]) + shift
        return Entity(str(span["text"]), ANSWER, start, start + len(span["text"]), float(span["score"]))

    def _best(self, answer: Any) -> tuple[int, Record] | None:
        """Returns the likeliest answer, with the place of what was found it in."""
        spans = [
            (at, entity) for at, found in enumerate(answer) for entity in found["entities"] if entity["type"] == ANSWER
        ]
        best = max(spans, key=lambda each: float(each[1]["score"]), default=None)
        if best is None or (best[1]["score"] <= 0 and not self._config.always_answers):
            return None
        return best

    def _read(self, record: Record, answer: Any, tokenizer: Tokenizer) -> tuple[int, list[tuple[str, int]]]:
        """Returns how many facts stand before the windows of the last reading, and these windows."""
        for count in reversed(range(min(self._config.hops, len(answer)))):
            facts = [found["entities"][0] for found in answer[:count] if len(found["entities"]) == 1]
            if len(facts) < count or any(fact["type"] != EVIDENCE for fact in facts):
                continue
            windows = list(self._windows({**record, "read": facts}, tokenizer))
            if len(windows) == len(answer) - count:
                return count, windows
        raise DataError("an answer is not one to this record", "give the record that was asked")


def _tag(tags: list[int], tokens: Sequence[int], begins: int) -> None:
    for at, token in enumerate(tokens):
        tags[token] = begins + (at > 0)


class WrittenAnswers(_Answers, Writing):
    """For a model that writes: ``question <separator> context <separator> answer <end>``; "" where there is none."""

    output: Output = "text"

    def __init__(self, config: QuestionAnswering) -> None:
        super().__init__(config.max_tokens, config.max_answer_tokens)

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns question and context."""
        return (record["question"], record["context"])

    def target(self, record: Record) -> str:
        """Returns the first answer."""
        return _accepted(record)[0]

    def prediction(self, record: Record, answer: Any) -> str:
        """Returns what was written, without spaces around it."""
        return str(answer).strip()
