"""Classification of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.metrics.measure import Measure, mean
from llmyard.tasks.config import Classification
from llmyard.tasks.labelling import Labelling, language_of_texts
from llmyard.tasks.task import Choice, Form, Marked, Record, need


class ClassificationTask(Labelling):
    """Records: ``text``, ``label`` and, for pairs, ``text_pair``.

    A model that writes is asked ``text <separator> [text_pair <separator>]`` and writes the label's name. One that
    labels reads the text, and of a pair the second one marked as a part behind it.
    """

    name = "classification"
    revision = 1
    metric = "accuracy"

    def __init__(self, config: Classification, form: Form = "encoder") -> None:
        super().__init__(form, config.max_tokens, config.max_label_tokens)

    def check(self, record: Record) -> Record:
        """Returns the record if text and label are there."""
        need(record, "text", str, self.name)
        need(record, "label", str, self.name)
        if "text_pair" in record:
            need(record, "text_pair", str, self.name)
        return record

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns the text, or both."""
        return (record["text"], record["text_pair"]) if record.get("text_pair") else (record["text"],)

    def label(self, record: Record) -> str:
        """Returns the label."""
        return str(record["label"])

    def marked(self, record: Record) -> Marked:
        """Returns the text; of a pair both with a line between, the second one marked."""
        first, second = record["text"], record.get("text_pair")
        if not second:
            return Marked(first)
        text = f"{first}\n{second}"
        return Marked(text, ((len(first) + 1, len(text)),))

    def measures(self, predictions: Sequence[Choice], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns accuracy, macro F1, the share of answers that are no label, and how far confidence can be trusted."""
        from llmyard.metrics.classification import accuracy_each, macro_each, macro_f1

        said, wanted = [each.label for each in predictions], [self.label(record) for record in records]
        return {
            "accuracy": mean(accuracy_each(said, wanted)),
            "macro_f1": Measure(macro_each(said, wanted), macro_f1),
            **self.common_measures(predictions, records),
        }

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns what logistic regression on TF-IDF says."""
        from llmyard.tasks.floors import tfidf_logistic

        known, asked = (["\n".join(self.parts(record)) for record in records] for records in (train, test))
        found = tfidf_logistic(known, [self.label(record) for record in train], asked, language_of_texts(asked))
        return "TF-IDF and logistic regression", [Choice(each) for each in found.labels]
