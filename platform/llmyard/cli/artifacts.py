"""``llmyard artifacts``: the store."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Json, StorageOption, shell

app = typer.Typer(help="The artifact store: list, show, lineage, import, remove.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="[KIND/]NAME[@VERSION]")]


@app.command("list")
def list_artifacts(
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """List committed artifacts, newest first."""
    from llmyard.core.artifacts import KINDS
    from llmyard.core.errors import RequestError

    shell.json = as_json
    if kind is not None and kind not in KINDS:
        raise RequestError(f"{kind!r} is no kind of artifact", f"one of: {', '.join(KINDS)}")
    rows = [
        {"artifact": item.reference, "created": item.created, "made by": str(item.config.get("kind", ""))}
        for item in shell.store(storage).list(kind)
    ]
    shell.table(rows, "artifacts")


@app.command()
def show(
    reference: Reference,
    document: Annotated[str | None, typer.Option(help="Of shards: where the document with this id is.")] = None,
    shard: Annotated[str | None, typer.Option(help="Of shards: the document at a position of this shard.")] = None,
    position: Annotated[int, typer.Option(min=0, help="With --shard: number of the token.")] = 0,
    word: Annotated[
        str | None, typer.Option("--neighbours", help="Of a checkpoint: the words nearest to this.")
    ] = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Show one artifact: config, parents, metrics, files; or one document of shards, or a word's neighbours."""
    shell.json = as_json
    store = shell.store(storage)
    # Words have neighbours in checkpoints only; an imported one's tokenizer has the same name.
    artifact = store.get(reference, "checkpoint" if word is not None else None)
    if document is not None or shard is not None:
        _show(_document(store, artifact, document, shard, position))
        return
    if word is not None:
        shell.table(_neighbours(artifact, word), "neighbours")
        return
    record: dict[str, Any] = {
        "artifact": artifact.reference,
        "path": artifact.uri,
        "created": artifact.created,
        "code_version": artifact.code_version,
        "fingerprint": artifact.fingerprint,
        "parents": list(artifact.parents),
        "metrics": artifact.metrics,
        "details": artifact.details,
        "config": artifact.config,
        "files": [{"path": entry.path, "size": entry.size} for entry in artifact.files()],
    }
    _show(record)


def _show(record: dict[str, Any]) -> None:
    if shell.json:
        shell.finish(record)
        return
    import yaml

    typer.echo(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), nl=False)


def _document(store: Any, artifact: Any, document: str | None, shard: str | None, position: int) -> dict[str, Any]:
    from dataclasses import asdict

    from llmyard.core.errors import RequestError
    from llmyard.stages.bases import tokenizer_of
    from llmyard.tokens.lookup import document_at, find_document
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    written_with = tokenizer_of(artifact, store)
    if artifact.kind != "shards" or written_with is None:
        raise RequestError(f"{artifact.reference} holds no shards of documents", "name shards that a job made")
    tokenizer = Tokenizer.load(written_with.local(FILE))
    if document is not None:
        return asdict(find_document(artifact, document, tokenizer))
    return asdict(document_at(artifact, str(shard), position, tokenizer))


def _neighbours(artifact: Any, word: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from llmyard.core.errors import RequestError
    from llmyard.models.families import load
    from llmyard.models.neighbours import neighbours
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    if artifact.kind != "checkpoint":
        raise RequestError(f"{artifact.reference} has no embedding", "name a checkpoint")
    found = neighbours(load(artifact.local()), Tokenizer.load(artifact.local(FILE)), word)
    return [asdict(each) for each in found]


@app.command()
def lineage(reference: Reference, storage: StorageOption = None, as_json: Json = False) -> None:
    """Show what an artifact was made from, back to the corpus."""
    shell.json = as_json
    store = shell.store(storage)
    if reference.startswith("models:/"):
        from llmyard.runtime.registry import resolve

        reference = resolve(reference, store.storage.uri)
    rows = []
    for depth, item in store.lineage(store.get(reference)):
        rows.append({"depth": depth, "artifact": item.reference, "what": _what(item), **_files(item)})
        if not shell.json:
            typer.echo(f"{'  ' * depth}{item.reference}  {rows[-1]['what']}")
            for line in _shown(rows[-1]):
                typer.echo(f"{'  ' * depth}    {line}")
    shell.finish({"lineage": rows})


FILES_NAMED = 100  # of a corpus; all of them are in the listing
FILES_SHOWN = 5
LISTING = "sources.jsonl"


def _what(artifact: Any) -> str:
    corpus = artifact.details.get("corpus")
    if corpus:
        named = ", ".join(str(source.get("name") or source["kind"]) for source in corpus["sources"])
        return f"corpus: {named}" + (f", {corpus['files']} files, {corpus['bytes']:,} bytes" if corpus["files"] else "")
    data = artifact.config.get("data")
    if isinstance(data, dict):
        seed = f" (seed {data['seed']})" if data["kind"] == "smallworld" else ""
        return (
            f"examples: {data['kind']}{seed}" if artifact.kind == "shards" else f"task {artifact.details.get('task')}"
        )
    return str(artifact.config.get("kind", ""))


def _files(artifact: Any) -> dict[str, Any]:
    """Returns the files that an artifact was read from: as its listing has them, else as its config names them."""
    if any(entry.path == LISTING for entry in artifact.files()):
        with open(artifact.local(LISTING), encoding="utf-8") as lines:
            names = [json.loads(line)["path"] for line in itertools.islice(lines, FILES_NAMED)]
        return {
            "files": names,
            "files_in_all": artifact.details["corpus"]["files"],
            "listing": f"{artifact.uri}/{LISTING}",
        }
    corpus = artifact.details.get("corpus")
    sources = corpus["sources"] if corpus else [artifact.config.get("data")] if artifact.kind == "shards" else []
    names = []
    for source in sources:
        for field in ("paths", "train", "validation", "test", "dataset") if isinstance(source, dict) else ():
            value = source.get(field) or ()  # of generated examples these are counts
            names += [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return {"files": names} if names else {}


def _shown(row: dict[str, Any]) -> list[str]:
    names = row.get("files", ())
    more = row.get("files_in_all", len(names)) - FILES_SHOWN
    where = f"; all in {row['listing']}" if "listing" in row else ""
    return [*names[:FILES_SHOWN], *([f"… and {more:,} more{where}"] if more > 0 else [])]


@app.command()
def remove(reference: Reference, storage: StorageOption = None, as_json: Json = False) -> None:
    """Remove one version; refused while another artifact was made from it."""
    shell.json = as_json
    removed = shell.store(storage).remove(reference)
    if not shell.json:
        typer.echo(say("removed", artifact=removed.reference))
    shell.finish({"removed": removed.reference})


@app.command("import")
def import_artifact(
    kind: Annotated[str, typer.Argument(help="checkpoint, tokenizer, shards or records")],
    path: Annotated[Path, typer.Argument(help="A folder or file to copy in; an artifact's folder does too.")],
    name: Annotated[str, typer.Argument(help="The name it gets.")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Take in an existing checkpoint, tokenizer or data set."""
    from llmyard.stages.importing import take_in

    shell.json = as_json
    artifact = take_in(shell.store(storage), kind, path, name)
    can, cannot = artifact.details.get("can", []), artifact.details.get("cannot", {})
    if not shell.json:
        typer.echo(say("imported", artifact=artifact.reference))
        for parent in artifact.parents:
            typer.echo(say("its_tokenizer", artifact=parent))
        if can:
            typer.echo(say("can", uses=", ".join(can)))
        for use, reason in cannot.items():
            typer.echo(say("cannot", use=use, reason=reason))
    made = {"kind": kind, "name": artifact.name, "version": artifact.version, "path": artifact.uri}
    shell.finish({"artifacts": [made], "can": can, "cannot": cannot})
