"""The HTTP API as a plain ASGI application: tested without Ray, run by Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer

from llmyard.core.errors import RequestError
from llmyard.generation.model import Model
from llmyard.serving.admission import TokenBudget
from llmyard.serving.canary import Split
from llmyard.serving.config import Canary, Limits
from llmyard.serving.guarded_engine import GuardedEngine, Terms
from llmyard.serving.keys import KeyRing
from llmyard.serving.limits import BodyLimit, Door, Unbroken
from llmyard.serving.models import Models, Origin, task_name
from llmyard.serving.openai_routes import add_openai_routes
from llmyard.serving.playground_files import PLAYGROUND_PATHS, add_playground
from llmyard.serving.policy import HarmfulWords, Policy
from llmyard.serving.rates import Buckets, Lease, Leases
from llmyard.serving.refusals import ErrorAnswer, Refused, add_error_handlers
from llmyard.serving.scenario_routes import add_scenario_routes
from llmyard.serving.service import Service
from llmyard.serving.watching import Meter, Unwatched, tell
from llmyard.tasks.passages import Passages

if TYPE_CHECKING:
    from llmyard.serving.tracing import Traces

OPEN_PATHS = ("/health", "/openapi.json", *PLAYGROUND_PATHS)
TOLD_SECONDS = 5.0  # between two looks at what the engines do


def build_api(
    models: Sequence[Model],
    keys: KeyRing,
    limits: Limits | None = None,
    *,
    origins: Sequence[Origin] = (),
    canaries: Sequence[tuple[Canary, Model]] = (),
    passages: Passages | None = None,
    meter: Meter | None = None,
    lease: Lease | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """Returns the application.

    Args:
        models: Loaded models.
        keys: Who may ask.
        limits: What is taken; None for the usual.
        origins: Where each model comes from; none where that is not told.
        canaries: New versions that answer a share of the requests to some of the models.
        passages: That questions without a text are answered from.
        meter: Where requests are counted; None counts nothing.
        lease: Asks for a portion of a key's limit; None: this is the only replica.
        traces: Keeps them of requests; None keeps none.
    """
    from llmyard import __version__

    limits, meter = limits or Limits(), meter or Unwatched()
    policies: list[Policy] = [] if limits.harmful_words is None else [HarmfulWords(limits.harmful_words)]
    terms = Terms(
        TokenBudget(limits.max_tokens_under_way), limits.deadline_seconds, policies, meter,
        Leases(lease or _own_lease()), keys.rate,
    )  # fmt: skip
    named = Models(models, origins)
    guarded = _guarded(named, canaries, terms)
    service = Service(guarded, limits.max_new_tokens, passages, policies)
    # No /docs: FastAPI's page loads its scripts from elsewhere. The document itself is at /openapi.json.
    api = FastAPI(
        title="llmyard",
        version=__version__,
        description="Translation, summaries, answers, conversation and knowledge graphs, zh and en.",
        docs_url=None,
        redoc_url=None,
        lifespan=_telling(guarded, meter, traces),
    )
    add_error_handlers(api)

    @api.get("/health")
    async def health() -> dict[str, str]:
        """Returns 200 while the replica can answer, 503 when an engine has ended."""
        ended = [model.name for model in guarded.all() if not model.engine.stats().alive]
        if ended:
            raise Refused(503, f"the engines of {', '.join(ended)} have ended", "server_error")
        return {"status": "ok"}

    add_playground(api)
    bearer = HTTPBearer(auto_error=False, description="A key of `llmyard serve`.")  # for the document; see Door
    routes = APIRouter(prefix="/v1", dependencies=[Depends(bearer)], responses={"4XX": {"model": ErrorAnswer}})
    add_openai_routes(routes, service)
    add_scenario_routes(routes, service)
    api.include_router(routes)
    # The last one added is the first one asked.
    api.add_middleware(Unbroken)
    api.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, seconds=limits.body_seconds)
    api.add_middleware(Door, open_paths=OPEN_PATHS, keys=keys, route_of=_route_of(api), meter=meter, traces=traces)
    return api


def _guarded(named: Models, canaries: Sequence[tuple[Canary, Model]], terms: Terms) -> Models:
    """Returns models that take on no more than the terms allow, new versions beside some of them."""
    splits: dict[str, Split] = {}
    shared = {canary.beside for canary, _ in canaries}

    def guarded(model: Model, name: str, *, of_canary: bool) -> Model:
        def note(seconds: float, failed: bool) -> None:
            splits[name].note(of_canary=of_canary, seconds=seconds, failed=failed)

        counted = model.reference.rpartition("/")[2] if of_canary else name
        noted = note if name in shared else None
        engine = GuardedEngine(model.engine, counted, terms, noted, model.tokenizer.decode)
        return replace(model, name=name, engine=engine)

    models = named.changed(lambda model: guarded(model, model.name, of_canary=False), splits)
    for config, model in canaries:
        champion = models.named(config.beside)
        if task_name(model) != task_name(champion):
            raise RequestError(
                f"{model.reference} is made for {task_name(model)}, {champion.reference} for {task_name(champion)}",
                "a canary answers what the model beside it does",
            )
        splits[config.beside] = Split(champion, guarded(model, config.beside, of_canary=True), config)
    return models


def _own_lease() -> Lease:
    buckets = Buckets()

    async def lease(key: str, kind: str, per_minute: int, wanted: int) -> tuple[int, float]:
        return buckets.lease(key, kind, per_minute, wanted)

    return lease


def _route_of(api: FastAPI) -> Callable[[str], str]:
    """Returns what gives the route of a path; all unknown paths are one."""
    plain = {path for path in api.openapi()["paths"] if "{" not in path}

    def route_of(path: str) -> str:
        if path in plain:
            return path
        return "/v1/models/{name}" if path.startswith("/v1/models/") else "other"

    return route_of


def _telling(
    models: Models, meter: Meter, traces: Traces | None
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """Returns what tells of the engines, every few seconds while the application runs, and sends the last traces."""

    async def tell_all() -> None:
        while True:
            for model in models.all():
                tell(meter, model.name, model.engine.stats())
            await asyncio.sleep(TOLD_SECONDS)

    @contextlib.asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(tell_all())
        try:
            yield
        finally:
            task.cancel()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    return lifespan
