"""An endpoint as Ray Serve builds it from a config file: ``import_path: llmyard.serving.application:build``.

Names are resolved where the application is built, once, so that a replica started a week later answers with the same
versions. Weights are fetched where a replica starts, into the cache of its node.
"""

# No `from __future__ import annotations`: Serve looks at the class that annotates build's parameter.
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from llmyard.core.artifact import Artifact
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.config import Config
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.serving.config import Canary, Limits, Scale
from llmyard.serving.hub_model import HUB, HubModel, pinned
from llmyard.serving.keys import StoredKey
from llmyard.serving.rates import Rate

if TYPE_CHECKING:
    from ray.serve import Application

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RATE = re.compile(r"(requests|tokens)=([1-9]\d*)")


class Served(Config):
    """The ``args`` of an application in Serve's config."""

    models: tuple[str, ...] = Field(
        min_length=1, description="`[checkpoint/]name[@version]`, `models:/name@alias`, or `hub:ORG/MODEL@REVISION`."
    )
    storage: str | None = Field(None, description="Path or URI of the artifact store; LLMYARD_STORAGE if not given.")
    key_hash_files: tuple[str, ...] = Field(
        (),
        description="Files with the SHA-256 of one API key a line, perhaps with `requests=N` and `tokens=N`: what it "
        "may ask for in a minute. They are read again while the endpoint runs.",
    )
    key_hash_variables: tuple[str, ...] = Field((), description="Environment variables that hold such lines.")
    index: str | None = Field(None, description="`name[@version]` of an index, for questions without a text.")
    canaries: tuple[Canary, ...] = Field((), description="New versions that answer a share of the requests.")
    limits: Limits = Limits()
    scale: Scale = Scale()
    revision: str = Field("", description="Any text: another one builds anew, so aliases and keys are read again.")


def build(args: Served) -> "Application":
    """Returns the Serve application: one deployment, whose replicas speak HTTP and compute.

    Raises:
        RequestError: No key is accepted, or a model is not one.
        MissingArtifact: There is no such model.
    """
    from llmyard.serving.replica import Opening, deployment

    known_keys(args)  # a wrong file is told now, by the controller
    store = ArtifactStore(Storage.resolve(args.storage))
    index = None if args.index is None else store.get(args.index, "index")
    found = find((*args.models, *(canary.model for canary in args.canaries)), store)
    models, canaries = found[: len(args.models)], found[len(args.models) :]
    opening = Opening(
        tuple(models), args.models, lambda: known_keys(args), args.limits, index,
        tuple(zip(args.canaries, canaries, strict=True)),
    )  # fmt: skip
    application: Application = deployment(opening, args.scale)
    return application


def known_keys(args: Served) -> list[StoredKey]:
    """Returns every accepted API key; lines that begin with # and empty ones are left out.

    Raises:
        RequestError: A file or variable is missing, a line is no SHA-256, or there is none at all.
    """
    texts = {}
    for file in args.key_hash_files:
        try:
            texts[file] = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot read {file}: {error.strerror}", "mount the Secret with the hashes") from None
    for variable in args.key_hash_variables:
        if variable not in os.environ:
            raise RequestError(f"the environment variable {variable} is not set", "set it to the hashes of API keys")
        texts[variable] = os.environ[variable]
    found: dict[str, StoredKey] = {}
    for source, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            word, *limits = line.partition("#")[0].split() or [""]
            if not word:
                continue
            if not _SHA256.fullmatch(word):  # the line is not shown: it may be a key
                raise RequestError(f"{source}:{number} is no SHA-256", "64 hexadecimal digits, one hash a line")
            found[word] = StoredKey(word, rate=_rate(limits, f"{source}:{number}"))
    if not found:
        where = ", ".join(texts) or "key_hash_files and key_hash_variables name nothing"
        raise RequestError(f"an endpoint needs at least one API key: {where}", "give the SHA-256 of a key")
    return list(found.values())


def _rate(limits: Sequence[str], place: str) -> Rate:
    found: dict[str, int] = {}
    for limit in limits:
        match = _RATE.fullmatch(limit)
        if match is None:
            raise RequestError(f"{place} has {limit!r} behind the hash", "give `requests=N` or `tokens=N`, a minute")
        found[match[1]] = int(match[2])
    return Rate(**found)


def find(names: Sequence[str], store: ArtifactStore) -> list[Artifact | HubModel]:
    """Returns the checkpoints that names stand for now, pinned to their versions.

    Raises:
        MissingArtifact: There is no such checkpoint, or alias.
        RequestError: A name is not one, or two stand for one checkpoint.
    """
    from llmyard.runtime.registry import resolve

    found: dict[str, Artifact | HubModel] = {}
    for name in names:
        model: Artifact | HubModel
        if name.startswith(HUB):
            model = pinned(name)
        else:
            reference = resolve(name, store.storage.uri) if name.startswith("models:/") else name
            model = store.get(reference, None if "/" in reference else "checkpoint")
            if model.kind != "checkpoint":
                raise RequestError(f"{name!r} is a {model.kind}, which does not answer", "name a checkpoint")
        if model.reference in found:
            raise RequestError(f"{name!r} names {model.reference} again", "name each model once")
        found[model.reference] = model
    return list(found.values())
