"""The base of every config model, and what of a config decides a result.

Config models live in ``config.py`` modules beside what they configure and import only pydantic and ``core``.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict


def absolute(path: str) -> str:
    """Returns a local path as an absolute one; one that begins with a variable or names a filesystem stays."""
    return path if path.startswith(("$", "~")) or "://" in path else os.path.abspath(path)


def located(path: str) -> str:
    """Returns a path as it is opened: ``~`` and ``$VARIABLES`` replaced, ``file://`` left out, absolute.

    Raises:
        ValueError: A variable is not set.
    """
    found = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$\{?(\w+)\}?", found)
    if unset:
        raise ValueError(f"{path}: the environment variable {unset[1]} is not set")
    return absolute(found.removeprefix("file://"))


# Made absolute where the job is read: Ray's workers have other working directories. Variables are replaced later.
SourcePath = Annotated[str, AfterValidator(absolute)]
# Of a single file, which is opened by this name.
FilePath = Annotated[str, AfterValidator(located)]


class Inert:
    """Marks a field that does not change the result (workers, display): ``Annotated[int, Inert()]``.

    Such a field stays out of the fingerprint, so that a stage finished on two workers is not run again on four.
    """


class Config(BaseModel):
    """A frozen config: unknown fields are errors, defaults are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def decisive(self) -> dict[str, Any]:
        """Returns the fields that determine the result, as plain JSON data (``Inert`` fields left out)."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not any(isinstance(mark, Inert) for mark in field.metadata)
        }

    def given(self) -> dict[str, Any]:
        """Returns what was set, as plain JSON data that validates to an equal config."""
        tags = {"kind", "family"} & set(type(self).model_fields)  # they say which model it is, set or not
        return {
            name: _plain_given(getattr(self, name))
            for name in type(self).model_fields
            if name in self.model_fields_set or name in tags
        }


def _plain_given(value: Any) -> Any:
    if isinstance(value, Config):
        return value.given()
    if isinstance(value, (list, tuple)):
        return [_plain_given(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain_given(item) for key, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.decisive()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
