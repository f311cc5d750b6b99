"""A whole job run: Ray and tracking started, stages in order, finished ones skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import MissingArtifact, RequestError
from llmyard.core.job_record import keep
from llmyard.core.storage import Storage
from llmyard.stages.config import ARTIFACT_KIND, AnyJob, AnyStage, Pipeline, deployed_by, hub_models, stages_of
from llmyard.stages.naming import HUB, hub_name
from llmyard.stages.settling import answers_of
from llmyard.stages.stage import Context, Progress, StageResult, plan_stage, run_stage, skip

REGISTERED = "models:/"  # begins the name of a model of the registry


class Silent:
    """A progress view that shows nothing."""

    def update(self, done: float, total: float, note: str = "", **figures: float) -> None:
        """Shows nothing."""


def run(
    job: AnyJob,
    *,
    storage: str | None = None,
    address: str | None = None,
    force: bool = False,
    progress: Callable[[AnyStage], Progress] = lambda stage: Silent(),
    on_result: Callable[[StageResult], None] = lambda result: None,
) -> list[StageResult]:
    """Runs a job and returns each stage's result.

    Args:
        job: A stage, or a pipeline of stages.
        storage: Where artifacts live; by default the job's, ``LLMYARD_STORAGE`` or ``./.llmyard``.
        address: A running Ray cluster; None works on this machine.
        force: Run stages anew although their results exist.
        progress: Makes the live view of a stage.
        on_result: Called after each stage.

    Raises:
        RequestError: An input is missing or wrong; an endpoint is to be deployed where it would not last.
        LlmyardError: A stage failed.
    """
    store = ArtifactStore(Storage.resolve(storage, job.storage if isinstance(job, Pipeline) else None))
    if deployed_by(job) is not None:
        check_deployable(store, address)
    results: list[StageResult] = []
    for init in [each for stage in stages_of(job) for each in hub_models(stage)]:
        from llmyard.stages.bases import adopt

        adopt(init, store)
    with contextlib.ExitStack() as stack:
        context: Context | None = None
        for stage in stages_of(job):
            result = _finished(stage, store) if not force and context is None else None
            if result is None:
                if context is None:  # nothing is started for a job whose stages are all done
                    context = stack.enter_context(_started(store, address, force, progress, job))
                result = run_stage(stage, replace(context, store=store))
            for artifact in result.artifacts:
                store = store.pinned(artifact)
            results.append(result)
            on_result(result)
    return results


def check_deployable(store: ArtifactStore, address: str | None) -> None:
    """Raises RequestError if an endpoint would end with this process, or would have nobody to answer to."""
    from llmyard.runtime.session import is_joined
    from llmyard.serving.keys import stored

    if address in (None, "local") and not is_joined():
        raise RequestError(
            "deploy needs a cluster that goes on running: an endpoint on a Ray of this command's own would end with it",
            "give --address of a cluster, or `llmyard serve` the models here",
        )
    if not stored(store.storage):
        raise RequestError(
            f"no API key is in {store.storage.uri}, and an endpoint answers nobody without one",
            f"make one: llmyard keys make --storage {store.storage.uri}",
        )


def _finished(stage: AnyStage, store: ArtifactStore) -> StageResult | None:
    plan = plan_stage(stage, store)
    return skip(stage, plan.finished, store) if plan.finished is not None else None


@contextlib.contextmanager
def _started(
    store: ArtifactStore, address: str | None, force: bool, progress: Callable[[AnyStage], Progress], job: AnyJob
) -> Iterator[Context]:
    from llmyard.core.tracking import tracking_uri

    tracking_uri(store.storage.uri)  # a remote storage without a tracking server is refused before Ray starts
    from llmyard.runtime.session import session
    from llmyard.runtime.tracking import Tracking

    name = job.name if isinstance(job, Pipeline) else ""
    record = keep(store.storage, job.given())
    with session(address), Tracking(store.storage.uri) as tracking:
        yield Context(store, tracking, progress, force, name, record)


def states(job: AnyJob, store: ArtifactStore) -> list[str]:
    """Returns for each stage of a job whether it would "run" or "skip".

    A stage that takes what an earlier one is to make anew must run; what that one has made before is not looked at.
    """
    found: list[str] = []
    pending: set[tuple[str, str]] = set()
    for stage in stages_of(job):
        needed = {(kind, name.rpartition("/")[2]) for kind, name in inputs_of(stage)}
        finished = None
        if not needed & pending:
            with contextlib.suppress(MissingArtifact):
                finished = plan_stage(stage, store).finished
        if finished is not None:
            store = store.pinned(finished)
        else:
            pending |= {(ARTIFACT_KIND[stage.kind], stage.output)}
            pending |= {("tokenizer", stage.output)} if stage.kind == "prepare" else set()
        found.append("run" if finished is None else "skip")
    return found


def missing_inputs(job: AnyJob, store: ArtifactStore) -> list[str]:
    """Returns the artifacts that a job needs, that no earlier stage of it makes, and that are not in the store."""
    made = {("tokenizer", hub_name(init)) for stage in stages_of(job) for init in hub_models(stage)}  # taken in first
    missing = []
    for stage in stages_of(job):
        for kind, name in inputs_of(stage):
            bare = name if name.startswith(REGISTERED) else name.rpartition("/")[2].partition("@")[0]
            if (kind, bare) not in made and not _there(store, kind, name):
                missing.append(f"{stage.kind} {stage.output}: no {kind} {name!r}")
        made.add((ARTIFACT_KIND[stage.kind], stage.output))
        if stage.kind == "prepare":
            made.add(("tokenizer", stage.output))
        if stage.kind in ("evaluate", "sweep", "compress") and stage.register_as is not None:
            made.add(("checkpoint", f"{REGISTERED}{stage.register_as.name}@{stage.register_as.alias}"))
    return missing


def outer_inputs(job: AnyJob) -> list[tuple[str, str]]:
    """Returns (kind, reference) of the artifacts that a job takes and that no earlier stage of it makes."""
    made: set[tuple[str, str]] = set()
    found: list[tuple[str, str]] = []
    for stage in stages_of(job):
        found += [(kind, name) for kind, name in inputs_of(stage) if (kind, name.rpartition("/")[2]) not in made]
        made.add((ARTIFACT_KIND[stage.kind], stage.output))
        if stage.kind == "prepare":
            made.add(("tokenizer", stage.output))
    return list(dict.fromkeys(found))


def inputs_of(stage: AnyStage) -> list[tuple[str, str]]:
    """Returns (kind, reference) of the artifacts that a stage names; of a sweep those that its trials take."""
    if stage.kind == "sweep":
        return outer_inputs(stage.job)
    if stage.kind == "deploy":
        taken = [("index", stage.index)] if stage.index is not None else []
        return [("checkpoint", name) for name in stage.named if not name.startswith(HUB)] + taken
    if stage.kind == "command":
        return [(reference.partition("/")[0], reference) for reference in stage.takes.values()]
    named = [("records", name) for name in answers_of(stage)]
    if stage.kind == "prepare" and isinstance(stage.tokenizer, str):
        named.append(("tokenizer", stage.tokenizer))
    if stage.kind == "pretrain":
        named.append(("shards", stage.shards))
        named += [("shards", stage.replay.shards)] if stage.replay is not None else []
        named += [("checkpoint", stage.embedding_init)] if stage.embedding_init is not None else []
    if stage.kind == "finetune":
        named.append(("tokenizer", stage.tokenizer))
        named += [("checkpoint", stage.distillation.teacher)] if stage.distillation is not None else []
        translator = stage.augment.back_translate if stage.augment is not None else None
        named += [("checkpoint", translator)] if translator is not None else []
    if stage.kind == "evaluate":
        named += [("checkpoint", stage.checkpoint)] if stage.checkpoint is not None else []
        named += [("checkpoint", stage.compare_to)] if stage.compare_to is not None else []
        named += [("index", stage.retrieval.index)] if stage.retrieval is not None else []
    if stage.kind == "predict":
        named.append(("checkpoint", stage.checkpoint))
        named += [("shards", stage.shards)] if stage.shards is not None else []
    if stage.kind == "compress":
        named.append(("checkpoint", stage.checkpoint))
    if stage.kind == "index":
        named.append(("shards", stage.shards))
    if stage.kind in ("pretrain", "finetune") and stage.init != "scratch" and not hub_models(stage):
        named.append(("checkpoint", stage.init))
    return named


def _there(store: ArtifactStore, kind: str, reference: str) -> bool:
    try:
        if reference.startswith(REGISTERED):
            from llmyard.runtime.registry import resolve

            reference = resolve(reference, store.storage.uri)
        store.get(reference, None if "/" in reference else kind)
    except MissingArtifact:
        return False
    return True
