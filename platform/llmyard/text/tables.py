"""The data tables beside this code, and lists that users name by path."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.core.files import read_file


@cache
def table(name: str) -> Any:
    """Returns the contents of a YAML file of this folder, read once: ``table("privacy")``."""
    import yaml

    return yaml.safe_load((resources.files(__package__) / f"{name}.yaml").read_text(encoding="utf-8"))


def lines_of(file: str) -> list[str]:
    """Returns the entries of a list, one a line; blank lines and those that begin with # are left out.

    Raises:
        RequestError: The file cannot be read as UTF-8.
    """
    try:
        lines = read_file(file).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"cannot read the list {file}: {error}", "name a UTF-8 file with one entry a line"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
