"""``deploy``: checkpoints behind an endpoint of the cluster, which goes on when its job has ended.

Nothing is left in the store; the run in MLflow says what answered from when on.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact, ArtifactStore, code_version
from llmyard.core.errors import RequestError
from llmyard.core.fingerprint import fingerprint
from llmyard.stages.deploy_config import Deploy
from llmyard.stages.naming import HUB
from llmyard.stages.stage import Context, Live, Progress, StageResult

if TYPE_CHECKING:
    from llmyard.serving.hub_model import HubModel

REVISION = 1
INDEX = "index"


def parents(config: Deploy, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the checkpoints by their names, pinned to versions, and the index; of the hub's models nothing.

    Raises:
        MissingArtifact: There is no such one.
        RequestError: A name is no checkpoint's, two stand for one, or a canary is beside none of the models.
    """
    from llmyard.serving.application import find

    named = [name for name in config.named if not name.startswith(HUB)]
    found = dict(zip(named, find(named, store), strict=True))
    _check_canaries(config, [found[name].name if name in found else _hub_name(name) for name in config.models])
    index = {} if config.index is None else {INDEX: store.get(config.index, INDEX)}
    return {f"model {name}": artifact for name, artifact in found.items()} | index  # type: ignore[return-value]


def _hub_name(name: str) -> str:
    from llmyard.serving.hub_model import HubModel

    return HubModel(name.removeprefix(HUB).partition("@")[0], "").name


def _check_canaries(config: Deploy, names: Sequence[str]) -> None:
    """Raises RequestError if a canary is beside no model; several versions of one are called ``name@version``."""
    count = Counter(names)
    called = {name for name in names if count[name] == 1}
    for number, canary in enumerate(config.canaries):
        if canary.beside not in called and canary.beside.partition("@")[0] not in set(names) - called:
            raise RequestError(
                f"canaries.{number}.beside: the endpoint has no model {canary.beside!r}",
                f"one of: {', '.join(sorted(called))}",
            )


def sources(config: Deploy, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns nothing: it reads no files."""
    return []


def deployed(config: Deploy, parents: Mapping[str, Artifact], context: Context) -> StageResult:
    """Puts the models behind the endpoint, and returns when all of it answers.

    Raises:
        RequestError: The cluster has no room, or something else answers there.
        LlmyardError: It does not come to answer.
    """
    from llmyard.serving.deploying import check_room, deploy, start_serve

    began, progress = time.monotonic(), context.progress(config)
    check_room(config.scale)
    opening = _opening(config, parents, context)
    models = tuple(model.reference for model in opening.models)
    version = fingerprint(
        opened=[*models, *(model.reference for _, model in opening.canaries)],
        index=opening.index.reference if opening.index is not None else "",
        config=config.model_dump(mode="json", include={"models", "canaries", "limits"}),
        storage=context.store.storage.uri,
        code=code_version(),
    )
    label = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    with context.tracked(config, f"endpoint/{config.endpoint}@{label}", parents) as run:
        start_serve(config.host, config.port, haproxy=config.haproxy)
        made = deploy(
            config.endpoint, opening, config.scale, version, seconds=config.ready_seconds, tell=partial(_tell, progress)
        )
        metrics = {"replicas": float(made.replicas), "models": float(len(models))}
        run.result(metrics)
        run_id = run.run_id() or ""
    seconds = time.monotonic() - began
    live = Live(config.endpoint, made.urls, models)
    return StageResult("deploy", (), metrics, seconds, False, run_id, live)


def _tell(progress: Progress, running: int, wanted: int, said: str) -> None:
    progress.update(running, wanted, said)


def _opening(config: Deploy, parents: Mapping[str, Artifact], context: Context) -> Any:
    """Returns what each replica opens; keys are read from the store as long as it runs."""
    from llmyard.serving import keys
    from llmyard.serving.hub_model import pinned
    from llmyard.serving.replica import Opening

    def opened(name: str) -> Artifact | HubModel:
        return pinned(name) if name.startswith(HUB) else parents[f"model {name}"]

    return Opening(
        models=tuple(opened(name) for name in config.models),
        names=config.models,
        keys=partial(keys.stored, context.store.storage),
        limits=config.limits,
        index=parents.get(INDEX),
        canaries=tuple((canary, opened(canary.model)) for canary in config.canaries),
    )
