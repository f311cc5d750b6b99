"""Pretrained models and data sets that are worth knowing, and what llmyard can do with each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, TypeAdapter

from llmyard.advice.question import Language, TaskName
from llmyard.core.config import Config
from llmyard.models.config import Model, ModelChoice
from llmyard.tasks.config import KIN, LABELLERS, AnyTask

FILE = Path(__file__).with_name("catalogue.yaml")

# How a model can be used: tuned as it is; tuned after its files are converted; not at all yet.
Use = Literal["tune", "convert", "not_yet"]


class Note(Config):
    """A remark in both languages."""

    en: str
    zh: str


class Pretrained(Config):
    """A published model."""

    name: str = Field(description="On the hub.")
    revision: str | None = Field(None, description="A commit that was looked at.")
    licence: str
    languages: tuple[Language, ...] = Field(min_length=1, description="Of Chinese and English, those it is made for.")
    family: str = Field(description="As transformers calls it.")
    parameters: int = Field(ge=1)
    context: int = Field(ge=1, description="Most tokens it was made to read.")
    vocab_size: int = Field(0, ge=0)
    shape: ModelChoice | None = Field(None, description="For its memory, where llmyard trains the family.")
    tied: bool = Field(True, description="Input and output vectors are one matrix.")
    stored: Literal["float32", "bfloat16"] = "float32"
    weights: Literal["safetensors", "pickle"] = "safetensors"
    tokenizer: Literal["tokenizer.json", "other"] = "tokenizer.json"
    gated: bool = Field(False, description="Its licence must be accepted on the hub first.")
    source: str
    note: Note | None = None

    @property
    def kin(self) -> str:
        """The family of llmyard's that it is tuned as."""
        return KIN.get(self.family, self.family)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it can be tuned for here: those that train its family."""
        found = [name for name, families in families_of_tasks().items() if self.kin in families]
        # Extractive question answering ends the question with a line feed, which these encoders' tokenizers pass over.
        return tuple(name for name in found if name != "question_answering" or self.kin not in LABELLERS)

    @property
    def use(self) -> Use:
        """What llmyard can do with it."""
        if not self.tasks or self.shape is None:
            return "not_yet"
        is_ready = self.weights == "safetensors" and self.tokenizer == "tokenizer.json"
        return "tune" if is_ready else "convert"

    @property
    def short(self) -> str:
        """Its name without its maker's."""
        return self.name.rpartition("/")[2]

    @property
    def config(self) -> Model:
        """Its shape; only of models that can be used."""
        assert self.shape is not None
        return self.shape


class Dataset(Config):
    """A published data set."""

    name: str
    licence: str
    tasks: tuple[TaskName, ...] = Field(min_length=1)
    languages: tuple[Language, ...] = Field(min_length=1)
    examples: int = Field(ge=1, description="Of the training split.")
    data: dict[str, Any] = Field(description="The `data:` block of a job; for pretraining an item of `sources:`.")
    source: str
    note: Note | None = None


class Catalogue(Config):
    """All of them."""

    models: tuple[Pretrained, ...]
    datasets: tuple[Dataset, ...]


@cache
def catalogue() -> Catalogue:
    """Returns the catalogue that comes with llmyard."""
    import yaml

    return TypeAdapter(Catalogue).validate_python(yaml.safe_load(FILE.read_text(encoding="utf-8")))


@cache
def families_of_tasks() -> dict[str, tuple[str, ...]]:
    """Returns the model families that each task is trained with."""
    known = get_args(TaskName)
    kinds = {str(each.model_fields["kind"].default): tuple(each.families) for each in get_args(AnyTask)}
    return {kind: families for kind, families in kinds.items() if kind in known}


def datasets_for(task: str, languages: tuple[Language, ...]) -> list[Dataset]:
    """Returns the data sets of a task that hold some of the languages, the larger first."""
    found = [each for each in catalogue().datasets if task in each.tasks and set(each.languages) & set(languages)]
    return sorted(found, key=lambda each: -each.examples)
