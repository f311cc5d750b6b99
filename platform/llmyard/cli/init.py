"""``llmyard init``: a new project's files, ready to run."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell, command
from llmyard.core.errors import RequestError

TEMPLATE = Path(__file__).with_name("template")


def write_project(shell: Shell, folder: Path) -> None:
    """Writes the template into a folder.

    Raises:
        RequestError: The folder is not empty, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RequestError(f"{folder} is not an empty folder", "name a new one")
        for source in sorted(TEMPLATE.rglob("*")):
            if source.is_file():
                target = folder / source.relative_to(TEMPLATE)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
                typer.echo(say("wrote", file=target))
    except OSError as error:
        raise RequestError(f"cannot write {folder}: {error.strerror}", "name a folder that can be written") from None
    llmyard = command(folder)
    steps = f"cd {shlex.quote(str(folder))} && {llmyard} check job.yaml && {llmyard} run job.yaml"
    typer.echo(f"{say('next')} {steps}")
