"""How a command talks to its user: messages on standard error, results on standard output, exit codes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmyard.cli.messages import say
from llmyard.core.errors import LlmyardError

if TYPE_CHECKING:
    from rich.console import Console

    from llmyard.core.artifacts import ArtifactStore

StorageOption = Annotated[
    str | None, typer.Option("--storage", help="Where artifacts live; else LLMYARD_STORAGE or ./.llmyard.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="path.to.field=value, validated like the file; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="End standard output in one JSON object.")]


@dataclass
class Shell:
    """The terminal of one command."""

    debug: bool = False
    json: bool = False
    found: dict[str, Any] = field(default_factory=dict)  # what a command found out before it failed; for ``--json``
    has_told: bool = False  # how the command ended was said already

    def console(self) -> Console:
        """Returns the console for progress and messages: standard error with ``--json``, else standard output."""
        from rich.console import Console

        console = Console(stderr=self.json)
        # A log has no width of its own: wide enough for a table's row to stay on one line.
        return console if console.is_terminal else Console(stderr=self.json, width=150)

    def store(self, storage: str | None) -> ArtifactStore:
        """Returns the artifact store that a command was given."""
        from llmyard.core.artifacts import ArtifactStore
        from llmyard.core.storage import Storage

        return ArtifactStore(Storage.resolve(storage))

    def finish(self, result: dict[str, Any]) -> None:
        """Ends a command that went well; with ``--json`` prints its result as the last line."""
        if self.json:
            typer.echo(json.dumps({"status": "done", **result}, ensure_ascii=False))

    def leave(self, code: int, result: dict[str, Any]) -> int:
        """Ends a command with the code of what it followed; with ``--json`` prints how that went as the last line."""
        self.has_told = True
        if self.json:
            typer.echo(json.dumps(result, ensure_ascii=False))
        sys.stdout.flush()
        return code

    def table(self, rows: list[dict[str, Any]], key: str) -> None:
        """Ends a command whose result is rows: a table, or with ``--json`` the rows under ``key``."""
        if self.json:
            self.finish({key: rows})
            return
        from llmyard.cli.view import columns

        if rows:
            self.console().print(columns(rows))
        else:
            typer.echo(say("none_yet", what=say(f"rows {key}")))

    def failed(self, error: LlmyardError) -> int:
        """Says what went wrong and what to do about it; returns the exit code."""
        if self.debug:
            import traceback

            traceback.print_exception(error)
        typer.echo(f"error: {error}", err=True)
        return self._ended(error.exit_code, str(error.what))

    def interrupted(self) -> int:
        """Says that the user stopped the command."""
        typer.echo(say("interrupted"), err=True)
        return self._ended(130, "interrupted")

    def unexpected(self, error: BaseException) -> int:
        """Reports a usage error of the command line, or a fault of llmyard."""
        usage = getattr(error, "format_message", None)
        if usage is not None:
            context = getattr(error, "ctx", None)
            where = f"; see `{context.command_path} --help`" if context is not None else ""
            typer.echo(f"error: {usage().rstrip('.')}{where}", err=True)
            return self._ended(2, usage())
        if self.debug:
            import traceback

            traceback.print_exception(error)
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
        typer.echo(f"error: {text}\n  remedy: run `llmyard --debug ...` for the traceback and report it", err=True)
        return self._ended(1, text)

    def _ended(self, code: int, text: str) -> int:
        if self.json:
            typer.echo(
                json.dumps({"status": "failed", "artifacts": [], **self.found, "error": text}, ensure_ascii=False)
            )
        sys.stdout.flush()
        return code


def command(folder: Path | None = None) -> str:
    """Returns how the user calls llmyard (``LLMYARD_COMMAND``, which cluster/local sets), also from another folder."""
    parts = shlex.split(os.environ.get("LLMYARD_COMMAND", "llmyard"))
    if folder is not None and os.sep in parts[-1] and not os.path.isabs(parts[-1]):
        parts[-1] = os.path.relpath(parts[-1], folder)
    return shlex.join(parts)


shell = Shell()
