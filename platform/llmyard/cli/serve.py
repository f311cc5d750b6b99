"""``serve`` and ``ask``."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell
from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError

if TYPE_CHECKING:
    from llmyard.serving.config import Scale


def find_models(store: ArtifactStore, names: Sequence[str]) -> list[Artifact]:
    """Returns the checkpoints that names stand for.

    Raises:
        RequestError: There is no such checkpoint, or two names stand for one.
    """
    from llmyard.runtime.registry import resolve

    found: dict[str, Artifact] = {}
    for name in names:
        reference = resolve(name, store.storage.uri) if name.startswith("models:/") else name
        artifact = store.get(reference, None if "/" in reference else "checkpoint")
        if artifact.reference in found:
            raise RequestError(f"{name!r} names {artifact.reference} again", "name each model once")
        found[artifact.reference] = artifact
    return list(found.values())


def scale_of(replicas: str) -> Scale:
    """Returns how many replicas are meant by ``N`` or ``LEAST-MOST``.

    Raises:
        RequestError: It is neither.
    """
    from llmyard.serving.config import Scale

    match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", replicas)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if most < max(1, least):
        raise RequestError(f"--replicas {replicas}", "give N, or LEAST-MOST such as 1-4; at most 0 may be the least")
    return Scale(least=least, most=most, tries=1)  # a checkpoint that does not load here will not the next time either


def serve_models(
    shell: Shell,
    names: Sequence[str],
    address: tuple[str, int],
    new_key: bool,
    index: str | None,
    replicas: str,
    haproxy: bool,
    storage: str | None,
) -> None:
    """Serves until interrupted."""
    from llmyard.cli.jobs import check_space
    from llmyard.runtime.session import session
    from llmyard.serving import keys
    from llmyard.serving.config import Endpoint
    from llmyard.serving.endpoint import require_free, serving, set_environment
    from llmyard.serving.replica import Opening

    scale = scale_of(replicas)
    store = shell.store(storage)
    models = find_models(store, names)
    passages = None if index is None else store.get(index, "index")
    host, port = address
    require_free(host, port)
    known = keys.hashes(store.storage)
    key = keys.new_key() if new_key or not known else None
    if key is not None:
        check_space(store.storage)
    config = Endpoint(models=tuple(model.reference for model in models), host=host, port=port, scale=scale)
    opening = Opening(tuple(models), tuple(names), partial(keys.stored, store.storage), config.limits, passages)
    set_environment(haproxy=haproxy)
    typer.echo(say("starting_ray"))
    with session(), serving(config, opening) as url:
        if key is not None:
            keys.keep(store.storage, key)  # only now: a key that nobody was shown would stay for ever
        typer.echo(say("serving", models=", ".join(model.reference for model in models), url=url))
        typer.echo(say("key_once", key=key) if key else say("key_known", count=len(known)))
        while True:
            time.sleep(3600)


def ask_model(shell: Shell, name: str, text: str, target: str | None, context: str | None, storage: str | None) -> None:
    """Prints one answer."""
    from llmyard.generation.asking import ask, check_question
    from llmyard.generation.model import Model, task_of_checkpoint

    (artifact,) = find_models(shell.store(storage), [name])
    check_question(artifact.name, task_of_checkpoint(artifact), text, target, context)  # before the weights are read
    reply = asyncio.run(ask(Model.load(artifact), text, target, context))
    if not shell.json:
        typer.echo(reply.text or say("nothing_found"))
    triples = {} if reply.triples is None else {"triples": reply.triples}
    shell.finish({"model": artifact.reference, "text": reply.text, "finish_reason": reply.finish, **triples})
