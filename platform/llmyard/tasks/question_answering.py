"""Extractive question answering: the answer is a span of the context, or there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmyard.tasks.config import QuestionAnswering
from llmyard.tasks.knowledge_graph import OUTSIDE, tokens_of
from llmyard.tasks.task import Annotation, BadExample, Decoding, EncodedExample, Entity, Labels, Record, need
from llmyard.tokens.tokenizer import Encoded, Tokenizer

ANSWER = "answer"
QUESTION_END = "\n"


class QuestionAnsweringTask:
    """Records: ``language``, ``context``, ``question``, ``answers`` [{text, start}] (empty: unanswerable).

    Template: ``question`` newline ``context``; the tokens of the first answer are tagged.
    """

    name = "question_answering"
    revision = 1
    output: Literal["text", "spans"] = "spans"
    metric = "f1"
    decoding = Decoding()

    def __init__(self, config: QuestionAnswering) -> None:
        self._config = config

    def check(self, record: Record) -> Record:
        """Returns the record if its answers stand where they say."""
        context = need(record, "context", str, self.name)
        need(record, "question", str, self.name)
        for answer in need(record, "answers", list, self.name):
            found = context[answer["start"] : answer["start"] + len(answer["text"])]
            if found != answer["text"]:
                raise BadExample(f"answer {answer['text']!r} is said to stand where {found!r} stands", "mend its start")
        return record

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns the one type of span there is."""
        return {"entity_types": [ANSWER], "relations": []}

    def text(self, record: Record) -> str:
        """Returns question and context as the model reads them."""
        return f"{record['question']}{QUESTION_END}{record['context']}"

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the ids of question and context."""
        return tokenizer.encode(self.text(record))[: self._config.max_tokens]

    def encode(self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels) -> list[EncodedExample | None]:
        """Returns ids and BIO tags; None where the text is too long or an answer cuts a token."""
        encodings = tokenizer.encode_with_spans([self.text(record) for record in records])
        return [self._encode(record, encoded) for record, encoded in zip(records, encodings, strict=True)]

    def _encode(self, record: Record, encoded: Encoded) -> EncodedExample | None:
        if len(encoded.ids) > self._config.max_tokens:
            return None
        tags = [OUTSIDE] * len(encoded.ids)
        for answer in record["answers"][:1]:
            start = len(record["question"]) + 1 + answer["start"]
            tokens = tokens_of(self.text(record), encoded, start, start + len(answer["text"]))
            if not tokens:
                return None
            tags[tokens[0]] = 1
            for token in tokens[1:]:
                tags[token] = 2
        return EncodedExample(encoded.ids, labels=tags)

    def answer(self, found: Annotation, record: Record) -> str:
        """Returns the first span found in the context, "" where there is none."""
        border = len(record["question"]) + 1
        return next((entity.text for entity in found.entities if entity.start >= border), "")

    def score(self, predictions: Sequence[Annotation], records: Sequence[Record]) -> dict[str, float]:
        """Returns exact match and F1 by the SQuAD rules (English) and the CMRC rules (Chinese), and their means."""
        from llmyard.metrics.answers import answer_scores

        scores: dict[str, float] = {}
        for language in ("en", "zh"):
            chosen = [index for index, record in enumerate(records) if record["language"] == language]
            if chosen:
                said = [self.answer(predictions[index], records[index]) for index in chosen]
                right = [[answer["text"] for answer in records[index]["answers"]] or [""] for index in chosen]
                found = answer_scores(said, right, language)
                scores[f"exact_match_{language}"], scores[f"f1_{language}"] = found.exact_match, found.f1
        for name in ("exact_match", "f1"):
            values = [scores[f"{name}_{language}"] for language in ("en", "zh") if f"{name}_{language}" in scores]
            scores[name] = sum(values) / len(values)
        return scores

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Annotation]]:
        """Returns the commonest training answer everywhere."""
        from llmyard.sources.smallworld.baselines import majority_answer

        answer = majority_answer(train)
        found = [
            (Entity(answer, ANSWER, len(record["question"]) + 1, len(answer)),) if answer else () for record in test
        ]
        return "commonest answer", [Annotation(entities, ()) for entities in found]
