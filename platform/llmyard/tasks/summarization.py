"""Summaries in the text's own language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmyard.tasks.config import Summarization
from llmyard.tasks.task import BadExample, Decoding, EncodedExample, Labels, Record, need
from llmyard.tasks.translation import LANGUAGE_TOKENS
from llmyard.tokens.tokenizer import SEPARATOR, Tokenizer


class SummarizationTask:
    """Records: ``language``, ``text``, ``summary``.

    Template: ``<language> text <separator> summary <end>``; the model learns the summary only.
    """

    name = "summarization"
    revision = 1
    output: Literal["text", "spans"] = "text"
    metric = "rouge_l"

    def __init__(self, config: Summarization) -> None:
        self._config = config
        self.decoding = Decoding(max_new_tokens=config.max_target_tokens)

    def check(self, record: Record) -> Record:
        """Returns the record if both texts are there and the language is known."""
        for field in ("text", "summary"):
            need(record, field, str, self.name)
        if record.get("language") not in LANGUAGE_TOKENS:
            raise BadExample(f"language is {record.get('language')!r}", f"supported: {', '.join(LANGUAGE_TOKENS)}")
        return record

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Summaries have no labels."""
        return {}

    def text(self, record: Record) -> str:
        """Returns the text to be summarised."""
        return str(record["text"])

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns ``<language> text <separator>``; a longer text loses its end."""
        source = tokenizer.encode(record["text"])[: self._config.max_source_tokens - 2]
        return [tokenizer.control(LANGUAGE_TOKENS[record["language"]]), *source, tokenizer.control(SEPARATOR)]

    def encode(self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels) -> list[EncodedExample | None]:
        """Returns the template's ids; None where the text or the summary is too long."""
        sources = tokenizer.encode_batch([record["text"] for record in records])
        targets = tokenizer.encode_batch([record["summary"] for record in records])
        examples: list[EncodedExample | None] = []
        for record, source, target in zip(records, sources, targets, strict=True):
            if len(source) > self._config.max_source_tokens - 2 or len(target) >= self._config.max_target_tokens:
                examples.append(None)
                continue
            language = tokenizer.control(LANGUAGE_TOKENS[record["language"]])
            prompt = [language, *source, tokenizer.control(SEPARATOR)]
            examples.append(EncodedExample([*prompt, *target, tokenizer.end_id], target_start=len(prompt)))
        return examples

    def score(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
        """Returns ROUGE-1, -2 and -L for each language and their means; Chinese is counted by character."""
        from llmyard.metrics.summaries import rouge

        scores: dict[str, float] = {}
        for language in LANGUAGE_TOKENS:
            chosen = [index for index, record in enumerate(records) if record["language"] == language]
            if chosen:
                found = rouge([predictions[i] for i in chosen], [records[i]["summary"] for i in chosen], language)
                for name in ("rouge1", "rouge2", "rouge_l"):
                    scores[f"{name}_{language}"] = getattr(found, name)
        languages = {record["language"] for record in records}
        for name in ("rouge1", "rouge2", "rouge_l"):
            scores[name] = sum(scores[f"{name}_{language}"] for language in languages) / len(languages)
        return scores

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[str]]:
        """Returns the first two sentences."""
        from llmyard.sources.smallworld.baselines import lead_two

        return "first two sentences", [lead_two(record["text"], record["language"]) for record in test]
