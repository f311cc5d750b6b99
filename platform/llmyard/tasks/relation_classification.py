"""Relation classification: what holds between two entities that are marked in a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.metrics.measure import Measure, mean
from llmyard.tasks.config import RelationClassification
from llmyard.tasks.labelling import Labelling, language_of_texts
from llmyard.tasks.task import BadExample, Choice, Form, Marked, Record, need


class RelationClassificationTask(Labelling):
    """Records: ``text``, ``subject`` and ``object`` {text, start, end}, ``relation``.

    A model that writes is asked ``subject <separator> object <separator> text <separator>`` and writes the relation.
    One that labels reads the text with both entities marked.
    """

    name = "relation_classification"
    revision = 1

    def __init__(self, config: RelationClassification, form: Form = "encoder") -> None:
        super().__init__(form, config.max_tokens, config.max_label_tokens)
        self._config = config
        self.metric = "macro_f1" if config.directed else "micro_f1"

    def check(self, record: Record) -> Record:
        """Returns the record if both entities stand where they say."""
        text = need(record, "text", str, self.name)
        need(record, "relation", str, self.name)
        for end in ("subject", "object"):
            entity = need(record, end, dict, self.name)
            found = text[entity["start"] : entity["end"]]
            if not found or found != entity["text"]:
                raise BadExample(
                    f"{end} {entity['text']!r} is said to stand where {found!r} stands", "mend its offsets"
                )
        return record

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns both entities and the text, which comes last: where it is too long it loses its end."""
        return (record["subject"]["text"], record["object"]["text"], record["text"])

    def label(self, record: Record) -> str:
        """Returns the relation."""
        return str(record["relation"])

    def marked(self, record: Record) -> Marked:
        """Returns the text with both entities."""
        return Marked(
            record["text"], tuple((record[end]["start"], record[end]["end"]) for end in ("subject", "object"))
        )

    def measures(self, predictions: Sequence[Choice], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns accuracy, micro and macro F1, and how far confidence can be trusted.

        Excluded relations count in accuracy only. The macro F1 of directed relations is SemEval-2010 task 8's.
        """
        from llmyard.metrics import classification

        said, wanted = [each.label for each in predictions], [self.label(record) for record in records]
        excluded = self._config.excluded
        if self._config.directed:
            macro = Measure(classification.semeval_each(said, wanted), classification.semeval_f1)
        else:
            macro = Measure(classification.macro_each(said, wanted, excluded), classification.macro_f1)
        return {
            "micro_f1": Measure(classification.micro_each(said, wanted, excluded), classification.micro_f1),
            "macro_f1": macro,
            "accuracy": mean(classification.accuracy_each(said, wanted)),
            **self.common_measures(predictions, records),
        }

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns what naive Bayes says of the text."""
        from llmyard.tasks.floors import naive_bayes

        known, asked = ([record["text"] for record in records] for records in (train, test))
        found = naive_bayes(known, [self.label(record) for record in train], asked, language_of_texts(asked))
        return "naive Bayes", [Choice(each) for each in found.labels]
