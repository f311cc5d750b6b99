"""A checkpoint of the hub that an endpoint answers with, pinned to a commit."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from llmyard.core.artifact import MARK, Artifact
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage

HUB = "hub:"
# No pickles and no code, whatever else lies beside the weights.
WANTED = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", MARK)
_HUB_MODEL = re.compile(r"hub:([\w.-]+/[\w.-]+)@([\w./-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


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

    def fetched(self) -> HubCheckpoint:
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


def pinned(name: str) -> HubModel:
    """Returns the model of a name ``hub:ORGANISATION/MODEL@REVISION``, at the commit that the revision stands for now.

    Raises:
        RequestError: It is no such name, or the hub cannot be asked.
    """
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
