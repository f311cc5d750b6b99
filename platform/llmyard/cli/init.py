"""``llmyard init``: a new project's files, ready to run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import typer

from llmyard.cli.shell import Shell
from llmyard.core.errors import RequestError

TEMPLATE = Path(__file__).with_name("template")


def write_project(shell: Shell, folder: Path) -> None:
    """Writes the template into a folder.

    Raises:
        RequestError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} is not an empty folder", "name a new one")
    try:
        _copy(folder)
    except OSError as error:
        raise RequestError(f"cannot write {folder}: {error.strerror}", "name a folder that can be written") from None
    llmyard = os.environ.get("LLMYARD_COMMAND", "llmyard")  # as the user called it: cluster/local sets it
    if " " in llmyard:  # `bash cluster/local`: still right one folder further down
        head, _, script = llmyard.rpartition(" ")
        llmyard = f"{head} {shlex.quote(str(Path(script).resolve()))}"
    place = shlex.quote(str(folder))
    typer.echo(f"next: cd {place} && {llmyard} check job.yaml && {llmyard} run job.yaml")


def _copy(folder: Path) -> None:
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_file():
            target = folder / source.relative_to(TEMPLATE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            typer.echo(f"wrote {target}")
