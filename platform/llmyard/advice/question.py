"""What a user asks: the task, the data, the machine, and what the answers must be like."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmyard.core.config import Config

Language = Literal["zh", "en"]
TaskName = Literal[
    "translation", "summarization", "question_answering", "dialogue", "instruction", "knowledge_graph",
    "relation_classification", "classification", "pretraining",
]  # fmt: skip


class Hardware(Config):
    """The machine that trains."""

    gpus: int = Field(0, ge=0, le=100_000)
    gpu_memory_gb: float = Field(0, ge=0, description="Of each.")
    cpus: int = Field(2, ge=1, le=100_000, description="Cores.")
    memory_gb: float = Field(8, gt=0, description="RAM, of all cores together.")

    @property
    def has_gpus(self) -> bool:
        """Whether training runs on GPUs."""
        return self.gpus > 0 and self.gpu_memory_gb > 0

    @property
    def devices(self) -> int:
        """GPUs, or cores where there are none."""
        return self.gpus if self.has_gpus else self.cpus


class Question(Config):
    """What is to be recommended for."""

    task: TaskName
    languages: tuple[Language, ...] = Field(("zh", "en"), min_length=1, max_length=2)
    examples: int | None = Field(
        None, ge=1, le=10**12, description="Examples, or documents for pretraining; unset, a usual number is assumed."
    )
    tokens: int | None = Field(
        None, ge=1, le=10**7, description="Of an example, question and answer together, on average."
    )
    hardware: Hardware = Hardware()
    hours: float | None = Field(None, gt=0, description="How long training may take; unset, half a day or three days.")
    interactive: bool = Field(True, description="Somebody waits for each answer; else texts are worked off in batches.")
    open_domain: bool = Field(False, description="Answers stand in no text that is given with the question.")
    structured: bool = Field(False, description="Answers must follow a schema.")
    long_texts: bool = Field(False, description="Texts of thousands of tokens.")
    offline: bool = Field(False, description="Nothing can be downloaded.")
