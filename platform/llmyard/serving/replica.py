"""A replica of an endpoint on Ray Serve: it speaks HTTP and computes, so no token crosses between processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmyard.core.artifact import Artifact
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import LlmyardError
from llmyard.serving.config import Canary, Limits, Scale
from llmyard.serving.hub_model import HubModel
from llmyard.serving.keys import KeyRing, StoredKey
from llmyard.serving.models import Origin

if TYPE_CHECKING:
    from llmyard.generation.model import Model
    from llmyard.serving.rates import Lease

APPLICATION = "llmyard"
# Two batches of the engine: one is written while the next one gathers. Beyond the queue, callers get 429 at once
# instead of an answer after they have given up.
MAX_ONGOING, MAX_QUEUED = 64, 512
RETRY_SECONDS = 2
# Streams under way are finished before a replica goes.
DRAIN_SECONDS = 150.0
_LEDGER, _NAMESPACE = "llmyard-key-limits", "llmyard"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opening:
    """What a replica opens.

    Attributes:
        models: Checkpoints, pinned to their versions.
        names: How they were named, in the same order.
        keys: Returns who may ask; called again and again.
        limits: What is taken.
        index: That questions without a text are answered from; None for none.
        canaries: New versions that answer a share of the requests.
    """

    models: tuple[Artifact | HubModel, ...]
    names: tuple[str, ...]
    keys: Callable[[], Sequence[StoredKey]]
    limits: Limits = field(default_factory=Limits)
    index: Artifact | None = None
    canaries: tuple[tuple[Canary, Artifact | HubModel], ...] = ()


class Replica:
    """Loads the models when it starts; Serve asks it whether it is well.

    Args:
        opening: What it opens.
    """

    def __init__(self, opening: Opening) -> None:
        from llmyard.generation.model import Model

        threads, self._opening = _cpus(), opening
        artifacts = [_fetched(each) for each in opening.models]
        self._models: list[Model] = [Model.load(each, threads) for each in artifacts]
        self._canaries = [(config, Model.load(_fetched(each), threads)) for config, each in opening.canaries]
        self._origins = [origin_of(*each) for each in zip(artifacts, opening.names, strict=True)]

    def __serve_build_asgi_app__(self) -> Any:
        """Returns what answers HTTP; Serve calls it once."""
        from llmyard.serving.api import build_api
        from llmyard.serving.ray_meter import RayMeter
        from llmyard.serving.trace_export import traces_asked_for
        from llmyard.tasks.passages import Passages

        opening, meter = self._opening, RayMeter()
        passages = None if opening.index is None else Passages(opening.index.local())
        return build_api(
            self._models, KeyRing(opening.keys), opening.limits, origins=self._origins,
            canaries=self._canaries, passages=passages, meter=meter, lease=_shared_lease(),
            traces=traces_asked_for(meter),
        )  # fmt: skip

    def check_health(self) -> None:
        """Raises LlmyardError where an engine has ended: Serve then puts another replica in this one's place."""
        check_engines(self._models)


def _fetched(model: Artifact | HubModel) -> Artifact:
    return model.fetched() if isinstance(model, HubModel) else model


def check_engines(models: Sequence[Model]) -> None:
    """Raises LlmyardError where the thread of an engine has ended."""
    ended = [model.name for model in models if not model.engine.stats().alive]
    if ended:
        raise LlmyardError(f"the engines of {', '.join(ended)} have ended", "see the log of the replica")


def origin_of(artifact: Artifact, name: str) -> Origin:
    """Returns where a checkpoint comes from; of parents that are gone only the names.

    Args:
        artifact: The checkpoint.
        name: How it was named.
    """
    lineage: list[dict[str, Any]] = []
    known: set[str] = set()
    following: list[Artifact | str] = [artifact]
    while following:
        each = following.pop(0)
        reference = each if isinstance(each, str) else each.reference
        if reference in known:
            continue
        known.add(reference)
        if isinstance(each, str):
            lineage.append({"artifact": each, "kind": each.partition("/")[0], "created": "", "parents": []})
            continue
        parents = list(each.parents)
        lineage.append({"artifact": reference, "kind": each.kind, "created": each.created, "parents": parents})
        following += [_parent(artifact, parent) for parent in parents]
    alias = name if name.startswith("models:/") else None
    return Origin(alias, artifact.created, tuple(lineage))


def _parent(artifact: Artifact, reference: str) -> Artifact | str:
    try:
        return ArtifactStore(artifact.storage).get(reference)
    except LlmyardError:
        return reference


def deployment(
    opening: Opening,
    scale: Scale,
    *,
    version: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    max_surge_percent: int = 0,
) -> Any:
    """Returns the Serve application with one deployment, its replicas between the bounds.

    Args:
        opening: What each replica opens.
        scale: How many there are.
        version: Replicas of an equal one stay when it is deployed again; None replaces them each time.
        runtime_env: What their processes are started with; None: what this driver's are.
        max_surge_percent: So many more of them may run while they are replaced.
    """
    from ray import serve
    from ray.serve.config import BackpressureConfig

    made: Any = serve.deployment(serve.ingress()(Replica))
    options: dict[str, Any] = {"num_replicas": scale.least}
    if scale.most > scale.least:
        options = {
            "autoscaling_config": {
                "min_replicas": scale.least, "max_replicas": scale.most, "initial_replicas": max(1, scale.least),
                "target_ongoing_requests": scale.requests_per_replica,
                "upscale_delay_s": scale.up_seconds, "downscale_delay_s": scale.down_seconds,
            }
        }  # fmt: skip
    return made.options(
        name=APPLICATION,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        max_constructor_retry_count=scale.tries,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_period_s=5,
        max_surge_percent=max_surge_percent,
        ray_actor_options={"num_cpus": scale.cpus, **({} if runtime_env is None else {"runtime_env": runtime_env})},
        **({} if version is None else {"version": version, "_internal": True}),  # Serve makes one up each time
        **options,
    ).bind(opening)


class Ledger:
    """The actor that leases the keys' limits to all replicas."""

    def __init__(self) -> None:
        from llmyard.serving.rates import Buckets

        self._buckets = Buckets()

    def lease(self, key: str, kind: str, per_minute: int, wanted: int) -> tuple[int, float]:
        """As :meth:`~llmyard.serving.rates.Buckets.lease`."""
        return self._buckets.lease(key, kind, per_minute, wanted)


def _shared_lease() -> Lease:
    """Returns what asks the ledger of all replicas; this replica leases by itself while it cannot be reached."""
    import ray

    from llmyard.serving.rates import Buckets

    own = Buckets()
    made: Any = ray.remote(num_cpus=0, max_restarts=-1)(Ledger)
    held: list[Any] = []

    async def lease(key: str, kind: str, per_minute: int, wanted: int) -> tuple[int, float]:
        try:
            if not held:
                held.append(made.options(name=_LEDGER, namespace=_NAMESPACE, get_if_exists=True).remote())
            given: tuple[int, float] = await held[0].lease.remote(key, kind, per_minute, wanted)
            return given
        except (ray.exceptions.RayError, ValueError) as error:
            _log.error("the keys' limits are leased by this replica alone", exc_info=error)
            held.clear()
            return own.lease(key, kind, per_minute, wanted)

    return lease


def _cpus() -> int:
    """Returns the CPUs that this replica was given: as many threads compute."""
    import ray

    given = ray.get_runtime_context().get_assigned_resources() if ray.is_initialized() else {}
    return max(1, int(given.get("CPU", 1)))
