"""``llmyard keys``: who may ask an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Json, StorageOption, shell

if TYPE_CHECKING:
    from llmyard.serving.keys import StoredKey

app = typer.Typer(help="The API keys of a storage's endpoints: make, list, revoke.", no_args_is_help=True)
SHOWN = 12  # characters of a hash


@app.command("list")
def list_keys(storage: StorageOption = None, as_json: Json = False) -> None:
    """List the keys by the beginnings of their hashes; the keys themselves are not kept."""
    from llmyard.serving.keys import stored

    shell.json = as_json
    rows = [_row(key) for key in stored(shell.store(storage).storage)]
    shell.table(rows, "keys")


def _row(key: StoredKey) -> dict[str, str | int]:
    return {
        "key": key.sha256[:SHOWN],
        "name": key.name,
        "created": key.created,
        "expires": key.expires,
        "requests_per_minute": key.rate.requests or "",
        "tokens_per_minute": key.rate.tokens or "",
    }


@app.command("make")
def make_key(
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    requests: Annotated[int | None, typer.Option(min=1, help="So many requests a minute at most.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="So many tokens a minute at most, read and written.")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="It ends after so many days.")] = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Make a key, print it once, and keep its hash; endpoints that run know it at once."""
    from llmyard.serving import keys
    from llmyard.serving.rates import Rate

    shell.json = as_json
    key = keys.new_key()
    kept = keys.keep(shell.store(storage).storage, key, name, Rate(requests, tokens), days)
    if not shell.json:
        typer.echo(say("key_once", key=key))
    shell.finish({"key": key, "hash": kept.sha256[:SHOWN], "expires": kept.expires})


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The beginning of its hash, as `keys list` shows it.")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Remove a key; endpoints that run forget it within some seconds."""
    from llmyard.serving import keys

    shell.json = as_json
    gone = keys.revoke(shell.store(storage).storage, key)
    if not shell.json:
        typer.echo(say("revoked", key=gone.sha256[:SHOWN]))
    shell.finish({"revoked": gone.sha256[:SHOWN]})
