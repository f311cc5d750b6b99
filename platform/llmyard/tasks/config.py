"""Which task a stage is about, and its options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmyard.core.config import Config


class Translation(Config):
    """Translate between English and Chinese, both ways with one model."""

    kind: Literal["translation"] = "translation"
    max_source_tokens: int = Field(128, ge=4)
    max_target_tokens: int = Field(128, ge=4)

    @property
    def longest(self) -> int:
        """Tokens of the longest example, prompt and answer in one."""
        return self.max_source_tokens + self.max_target_tokens


class KnowledgeGraph(Config):
    """Find entities and (subject, relation, object) triples, as spans of the text."""

    kind: Literal["knowledge_graph"] = "knowledge_graph"
    max_tokens: int = Field(256, ge=8)

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return self.max_tokens


class Summarization(Config):
    """Say in a sentence or two what a text says."""

    kind: Literal["summarization"] = "summarization"
    max_source_tokens: int = Field(256, ge=4)
    max_target_tokens: int = Field(96, ge=4)

    @property
    def longest(self) -> int:
        """Tokens of the longest example, prompt and answer in one."""
        return self.max_source_tokens + self.max_target_tokens


class QuestionAnswering(Config):
    """Find the answer to a question in a text, or find that there is none."""

    kind: Literal["question_answering"] = "question_answering"
    max_tokens: int = Field(256, ge=8)

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return self.max_tokens


Task = Annotated[Translation | KnowledgeGraph | Summarization | QuestionAnswering, Field(discriminator="kind")]
