"""Summaries in the text's own language, of all of it or of what a question asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.metrics.measure import Measure, by_group, mean
from llmyard.tasks.config import Summarization
from llmyard.tasks.focus import focused
from llmyard.tasks.task import LANGUAGE_TOKENS, Form, Output, Record, language_of, need
from llmyard.tasks.writing import Writing


class SummarizationTask(Writing):
    """Records: ``language``, ``text``, ``summary`` and, where one is asked, ``query``.

    Template: ``<language> [query <separator>] text <separator> summary <end>``; the model learns the summary only. Of a
    long text the part that the query is about may stand for all of it.
    """

    name = "summarization"
    revision = 1
    output: Output = "text"
    metric = "rouge_l"

    def __init__(self, config: Summarization, form: Form = "encoder_decoder") -> None:
        super().__init__(config.max_source_tokens, config.max_target_tokens, config.cut_sources)
        self._focus = config.focus_characters

    def check(self, record: Record) -> Record:
        """Returns the record if both texts are there and the language is known."""
        for field in ("text", "summary"):
            need(record, field, str, self.name)
        language_of(record)
        return record

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns the query, if there is one, and the text."""
        query = record.get("query")
        if not query:
            return (record["text"],)
        if self._focus is None:
            return (query, record["text"])
        return (query, focused(record["text"], query, record["language"], self._focus))

    def lead(self, record: Record) -> str:
        """Returns the language's token."""
        return LANGUAGE_TOKENS[record["language"]]

    def target(self, record: Record) -> str:
        """Returns the summary."""
        return str(record["summary"])

    def measures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns ROUGE-1, -2 and -L for each language and their means; Chinese is counted by character."""
        from llmyard.metrics.summaries import rouge_each

        def of(language: str, chosen: list[int]) -> dict[str, Measure]:
            said, right = [predictions[at] for at in chosen], [records[at]["summary"] for at in chosen]
            each = rouge_each(said, right, language)
            return {name: mean([getattr(one, name) for one in each]) for name in ("rouge1", "rouge2", "rouge_l")}

        return by_group([record["language"] for record in records], of)

    def bucket(self, prediction: Any, record: Record) -> str:
        """Returns what is wrong with a summary; "right" from a ROUGE-L of 0.5 on."""
        from llmyard.metrics.faults import fault_of
        from llmyard.metrics.summaries import rouge

        fault = fault_of(prediction, record["summary"])
        if fault is not None:
            return fault
        if prediction.strip() and prediction.strip() == record["text"].strip()[: len(prediction.strip())]:
            return "copies the beginning"
        return "right" if rouge([prediction], [record["summary"]], record["language"]).rouge_l >= 0.5 else "other words"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the better of the first two sentences and those that TextRank finds, as many as summaries have."""
        from llmyard.sources.smallworld.baselines import lead_two
        from llmyard.tasks.floors import sentence_spans, textrank

        lengths = [len(sentence_spans(record["summary"])) for record in train]
        usual = max(1, round(sum(lengths) / max(1, len(lengths))))
        found = {
            "first two sentences": [lead_two(record["text"], record["language"]) for record in test],
            "TextRank": [textrank(record["text"], usual, record["language"]) for record in test],
        }
        name = max(found, key=lambda each: self.measures(found[each], test)[self.metric].value)
        return name, found[name]
