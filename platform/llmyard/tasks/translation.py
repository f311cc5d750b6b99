"""Translation between English and Chinese, both ways with one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmyard.tasks.config import Translation
from llmyard.tasks.task import BadExample, Decoding, EncodedExample, Labels, Record, need
from llmyard.tokens.tokenizer import CHINESE, ENGLISH, SEPARATOR, Tokenizer

LANGUAGE_TOKENS = {"en": ENGLISH, "zh": CHINESE}


class TranslationTask:
    """Records: ``source_language``, ``target_language``, ``source``, ``target``.

    Template: ``<target language> source <separator> target <end>``; the model learns the target only.
    """

    name = "translation"
    revision = 1
    output: Literal["text", "spans"] = "text"
    metric = "chrf"

    def __init__(self, config: Translation) -> None:
        self._config = config
        self.decoding = Decoding(max_new_tokens=config.max_target_tokens)

    def check(self, record: Record) -> Record:
        """Returns the record if both texts are there and both languages are known."""
        for field in ("source", "target"):
            need(record, field, str, self.name)
        for field in ("source_language", "target_language"):
            if record.get(field) not in LANGUAGE_TOKENS:
                raise BadExample(f"{field} is {record.get(field)!r}", f"supported: {', '.join(LANGUAGE_TOKENS)}")
        return record

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Translation has no labels."""
        return {}

    def text(self, record: Record) -> str:
        """Returns the text to be translated."""
        return str(record["source"])

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns ``<target language> source <separator>``."""
        return self._prompt(record, tokenizer.encode(record["source"]), tokenizer)

    def _prompt(self, record: Record, source: list[int], tokenizer: Tokenizer) -> list[int]:
        limit = self._config.max_source_tokens - 2
        language = tokenizer.control(LANGUAGE_TOKENS[record["target_language"]])
        return [language, *source[:limit], tokenizer.control(SEPARATOR)]

    def encode(self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels) -> list[EncodedExample | None]:
        """Returns the template's ids; over-long pairs are left out: a cut pair would teach cutting."""
        sources = tokenizer.encode_batch([record["source"] for record in records])
        targets = tokenizer.encode_batch([record["target"] for record in records])
        examples: list[EncodedExample | None] = []
        for record, source, target in zip(records, sources, targets, strict=True):
            if len(source) > self._config.max_source_tokens - 2 or len(target) >= self._config.max_target_tokens:
                examples.append(None)
                continue
            prompt = self._prompt(record, source, tokenizer)
            examples.append(EncodedExample([*prompt, *target, tokenizer.end_id], target_start=len(prompt)))
        return examples

    def score(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
        """Returns chrF and BLEU for each direction and their means; Chinese is tokenised as Chinese."""
        from llmyard.metrics.translation import bleu, chrf

        scores: dict[str, float] = {}
        for language in LANGUAGE_TOKENS:
            chosen = [index for index, record in enumerate(records) if record["target_language"] == language]
            if chosen:
                said = [predictions[index] for index in chosen]
                right = [records[index]["target"] for index in chosen]
                scores[f"chrf_{language}"] = chrf(said, right, language).value
                scores[f"bleu_{language}"] = bleu(said, right, language).value
        for name in ("chrf", "bleu"):
            values = [value for key, value in scores.items() if key.startswith(f"{name}_")]
            scores[name] = sum(values) / len(values)
        return scores

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[str]]:
        """Returns the target of the most similar training source."""
        from llmyard.sources.smallworld.baselines import nearest_neighbour_translation

        return "nearest neighbour", nearest_neighbour_translation(list(train), list(test))
