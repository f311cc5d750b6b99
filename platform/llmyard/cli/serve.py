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
from llmyard.core.errors import RequestError


def find_models(store: ArtifactStore, names: Sequence[str]) -> list[Artifact]:
    """Returns the checkpoints that names stand for."""
    from llmyard.runtime.registry import resolve

    found = []
    for name in names:
        reference = resolve(name, store.storage.uri) if name.startswith("models:/") else name
        found.append(store.get(reference, None if "/" in reference else "checkpoint"))
    twice = [artifact.name for artifact in found if sum(artifact.name == other.name for other in found) > 1]
    if twice:
        raise RequestError(f"{twice[0]!r} is named twice: requests name models by it", "serve one version at a time")
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
    known = keys.hashes(store.storage)
    key = keys.new_key() if new_key or not known else None
    accepted = [*known, keys.hash_of(key)] if key else known
    config = Endpoint(models=tuple(model.reference for model in models), host=host, port=port)
    with session(), serving(config, models, accepted) as url:
        if key:  # only now: of an endpoint that did not start nobody would have seen it
            keys.keep(store.storage, key)
        typer.echo(say("serving", models=", ".join(model.reference for model in models), url=url))
        typer.echo(say("key_once", key=key) if key else say("key_known", count=len(known)))
        while True:
            time.sleep(3600)


def ask_model(shell: Shell, name: str, text: str, target: str, storage: str | None, context: str | None = None) -> None:
    """Prints one answer."""
    from llmyard.generation.model import Model, task_of_checkpoint

    if not text.strip():
        raise RequestError("the text is empty", "give the text to answer to")
    (artifact,) = find_models(shell.store(storage), [name])
    task = task_of_checkpoint(artifact)
    asks = task is not None and task.name == "question_answering"
    if asks != (context is not None):
        what = "needs a text to look for the answer in" if asks else "takes no --context"
        raise RequestError(f"{artifact.reference} {what}", "give --context TEXT" if asks else "leave it out")
    model = Model.load(artifact)
    answer = asyncio.run(_answer(model, text, target, context))
    if not shell.json:
        typer.echo(answer["text"])
    shell.finish({"model": artifact.reference, **answer})


async def _answer(model: Any, text: str, target: str, context: str | None) -> dict[str, Any]:
    from llmyard.generation.model import mostly_chinese, whole
    from llmyard.tasks.task import Decoding

    if context is not None:
        record = {"question": text, "context": context}
        (found,) = await model.extract([model.task.text(record)])
        return {"text": model.task.answer(found, record)}
    if model.task is not None and model.task.name == "summarization":
        record = {"text": text, "language": "zh" if mostly_chinese(text) else "en"}
        prompt = model.task.prompt(record, model.tokenizer)
        said, finish, _ = await whole(model.answer(prompt, model.task.decoding))
        return {"text": said, "finish_reason": finish}

    if model.task is not None and model.task.output == "spans":
        (found,) = await model.extract([text])
        return {"text": "\n".join(" | ".join(triple) for triple in found.triples), "triples": found.triples}
    if model.task is not None and model.task.name == "translation":
        said, finish, _ = await whole(model.translate(text, target))
    else:
        said, finish, _ = await whole(model.complete(text, Decoding(64)))
    return {"text": said, "finish_reason": finish}
