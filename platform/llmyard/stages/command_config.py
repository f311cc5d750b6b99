"""The config of ``command``: any program, with what it takes and what it leaves."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config, Inert, SourcePath
from llmyard.stages.naming import Stage

PLACE = re.compile(r"\{(\w+)\}")
OUTPUT = "output"


class Held(Config):
    """What a program holds while it runs."""

    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)


class Command(Stage):
    """A program of your own, such as another trainer, to the files that it leaves.

    It writes into the folder ``{output}``. There ``metrics.json`` ({name: number}) becomes the artifact's figures, and
    lines appended to ``reports.jsonl`` ({"step": 10, name: number}) are the figures of a sweep's trial on its way.
    """

    kind: Literal["command"] = "command"
    command: tuple[str, ...] = Field(
        min_length=1,
        description="Program and arguments. {output} is the folder to write into; {NAME} is one of `arguments`, or the "
        "folder of one of `takes`. No shell reads it.",
    )
    arguments: dict[str, str | int | float | bool] = Field({}, description="Values by name, for {NAME}.")
    takes: dict[str, str] = Field({}, description="Artifacts by name, as KIND/NAME[@VERSION].")
    reads: tuple[SourcePath, ...] = Field(
        (), description="Files that decide the result, such as the script: when one changes, the stage runs again."
    )
    environment: dict[str, str] = Field({}, description="Further variables.")
    resources: Annotated[Held, Inert()] = Held()
    timeout_seconds: Annotated[float | None, Inert()] = Field(None, gt=0, description="After which it is ended.")

    @model_validator(mode="after")
    def _places_are_known(self) -> Self:
        known = {OUTPUT, *self.arguments, *self.takes}
        if both := {*self.arguments} & {*self.takes} or {OUTPUT} & {*self.arguments, *self.takes}:
            raise ValueError(f"{sorted(both)[0]!r} is named twice: give arguments and what is taken names of their own")
        for part in self.command:
            for name in PLACE.findall(part):
                if name not in known:
                    raise ValueError(f"command: {{{name}}} is neither one of {', '.join(sorted(known))}")
        for name, reference in self.takes.items():
            if "/" not in reference:
                raise ValueError(f"takes.{name}: {reference!r} names no kind: give KIND/NAME")
        return self

    def filled(self, folders: dict[str, str]) -> list[str]:
        """Returns the command with the folders, by name, and the arguments put in."""
        values: dict[str, Any] = {**self.arguments, **folders}
        return [PLACE.sub(lambda found: str(values[found[1]]), part) for part in self.command]
