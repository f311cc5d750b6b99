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


class KnowledgeGraph(Config):
    """Find entities and (subject, relation, object) triples, as spans of the text."""

    kind: Literal["knowledge_graph"] = "knowledge_graph"
    max_tokens: int = Field(256, ge=8)


Task = Annotated[Translation | KnowledgeGraph, Field(discriminator="kind")]
