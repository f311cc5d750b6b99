"""What ``deploy`` is told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config, Inert
from llmyard.serving.config import Canary, Limits, Scale
from llmyard.stages.naming import Name


class Deploy(Config):
    """Checkpoints behind an endpoint of a Ray cluster, which answers until it is given up; none of it is skipped.

    Deployed again under its name it is changed replica by replica, while it answers.
    """

    kind: Literal["deploy"] = "deploy"
    endpoint: Name = Field("llmyard", description="Its name: what is deployed under it takes the former's place.")
    models: tuple[str, ...] = Field(
        min_length=1,
        description="`[checkpoint/]NAME[@VERSION]`, `models:/NAME@ALIAS` or `hub:ORG/MODEL@REVISION`; of a pipeline "
        "also outputs of its stages. Each is pinned to the version that it stands for now.",
    )
    index: str | None = Field(None, description="`NAME[@VERSION]` of an index, for questions that come without a text.")
    canaries: tuple[Canary, ...] = Field((), description="New versions that answer a share of the requests.")
    limits: Limits = Limits()
    scale: Scale = Scale()
    host: str = Field(
        "0.0.0.0",
        description="Where the nodes listen. Read, like `port` and `haproxy`, when the cluster's Serve is started: an "
        "endpoint that finds it running takes it as it is, until `llmyard endpoints stop`.",
    )
    port: int = Field(8000, ge=1, le=65_535)
    haproxy: bool = Field(
        True,
        description="HAProxy before the replicas on every node, hardened: several times faster than Serve's own proxy. "
        "Each node needs `llmyard-haproxy` where the head has it. A Serve that something else starts gets it by "
        "RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_HAPROXY_BINARY_PATH in the environment of `ray start`, as the chart "
        "sets them.",
    )
    ready_seconds: Annotated[float, Inert(), Field(gt=0, description="So long until all of it answers.")] = 900.0

    @property
    def output(self) -> str:
        """What messages call it: as other stages are called by their artifacts."""
        return self.endpoint

    @property
    def named(self) -> tuple[str, ...]:
        """All that it names of checkpoints: its models, then its canaries' versions."""
        return (*self.models, *(canary.model for canary in self.canaries))

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.named)) < len(self.named):
            twice = next(name for name in self.named if self.named.count(name) > 1)
            raise ValueError(f"{twice!r} is named twice: name each model once, as one of `models` or as a canary")
        beside = [canary.beside for canary in self.canaries]
        if len(set(beside)) < len(beside):
            twice = next(name for name in beside if beside.count(name) > 1)
            raise ValueError(f"two canaries are beside {twice!r}: one at a time can be judged")
        return self
