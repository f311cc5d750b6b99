"""What ``predict`` is told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config, Inert
from llmyard.sources.config import ExampleSource, Paths, Records
from llmyard.stages.evaluate_config import Control
from llmyard.stages.naming import Stage

Split = Literal["train", "validation", "test"]


class AskedFiles(Config):
    """JSON lines of the task's own schema, without its answers; all of them are asked."""

    paths: Paths = Field(description="Files, folders or globs; s3://, gs://, hdfs:// too; $VARIABLES are replaced.")
    columns: dict[str, str] = Field({}, description="The names that the task's fields have in the files.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="More bad records than this stop the job.")

    def source(self) -> Records:
        """Returns the files as examples, of which all are of the split ``train``."""
        return Records(
            train=self.paths, validation=self.paths, test=self.paths, columns=self.columns,
            max_bad_share=self.max_bad_share,
        )  # fmt: skip


class Sampling(Config):
    """How answers are drawn; without it the likeliest are taken."""

    temperature: float = Field(0.0, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0)
    answers: int = Field(1, ge=1, le=64, description="So many to each record, with the seeds that follow.")

    @model_validator(mode="after")
    def _several_differ(self) -> Self:
        if self.answers > 1 and self.temperature == 0:
            raise ValueError("several `answers` to a record are all the same at temperature 0: give a higher one")
        return self


class Predict(Stage):
    """Answers of a checkpoint to many records, in the schema of its task: to be read, or to train another model on.

    The engine is the endpoint's, and so are the answers. `data: {kind: answers, records: OUTPUT}` reads them.
    """

    kind: Literal["predict"] = "predict"
    checkpoint: str = Field(description="Name of a checkpoint that was tuned for a task.")
    files: AskedFiles | None = Field(None, description="What is asked, in files of the task's schema.")
    data: ExampleSource | None = Field(None, description="What is asked, as examples of `splits`; not their answers.")
    shards: str | None = Field(None, description="What is asked: the documents of a prepared corpus, in `splits`.")
    splits: tuple[Split, ...] = Field(("train",), min_length=1, description="Of `data` or `shards`.")
    limit: int | None = Field(None, ge=1, description="At most so many records of each split.")
    sampling: Sampling = Sampling()
    control: Control = Field(Control(), description="What written answers are held to.")
    batch_size: Annotated[int, Inert(), Field(ge=1)] = 32

    @model_validator(mode="after")
    def _one_is_asked(self) -> Self:
        given = [name for name in ("files", "data", "shards") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of `files`, `data` and `shards`, not {len(given)} of them")
        if self.files is not None and self.splits != ("train",):
            raise ValueError("`splits` are of `data` or `shards`: all that is in `files` is asked")
        return self
