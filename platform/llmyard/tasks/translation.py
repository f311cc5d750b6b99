"""Translation between English and Chinese, both ways with one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.metrics.measure import Measure, by_group
from llmyard.tasks.config import Translation
from llmyard.tasks.task import LANGUAGE_TOKENS, Form, Output, Record, language_of, need
from llmyard.tasks.writing import Writing


class TranslationTask(Writing):
    """Records: ``source_language``, ``target_language``, ``source``, ``target``.

    Template: ``<target language> source <separator> target <end>``; the model learns the target only.
    """

    name = "translation"
    revision = 1
    output: Output = "text"
    metric = "chrf"

    def __init__(self, config: Translation, form: Form = "encoder_decoder") -> None:
        super().__init__(config.max_source_tokens, config.max_target_tokens)

    def check(self, record: Record) -> Record:
        """Returns the record if both texts are there and both languages are known."""
        for field in ("source", "target"):
            need(record, field, str, self.name)
        for field in ("source_language", "target_language"):
            language_of(record, field)
        return record

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns the source."""
        return (record["source"],)

    def lead(self, record: Record) -> str:
        """Returns the token of the language to translate into."""
        return LANGUAGE_TOKENS[record["target_language"]]

    def target(self, record: Record) -> str:
        """Returns the target."""
        return str(record["target"])

    def measures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns chrF, chrF++ and BLEU for each direction and their means; Chinese is tokenised as Chinese."""
        from llmyard.metrics.corpus_scores import bleu_measure, chrf_measure

        def of(language: str, chosen: list[int]) -> dict[str, Measure]:
            said, right = [predictions[at] for at in chosen], [records[at]["target"] for at in chosen]
            return {
                "chrf": chrf_measure(said, right),
                "bleu": bleu_measure(said, right, language),
                "chrf++": chrf_measure(said, right, word_order=2),
            }

        return by_group([record["target_language"] for record in records], of)

    def signatures(self, records: Sequence[Record]) -> dict[str, str]:
        """Returns sacrebleu's signatures of the figures, by their names."""
        from llmyard.metrics.corpus_scores import signatures

        languages = sorted({record["target_language"] for record in records})
        return {f"{name}_{to}": each for to in languages for name, each in signatures(to).items()}

    def bucket(self, prediction: Any, record: Record) -> str:
        """Returns what is wrong with a translation; "right" from a chrF of 60 on."""
        from llmyard.metrics.corpus_scores import chrf_measure
        from llmyard.metrics.faults import fault_of

        fault = fault_of(prediction, record["target"])
        if fault is not None:
            return fault
        return "right" if chrf_measure([prediction], [record["target"]]).value >= 60 else "other words"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the target of the most similar training source."""
        from llmyard.sources.smallworld.baselines import nearest_neighbour_translation

        return "nearest neighbour", nearest_neighbour_translation(list(train), list(test))
