"""What every stage is: parents resolved, skipped if its result exists, made under a lease, committed, tracked."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmyard.core.artifacts import Artifact, ArtifactStore, Draft, FileEntry, code_version
from llmyard.core.config import Config
from llmyard.core.errors import Pruned
from llmyard.core.fingerprint import fingerprint
from llmyard.core.job_record import submission_id
from llmyard.stages.config import ARTIFACT_KIND, AnyStage
from llmyard.stages.settling import settled


@dataclass(frozen=True)
class StageResult:
    """What a stage gives back.

    Attributes:
        artifacts: The stage's own artifact first; none of a stage that leaves none.
        metrics: Its key figures.
        seconds: Wall time; 0 when skipped.
        skipped: Whether an earlier run's artifact was taken.
        run_id: Its MLflow run; "" where there is none.
        live: What answers from now on; None of a stage that leaves an artifact.
    """

    kind: str
    artifacts: tuple[Artifact, ...]
    metrics: dict[str, float]
    seconds: float
    skipped: bool
    run_id: str
    live: Live | None = None

    @property
    def name(self) -> str:
        """The output of the stage, or the name of its endpoint."""
        return self.live.name if self.live is not None else self.artifacts[0].name

    @property
    def made(self) -> str:
        """The reference of the stage's artifact, or the first URL of its endpoint."""
        return self.live.urls[0] if self.live is not None else self.artifacts[0].reference


@dataclass(frozen=True)
class Live:
    """An endpoint that was deployed.

    Attributes:
        urls: Where it answers.
        models: References of the checkpoints that answer there.
    """

    name: str
    urls: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """What a stage's ``make`` leaves to be committed."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    files: Sequence[FileEntry] | None = None
    also: tuple[Artifact, ...] = ()
    extra_parents: tuple[str, ...] = ()


class Progress(Protocol):
    """Where a stage says how far it is."""

    def update(self, done: float, total: float, note: str = "", **figures: float) -> None:
        """Shows that ``done`` of ``total`` is done, with a note or figures by their names."""


@dataclass(frozen=True)
class Making:
    """What a stage works with.

    Attributes:
        draft: Its artifact in the making.
        parents: Its resolved inputs by role.
        run: Its tracking.
        progress: Its live view.
    """

    context: Context
    draft: Draft
    parents: Mapping[str, Artifact]
    run: Any
    progress: Progress


@dataclass(frozen=True)
class Context:
    """What all stages of a command share.

    Attributes:
        tracking: The connection to MLflow (``runtime.tracking.Tracking``).
        progress: Makes the live view of a stage: (stage number, stage) -> Progress.
        force: Run stages anew although their result exists.
        job: Digest of the whole job, as it is written down; "" where it is not.
        parent: Token of the tracked run above; "" for none.
        trial: Takes the figures of a trial on its way (``stages.sweeping.trial_run.Reporter``); None outside of sweeps.
    """

    store: ArtifactStore
    tracking: Any
    progress: Callable[[AnyStage], Progress]
    force: bool = False
    pipeline: str = ""
    job: str = ""
    parent: str = ""
    trial: Any = None

    def tracked(self, stage: AnyStage, made: str, parents: Mapping[str, Artifact]) -> Any:
        """Returns the context manager of a stage's MLflow run; one run for each reference of what is made, also after
        crashes.
        """
        from llmyard.core.tracking import Input, RunSpec
        from llmyard.runtime.tracking import StageRun

        inputs = tuple(
            Input(item.name, item.version, item.kind, item.uri, item.files_sha256) for item in parents.values()
        )
        spec = RunSpec(
            token=made,
            name=f"{stage.kind}-{stage.output}",
            config=stage.model_dump(mode="json"),
            inputs=inputs,
            params=_flat(stage.decisive()),
            tags={
                "llmyard.stage": stage.kind,
                "llmyard.pipeline": self.pipeline,
                "llmyard.job": self.job,
                "llmyard.submission": submission_id(),
            },
            code_version=code_version(),
            parent_token=self.parent,
        )
        return StageRun(self.tracking, spec)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns a config's values by their paths, as MLflow shows parameters; the whole is logged as a file too."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = str(value)[:500]
    return found


class StageModule(Protocol):
    """What a module of a stage defines."""

    REVISION: int

    def parents(self, config: Any, store: ArtifactStore) -> Mapping[str, Artifact]:
        """Returns the inputs by role; raises MissingArtifact."""

    def sources(self, config: Any, parents: Mapping[str, Artifact]) -> list[Any]:
        """Returns the listing of the files that the stage reads."""

    def make(self, config: Any, making: Making) -> Made:
        """Does the work."""


def module_of(stage: AnyStage) -> StageModule:
    """Returns the module that runs a stage; imported only now, since it may need torch."""
    return importlib.import_module(f"llmyard.stages.{stage.kind}")


@dataclass(frozen=True)
class Plan:
    """Whether a stage must run, found out without running anything."""

    parents: Mapping[str, Artifact]
    fingerprint: str
    finished: Artifact | None


def plan_stage(stage: AnyStage, store: ArtifactStore) -> Plan:
    """Returns a stage's resolved parents and fingerprint, and the finished artifact that makes it unnecessary."""
    stage, module = settled(stage, store), module_of(stage)
    parents = module.parents(stage, store)
    print_ = stage_fingerprint(stage, module, parents)
    finished = None if _is_live(stage) else store.find(ARTIFACT_KIND[stage.kind], stage.output, print_)
    return Plan(parents, print_, finished)


def _is_live(stage: AnyStage) -> bool:
    """Whether what a stage does is of this moment: another model may answer at its endpoint by now."""
    return stage.kind == "deploy" or (stage.kind == "evaluate" and stage.endpoint is not None)


def stage_fingerprint(config: Config, module: StageModule, parents: Mapping[str, Artifact]) -> str:
    """Returns the fingerprint of a stage: config, revision, parents, listing of sources."""
    return fingerprint(
        config=config.decisive(),
        revision=module.REVISION,
        parents={role: parent.reference for role, parent in parents.items()},
        sources=module.sources(config, parents),
    )


def skip(stage: AnyStage, done: Artifact, store: ArtifactStore) -> StageResult:
    """Takes the finished artifact of an equal run."""
    store.settle(done)
    if stage.kind in ("evaluate", "sweep", "compress") and stage.register_as is not None:
        from llmyard.stages.registering import keep_alias

        made = done.reference if stage.kind == "compress" else str(done.details["checkpoint"])
        keep_alias(stage.register_as, done, made, store)
    return StageResult(stage.kind, (done,), done.metrics, 0.0, True, str(done.details.get("mlflow_run", "")))


def run_stage(stage: AnyStage, context: Context) -> StageResult:
    """Runs a stage, or takes the finished artifact of an equal run."""
    began, stage = time.monotonic(), settled(stage, context.store)
    plan = plan_stage(stage, context.store)
    kind = ARTIFACT_KIND[stage.kind]
    if plan.finished is not None and not context.force:
        return skip(stage, plan.finished, context.store)
    if stage.kind == "deploy":
        from llmyard.stages.deploy import deployed

        return deployed(stage, plan.parents, context)
    with (
        context.store.begin(kind, stage.output, plan.fingerprint) as draft,
        context.tracked(stage, draft.reference, plan.parents) as run,
    ):
        try:
            made = module_of(stage).make(stage, Making(context, draft, plan.parents, run, context.progress(stage)))
        except Pruned:
            draft.discard()
            raise
        parents = [item.reference for item in plan.parents.values()] + list(made.extra_parents)
        artifact = draft.commit(
            config=stage.model_dump(mode="json"),
            parents=list(dict.fromkeys(parents)),
            metrics=made.metrics,
            details={**made.details, "mlflow_run": run.run_id() or ""},
            files=made.files,
        )
        run.result(artifact.metrics, artifact.reference, artifact.uri)
    seconds = time.monotonic() - began
    return StageResult(stage.kind, (artifact, *made.also), made.metrics, seconds, False, artifact.details["mlflow_run"])
