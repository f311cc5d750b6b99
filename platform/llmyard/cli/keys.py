"""``llmyard keys``: who may ask an endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Json, StorageOption, shell

app = typer.Typer(help="The API keys of a storage's endpoints: list, revoke.", no_args_is_help=True)
SHOWN = 12  # characters of a hash


@app.command("list")
def list_keys(storage: StorageOption = None, as_json: Json = False) -> None:
    """List the keys by the beginnings of their hashes; the keys themselves are not kept."""
    from llmyard.serving.keys import stored

    shell.json = as_json
    rows = [{"key": key.sha256[:SHOWN], "created": key.created} for key in stored(shell.store(storage).storage)]
    shell.table(rows, "keys")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The beginning of its hash, as `keys list` shows it.")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Remove a key; an endpoint that runs must be started again to forget it."""
    from llmyard.serving import keys

    shell.json = as_json
    gone = keys.revoke(shell.store(storage).storage, key)
    if not shell.json:
        typer.echo(say("revoked", key=gone.sha256[:SHOWN]))
    shell.finish({"revoked": gone.sha256[:SHOWN]})
