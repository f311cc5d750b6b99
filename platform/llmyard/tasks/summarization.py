"""Summaries in the text's own language, of all of it or of what a question asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llmyard.metrics.measure import Measure, by_group, mean
from llmyard.tasks.config import Summarization
from llmyard.tasks.focus import focused
from llmyard.tasks.labelling import parts_of, whole_end
from llmyard.tasks.sentence_choice import (
    COMMON,
    best_sentences,
    fitting,
    in_order,
    marked_sentences,
    nearest,
    passed_over,
    sentences,
    summary_sentences,
)
from llmyard.tasks.tagging import Tagging
from llmyard.tasks.task import (
    LANGUAGE_TOKENS,
    EncodedExample,
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
from llmyard.tokens.tokenizer import Tokenizer

CHOSEN, OTHER = "chosen", "other"


def summarization(config: Summarization, form: Form) -> Task:
    """Returns the task for a form of model."""
    return ChosenSentences(config) if form == "encoder" else WrittenSummaries(config)


class Summaries:
    """Records: ``language``, ``text``, ``summary`` and, where one is asked, ``query``. Of a long text the part that the
    query is about may stand for all of it.
    """

    name = "summarization"
    revision = 1
    metric = "rouge_l"

    def __init__(self, focus_characters: int | None) -> None:
        self._focus = focus_characters

    def check(self, record: Record) -> Record:
        """Returns the record if both texts are there and the language is known."""
        for field in ("text", "summary"):
            need(record, field, str, self.name)
        language_of(record)
        return record

    def read(self, record: Record) -> str:
        """Returns what is read of the text."""
        query, text = record.get("query"), str(record["text"])
        if not query or self._focus is None:
            return text
        return focused(text, query, record["language"], self._focus)

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
        """Returns the best of the first two sentences, those that TextRank finds, and those that share most with the
        query, where there is one; as many as summaries have.
        """
        from llmyard.sources.smallworld.baselines import lead_two
        from llmyard.tasks.floors import sentence_spans, textrank

        lengths = [len(sentence_spans(record["summary"])) for record in train]
        usual = max(1, round(sum(lengths) / max(1, len(lengths))))
        found = {
            "first two sentences": [lead_two(record["text"], record["language"]) for record in test],
            "TextRank": [textrank(record["text"], usual, record["language"]) for record in test],
        }
        if any(record.get("query") for record in test):
            found["sentences with most words of the query"] = [
                nearest(record["text"], str(record.get("query") or ""), record["language"], usual) for record in test
            ]
        name = max(found, key=lambda each: self.measures(found[each], test)[self.metric].value)
        return name, found[name]


class WrittenSummaries(Summaries, Writing):
    """For a model that writes: ``<language> [query <separator>] text <separator> summary <end>``; it learns the summary
    only.
    """

    output: Output = "text"

    def __init__(self, config: Summarization) -> None:
        Summaries.__init__(self, config.focus_characters)
        Writing.__init__(self, config.max_source_tokens, config.max_target_tokens, config.cut_sources)

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns the query, if there is one, and the text."""
        query = record.get("query")
        return (query, self.read(record)) if query else (self.read(record),)

    def lead(self, record: Record) -> str:
        """Returns the language's token."""
        return LANGUAGE_TOKENS[record["language"]]

    def target(self, record: Record) -> str:
        """Returns the summary."""
        return str(record["summary"])


class ChosenSentences(Summaries, Tagging):
    """For a model that labels: it reads one sentence after the other behind the query and says whether a summary takes
    it; the likeliest ones are the summary, in the order of the text.
    """

    revision = 2
    output: Output = "label"

    def __init__(self, config: Summarization) -> None:
        super().__init__(config.focus_characters)
        self._config = config

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns the two classes, and how many parts are marked."""
        return {"classes": [CHOSEN, OTHER], "parts": [str(COMMON)]}

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Returns what is read of each sentence; a query that leaves it no room loses its end."""
        return self._fitting(self._marked(record, self._query(record, tokenizer)), tokenizer)

    def excess(self, record: Record, tokenizer: Tokenizer) -> tuple[int, int]:
        """Returns by how many tokens the query is too long, and how many it may have; texts are divided."""
        return len(tokenizer.encode(_one_line(record))) - self._query_tokens, self._query_tokens

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns the sentences that together are most like the summary, and some others; None where none shares a word
        with it.
        """
        return [self._encode(record, tokenizer, labels["classes"]) for record in records]

    def _encode(self, record: Record, tokenizer: Tokenizer, classes: Sequence[str]) -> list[EncodedExample] | None:
        text, query, language = self.read(record), _one_line(record), record["language"]
        taken = summary_sentences(text, record["summary"], language, self._config.sentences)
        if not taken or self.excess(record, tokenizer)[0] > 0:
            return None
        others = passed_over(text, query, language, taken, self._config.passed_over)
        places = sorted([*taken, *others])
        marked = self._marked(record, query)
        read = self._fitting([marked[at] for at in places], tokenizer)
        limit = self._config.max_source_tokens
        return [
            EncodedExample(
                item.ids[:limit],
                labels=parts_of(each, item)[:limit],
                pairs=(classes.index(CHOSEN if at in taken else OTHER),),
            )
            for at, each, item in zip(
                places, read, tokenizer.encode_with_spans([each.text for each in read]), strict=True
            )
        ]

    def _fitting(self, marked: Sequence[Marked], tokenizer: Tokenizer) -> list[Marked]:
        encoded = tokenizer.encode_with_spans([each.text for each in marked])
        limit = self._config.max_source_tokens
        return [fitting(each, item.spans, limit) for each, item in zip(marked, encoded, strict=True)]

    @property
    def _query_tokens(self) -> int:
        return self._config.max_source_tokens // 2

    def _query(self, record: Record, tokenizer: Tokenizer) -> str:
        query = _one_line(record)
        (encoded,) = tokenizer.encode_with_spans([query])
        most = self._query_tokens
        return query if len(encoded.ids) <= most else query[: whole_end(encoded.spans, most)]

    def _marked(self, record: Record, query: str) -> list[Marked]:
        return marked_sentences(self.read(record), query, record["language"])

    def cases(self, record: Record) -> list[Record]:
        """Returns the record: it asks for one summary."""
        return [record]

    def figures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, float]:
        """There are none but the measures."""
        return {}

    def prediction(self, record: Record, answer: Any) -> str:
        """Returns the likeliest sentences, in the order of the text; "" for a case that was refused."""
        if not any(each["shares"] for each in answer):
            return ""
        return in_order(self.read(record), self._chosen(record, answer, self._config.sentences), record["language"])

    def spans(self, record: Record, answer: Any, count: int | None = None) -> list[tuple[int, int]]:
        """Returns where in the record's text the likeliest sentences stand, in its order; one that is made of pieces
        which do not stand together there is left out.

        Args:
            record: As asked.
            answer: What was found.
            count: Sentences at most; None takes the task's number.
        """
        text, read, at = str(record["text"]), self.read(record), 0
        found = []
        for place in self._chosen(record, answer, count or self._config.sentences):
            said = read[slice(*sentences(read)[place])].split()  # of a long text only parts are read, in its order
            stands = re.compile(r"\s*".join(map(re.escape, said))).search(text, at)
            if stands is not None:
                found.append(stands.span())
                at = stands.end()
        return found

    def _chosen(self, record: Record, answer: Any, count: int) -> list[int]:
        scores = [float(each["shares"][CHOSEN]) for each in answer]
        return best_sentences(self.read(record), scores, count, record["language"])


def _one_line(record: Record) -> str:
    return " ".join(str(record.get("query") or "").split())
