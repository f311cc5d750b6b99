"""An endpoint as Ray Serve builds it from a config file: ``import_path: llmyard.serving.application:build``.

Names are resolved where the application is built, once, so that a replica started a week later answers with the same
versions. Weights are fetched where a replica starts, into the cache of its node.
"""

# No `from __future__ import annotations`: Serve looks at the class that annotates build's parameter.
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from llmyard.core.artifact import MARK, Artifact
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.config import Config
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage

if TYPE_CHECKING:
    from ray.serve import Application

HUB = "hub:"
# No pickles and no code, whatever else lies beside the weights.
WANTED = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", MARK)
_HUB_MODEL = re.compile(r"hub:([\w.-]+/[\w.-]+)@([\w./-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Served(Config):
    """The ``args`` of an application in Serve's config."""

    models: tuple[str, ...] = Field(
        min_length=1, description="`[checkpoint/]name[@version]`, `models:/name@alias`, or `hub:ORG/MODEL@REVISION`."
    )
    storage: str | None = Field(None, description="Path or URI of the artifact store; LLMYARD_STORAGE if not given.")
    key_hash_files: tuple[str, ...] = Field((), description="Files with the SHA-256 of one API key a line.")
    key_hash_variables: tuple[str, ...] = Field((), description="Environment variables that hold such lines.")
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_new_tokens: int = Field(1024, ge=1)
    revision: str = Field("", description="Any text: another one builds anew, so aliases and keys are read again.")


@dataclass(frozen=True)
class HubModel:
    """A checkpoint of the hub, in the layout that llmyard writes, pinned to a commit."""

    model: str
    commit: str

    @property
    def reference(self) -> str:
        """As an artifact of the store is referred to."""
        return f"checkpoint/{self.name}@{self.commit}"

    @property
    def name(self) -> str:
        """As `llmyard run` names a model of the hub in the store."""
        return "hub-" + re.sub(r"[^A-Za-z0-9._-]+", "-", self.model)

    def fetched(self) -> "HubCheckpoint":
        """Returns the checkpoint; its files are downloaded unless the cache of this machine has them.

        Raises:
            RequestError: The hub does not have it, or cannot be asked.
        """
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(self.model, revision=self.commit, allow_patterns=list(WANTED))
        except Exception as error:  # the library raises its own, httpx's and the operating system's
            raise _unreachable(f"{self.model}@{self.commit}", error) from None
        record = Path(folder, MARK)
        details = json.loads(record.read_text(encoding="utf-8")).get("details", {}) if record.exists() else {}
        return HubCheckpoint(
            Storage(folder), "checkpoint", self.name, self.commit, "", {}, (), {}, details, "", "", "", at=folder
        )


@dataclass(frozen=True)
class HubCheckpoint(Artifact):
    """A checkpoint whose files the hub's client has verified.

    Attributes:
        at: The folder they are in.
    """

    at: str = ""

    def local(self, path: str = "") -> Path:
        """Returns the path of one file, or of the whole folder when ``path`` is ""."""
        return Path(self.at, path)


def build(args: Served) -> "Application":
    """Returns the Serve application: one deployment, whose replicas speak HTTP and compute.

    Raises:
        RequestError: No key is accepted, or a model is not one.
        MissingArtifact: There is no such model.
    """
    from ray import serve

    from llmyard.serving.endpoint import APPLICATION, CPUS, MAX_ONGOING, MAX_QUEUED

    hashes = key_hashes(args)
    models = find(args.models, ArtifactStore(Storage.resolve(args.storage)))
    deployment: Any = serve.deployment(serve.ingress(_api(models, hashes, args))())
    application: Application = deployment.options(
        name=APPLICATION,
        max_constructor_retry_count=3,  # a network that fails for a moment is not a checkpoint that does not load
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        ray_actor_options={"num_cpus": CPUS},
    ).bind()
    return application


def key_hashes(args: Served) -> list[str]:
    """Returns the SHA-256 of every accepted API key; lines that begin with # and empty ones are left out.

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
    found: dict[str, None] = {}
    for source, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            word = line.partition("#")[0].strip()
            if not word:
                continue
            if not _SHA256.fullmatch(word):  # the line is not shown: it may be a key
                raise RequestError(f"{source}:{number} is no SHA-256", "64 hexadecimal digits, one hash a line")
            found[word] = None
    if not found:
        where = ", ".join(texts) or "key_hash_files and key_hash_variables name nothing"
        raise RequestError(f"an endpoint needs at least one API key: {where}", "give the SHA-256 of a key")
    return list(found)


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
            model = _pinned(name)
        else:
            reference = resolve(name, store.storage.uri) if name.startswith("models:/") else name
            model = store.get(reference, None if "/" in reference else "checkpoint")
            if model.kind != "checkpoint":
                raise RequestError(f"{name!r} is a {model.kind}, which does not answer", "name a checkpoint")
        if model.reference in found:
            raise RequestError(f"{name!r} names {model.reference} again", "name each model once")
        found[model.reference] = model
    return list(found.values())


def _pinned(name: str) -> HubModel:
    match = _HUB_MODEL.fullmatch(name)
    if match is None:
        raise RequestError(f"{name!r} is not hub:ORGANISATION/MODEL@REVISION", "name the revision as well")
    model, revision = match.groups()
    if _COMMIT.fullmatch(revision):
        return HubModel(model, revision)
    from huggingface_hub import HfApi

    try:
        return HubModel(model, str(HfApi().model_info(model, revision=revision).sha))
    except Exception as error:  # as above
        raise _unreachable(name, error) from None


def _unreachable(name: str, error: Exception) -> RequestError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return RequestError(f"cannot get {name}: {first}", "check the name, the network and the token; pin a commit")


def _api(models: Sequence[Artifact | HubModel], hashes: Sequence[str], args: Served) -> Any:
    def build_api_here() -> Any:
        from llmyard.generation.model import Model
        from llmyard.serving.api import build_api

        threads = _cpus()
        loaded = [Model.load(each.fetched() if isinstance(each, HubModel) else each, threads) for each in models]
        return build_api(loaded, hashes, args.max_body_bytes, args.max_new_tokens)

    return build_api_here


def _cpus() -> int:
    """Returns the CPUs that this replica was given: as many threads compute."""
    import ray

    given = ray.get_runtime_context().get_assigned_resources() if ray.is_initialized() else {}
    return max(1, int(given.get("CPU", 1)))
