"""Where a stage reads what a stage of kind ``predict`` made: the name becomes the files of its newest version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.config import Config
from llmyard.sources.config import Answers, Records

T = TypeVar("T", bound=Config)


def settled(stage: T, store: ArtifactStore) -> T:
    """Returns a stage whose records of another model are files.

    Raises:
        MissingArtifact: There are no such records.
    """
    return _changed(stage, lambda answers: _files(answers, store))  # type: ignore[no-any-return]


def answers_of(stage: Config) -> list[str]:
    """Returns the names of the records of other models that a stage reads."""
    found: list[str] = []

    def note(answers: Answers) -> Answers:
        found.append(answers.records)
        return answers

    _changed(stage, note)
    return list(dict.fromkeys(found))


def _files(answers: Answers, store: ArtifactStore) -> Records:
    made = store.get(answers.records, "records")
    dealt = answers.model_dump(exclude={"kind", "records"})
    return Records(train=f"{made.uri}/records", **dealt)


def _changed(value: Any, change: Callable[[Answers], Any]) -> Any:
    """Returns a config in which each source of answers is another; the same object where there is none."""
    if isinstance(value, Answers):
        return change(value)
    if isinstance(value, Config):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: _changed(each, change) for name, each in fields.items()}
        update = {name: each for name, each in changed.items() if each is not fields[name]}
        return value.model_copy(update=update) if update else value
    if isinstance(value, tuple):
        found = tuple(_changed(each, change) for each in value)
        return found if any(one is not other for one, other in zip(found, value, strict=True)) else value
    return value
