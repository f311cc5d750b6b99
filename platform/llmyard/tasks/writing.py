"""What the tasks share that a model answers by writing: a prompt, a separator, the answer, an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmyard.tasks.task import Decoding, EncodedExample, Labels, Marked, Record
from llmyard.tokens.tokenizer import SEPARATOR, Tokenizer


class Writing:
    """Encodes ``<lead> text <separator> ... <separator> answer <end>``; only answer and end are learned.

    Subclasses say what the parts are. A prompt that is too long loses the end of its last part.

    Args:
        max_source_tokens: Of a prompt.
        max_target_tokens: Of an answer with its end.
        learns_from_cut: Learn from prompts that are too long too, without their end. Where the answer may stand in
            what is cut away, that would teach inventing.
    """

    def __init__(self, max_source_tokens: int, max_target_tokens: int, learns_from_cut: bool = False) -> None:
        self._source, self._target, self._learns_from_cut = max_source_tokens, max_target_tokens, learns_from_cut

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns the texts of a prompt."""
        raise NotImplementedError

    def lead(self, record: Record) -> str | None:
        """Returns the control token that a prompt begins with."""
        return None

    def target(self, record: Record) -> str:
        """Returns the answer."""
        raise NotImplementedError

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Texts have no labels."""
        return {}

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the ids before the answer."""
        return self._prompt(record, [tokenizer.encode(part) for part in self.parts(record)], tokenizer)

    def then(self, record: Record, answer: Any) -> Record | None:
        """Nothing more is asked."""
        return None

    def excess(self, record: Record, tokenizer: Tokenizer) -> tuple[int, int]:
        """Returns by how many tokens the prompt of a record is too long, and how many it may have."""
        return self._excess([tokenizer.encode(part) for part in self.parts(record)], record), self._source

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns the template's ids; over-long records are left out: a cut one would teach cutting."""
        texts = [self.parts(record) for record in records]
        flat = iter(tokenizer.encode_batch([part for parts in texts for part in parts]))
        sources = [[next(flat) for _ in parts] for parts in texts]
        targets = tokenizer.encode_batch([self.target(record) for record in records])
        examples: list[list[EncodedExample] | None] = []
        for record, source, target in zip(records, sources, targets, strict=True):
            is_cut = self._excess(source, record) > 0 and not self._learns_from_cut
            if is_cut or len(target) >= self._target:
                examples.append(None)
                continue
            prompt = self._prompt(record, source, tokenizer)
            if len(prompt) > self._source:  # what stands before the last part has no room
                examples.append(None)
                continue
            examples.append([EncodedExample([*prompt, *target, tokenizer.end_id], target_start=len(prompt))])
        return examples

    def cases(self, record: Record) -> list[Record]:
        """Returns the record: it asks for one answer."""
        return [record]

    def figures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, float]:
        """There are none but the measures."""
        return {}

    def signatures(self, records: Sequence[Record]) -> dict[str, str]:
        """Every figure is computed in one way only."""
        return {}

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Nothing is labelled."""
        return []

    def choices(self, record: Record) -> list[str] | None:
        """Answers are written, not chosen."""
        return None

    def decoding(self, labels: Labels) -> Decoding:
        """Returns the length of the longest answer that was learned."""
        return Decoding(max_new_tokens=self._target)

    def prediction(self, record: Record, answer: Any) -> Any:
        """Returns the text that was written."""
        return str(answer)

    def _excess(self, parts: list[list[int]], record: Record) -> int:
        """Returns by how many tokens a prompt is too long."""
        return (self.lead(record) is not None) + sum(len(part) + 1 for part in parts) - self._source

    def _prompt(self, record: Record, parts: list[list[int]], tokenizer: Tokenizer) -> list[int]:
        excess = max(0, self._excess(parts, record))
        *before, last = parts
        lead, separator = self.lead(record), tokenizer.control(SEPARATOR)
        ids = [tokenizer.control(lead)] if lead is not None else []
        for part in (*before, last[: max(0, len(last) - excess)]):
            ids += [*part, separator]
        return ids
