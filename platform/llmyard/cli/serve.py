"""``serve`` and ``ask``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell
from llmyard.core.artifacts import Artifact, ArtifactStore


def find_models(store: ArtifactStore, names: Sequence[str]) -> list[Artifact]:
    """Returns the checkpoints that names stand for."""
    from llmyard.runtime.registry import resolve

    found = []
    for name in names:
        reference = resolve(name, store.storage.uri) if name.startswith("models:/") else name
        found.append(store.get(reference, None if "/" in reference else "checkpoint"))
    return found


def serve_models(shell: Shell, names: Sequence[str], host: str, port: int, new_key: bool, storage: str | None) -> None:
    """Serves until interrupted."""
    from llmyard.runtime.session import session
    from llmyard.serving import keys
    from llmyard.serving.config import Endpoint
    from llmyard.serving.endpoint import require_free, serving

    store = shell.store(storage)
    models = find_models(store, names)
    require_free(host, port)
    key = keys.new_key(store.storage) if new_key or not keys.hashes(store.storage) else None
    config = Endpoint(models=tuple(model.reference for model in models), host=host, port=port)
    with session(), serving(config, models, keys.hashes(store.storage)) as url:
        typer.echo(say("serving", models=", ".join(model.reference for model in models), url=url))
        typer.echo(say("key_once", key=key) if key else say("key_known", count=len(keys.hashes(store.storage))))
        while True:
            time.sleep(3600)


def ask_model(shell: Shell, name: str, text: str, target: str, storage: str | None) -> None:
    """Prints one answer."""
    from llmyard.generation.model import Model

    (artifact,) = find_models(shell.store(storage), [name])
    model = Model.load(artifact)
    answer = asyncio.run(_answer(model, text, target))
    if not shell.json:
        typer.echo(answer["text"])
    shell.finish({"model": artifact.reference, **answer})


async def _answer(model: Any, text: str, target: str) -> dict[str, Any]:
    from llmyard.generation.model import whole
    from llmyard.tasks.task import Decoding

    if model.task is not None and model.task.output == "spans":
        (found,) = await model.extract([text])
        return {"text": "\n".join(" | ".join(triple) for triple in found.triples), "triples": found.triples}
    if model.task is not None and model.task.name == "translation":
        said, finish, _ = await whole(model.translate(text, target))
    else:
        said, finish, _ = await whole(model.complete(text, Decoding(64)))
    return {"text": said, "finish_reason": finish}
