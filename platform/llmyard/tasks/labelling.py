"""What the tasks share that end in one label of a text, chosen by a model that labels or written by one that writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmyard.metrics.measure import Measure, mean
from llmyard.tasks.task import Choice, EncodedExample, Form, Labels, Marked, Output, Record
from llmyard.tasks.writing import Writing
from llmyard.text.script import mostly_chinese
from llmyard.tokens.tokenizer import Encoded, Tokenizer


class Labelling(Writing):
    """One label for each record.

    Subclasses say what the label is of: the texts of a prompt, or a text with marked parts.

    Args:
        form: Of the model.
        max_tokens: Of what is read.
        max_label_tokens: Of a label that is written.
    """

    def __init__(self, form: Form, max_tokens: int, max_label_tokens: int) -> None:
        super().__init__(max_tokens, max_label_tokens, learns_from_cut=True)
        self.output: Output = "label" if form == "encoder" else "text"
        self._tokens = max_tokens

    def label(self, record: Record) -> str:
        """Returns the label of a record."""
        raise NotImplementedError

    def marked(self, record: Record) -> Marked:
        """Returns what a model that labels reads."""
        raise NotImplementedError

    def target(self, record: Record) -> str:
        """Returns the label, to be written."""
        return self.label(record)

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns ``classes``, and as ``parts`` how many parts of a text are marked; {} for a model that writes."""
        if self.output == "text":
            return {}
        parts = {str(len(self.marked(record).spans)) for record in records}
        return {"classes": sorted({self.label(record) for record in records}), "parts": sorted(parts)}

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Returns the one text that is read, cut where it was in training."""
        marked = self.marked(record)
        (encoded,) = tokenizer.encode_with_spans([marked.text])
        if len(encoded.ids) <= self._tokens:
            return [marked]
        return [replace(marked, text=marked.text[: whole_end(encoded.spans, self._tokens)])]

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns ids with the part that each token is of, and the label; None where a marked part is cut away."""
        if self.output == "text":
            return super().encode(records, tokenizer, labels)
        number = {name: at for at, name in enumerate(labels["classes"])}
        inputs = [self.marked(record) for record in records]
        encoded = tokenizer.encode_with_spans([each.text for each in inputs])
        examples: list[list[EncodedExample] | None] = []
        for record, marked, item in zip(records, inputs, encoded, strict=True):
            parts = parts_of(marked, item)[: self._tokens]
            if not parts or not {*range(1, len(marked.spans) + 1)} <= {*parts}:
                examples.append(None)
                continue
            label = (number[self.label(record)],)
            examples.append([EncodedExample(item.ids[: self._tokens], labels=parts, pairs=label)])
        return examples

    def prediction(self, record: Record, answer: Any) -> Choice:
        """Returns the choice; what a model wrote is one too, of a label that may not exist."""
        if self.output == "text":
            return Choice(str(answer).strip())
        (found,) = answer
        return Choice(str(found["label"]), dict(found["shares"]))

    def common_measures(self, predictions: Sequence[Choice], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns ``calibration_error`` and ``brier`` of a model that labels, ``invalid`` of one that writes.

        ``brier`` is the mean squared distance between the probabilities and the truth, summed over the labels (Brier
        1950); 0 to 2, lower is better. A true label that the model does not know has the probability 0. The figure is
        there where every prediction has probabilities: an answer that a model behind a URL refused has none.
        """
        from llmyard.metrics.calibration import brier_each, calibration_each, calibration_figure

        if any(each.shares for each in predictions):
            sure = [max(each.shares.values(), default=1.0) for each in predictions]
            right = [each.label == self.label(record) for each, record in zip(predictions, records, strict=True)]
            found = {"calibration_error": Measure(calibration_each(sure, right), calibration_figure)}
            if all(each.shares for each in predictions):
                found["brier"] = mean(brier_each(*_shares_and_truths(predictions, [*map(self.label, records)])))
            return found
        known = {self.label(record) for record in records}
        return {"invalid": mean([float(each.label not in known) for each in predictions])}

    def bucket(self, prediction: Choice, record: Record) -> str:
        """Returns which label was taken for which, or "right"."""
        wanted = self.label(record)
        return "right" if prediction.label == wanted else f"{wanted} → {prediction.label[:40] or '∅'}"


def _shares_and_truths(predictions: Sequence[Choice], wanted: Sequence[str]) -> tuple[list[list[float]], list[int]]:
    """Returns each prediction's probabilities of all labels, guessed or true, and the place of its true label."""
    labels = sorted({*wanted, *(label for each in predictions for label in each.shares)})
    places = {label: place for place, label in enumerate(labels)}
    shares = [[each.shares.get(label, 0.0) for label in labels] for each in predictions]
    return shares, [places[label] for label in wanted]


def whole_end(spans: Sequence[tuple[int, int]], count: int) -> int:
    """Returns where the first ``count`` tokens of a text end, in characters. One of which they hold a part is left out:
    it would be read again with all of its tokens.
    """
    return spans[count - 1][1] if count >= len(spans) else min(spans[count - 1][1], spans[count][0])


def language_of_texts(texts: Sequence[str]) -> str:
    """Returns the language of most of the texts."""
    return "zh" if 2 * sum(map(mostly_chinese, texts)) > len(texts) else "en"


def parts_of(marked: Marked, encoded: Encoded) -> list[int]:
    """Returns for each token the marked part that it is of, from 1 on; 0 for none. Of parts that lie in each other the
    shorter one counts.
    """
    parts = [0] * len(encoded.ids)
    numbered = zip(marked.numbers, marked.spans, strict=True) if marked.numbers else enumerate(marked.spans, start=1)
    by_length = sorted(numbered, key=lambda each: each[1][0] - each[1][1])
    for number, (start, end) in by_length:
        for at, (low, high) in enumerate(encoded.spans):
            if low < end and high > start:
                parts[at] = number
    return parts
