"""``sweep``: trials of a job with other settings, on Ray Tune; the best one's result is kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import LlmyardError, MissingArtifact, RequestError
from llmyard.stages.config import ARTIFACT_KIND, AnyStage, Evaluate, Sweep, stages_of
from llmyard.stages.origins import training_of
from llmyard.stages.proof import proven
from llmyard.stages.registering import register
from llmyard.stages.stage import Made, Making, module_of, run_stage
from llmyard.stages.sweeping.trial_stages import own_places, shared_stages
from llmyard.sweeps.searchers import importance, planned
from llmyard.sweeps.trial import Trial, best_of, front_of

REVISION = 1
_JOURNAL = "_making/trials"


def parents(config: Sweep, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns what the job takes that none of its stages makes.

    Raises:
        MissingArtifact: Something of it is not there.
    """
    from llmyard.stages.run import outer_inputs

    return {f"{kind}:{name}": store.get(name, None if "/" in name else kind) for kind, name in outer_inputs(config.job)}


def sources(config: Sweep, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listings of the files that the job's stages read."""
    found: list[Any] = []
    for stage in stages_of(config.job):
        try:
            found.append(module_of(stage).sources(stage, {}))
        except KeyError:  # of what is made on the way nothing is known yet; it has a fingerprint of its own
            found.append(stage.output)
    return found


def make(config: Sweep, making: Making) -> Made:
    """Runs the trials, keeps what the best ones made, and writes the tables and the page."""
    from llmyard.runtime.tuner import Referee, room_for, run_trials
    from llmyard.stages.sweeping.journal import Journal
    from llmyard.stages.sweeping.trial_run import TrialWork, run_trial

    context, draft = making.context, making.draft
    store = context.store
    shared: list[Artifact] = []
    for stage in shared_stages(config):
        result = run_stage(stage, replace(context, store=store, parent=making.run.spec.token))
        shared += result.artifacts
        for artifact in result.artifacts:
            store = store.pinned(artifact)
    own = [stages_of(config.job)[place] for place in own_places(config)]
    needs = _needs(own)
    room = room_for(needs.cpus, needs.gpus, config.concurrent, holds_cpus=needs.is_alone, holds_gpus=needs.is_here)
    referee = Referee.start(Journal, draft.storage, f"{draft.folder}/{_JOURNAL}", config)
    pinned = tuple({each.reference: each for each in [*making.parents.values(), *shared]}.values())
    work = TrialWork(
        config, draft.storage, context.tracking.service, referee, making.run.spec.token, context.job, pinned,
        needs.is_here, max(1, int(needs.cpus)),
    )  # fmt: skip
    try:
        run_trials(run_trial, work, referee, room, _Watch(config, referee, making))
        trials: list[Trial] = referee.ask("all")
        seconds = float(referee.ask("seconds"))
        best = best_of(trials, config.objective)
        if best is None:
            raise _nothing(config, trials)
        _keep(config, trials, store, referee)
        trials = referee.ask("all")
    finally:
        referee.end()
    return _made(config, making, trials, best, seconds)


@dataclass(frozen=True)
class _Needs:
    """What a trial takes.

    Attributes:
        cpus: Of all its processes at once.
        gpus: The same.
        is_here: Whether what trains does so in the trial's own process: with one worker.
        is_alone: Whether no other process works for it. If others do, it must not hold the CPUs that they wait for.
    """

    cpus: float
    gpus: float
    is_here: bool
    is_alone: bool


def _needs(stages: Sequence[AnyStage]) -> _Needs:
    cpus, gpus, is_here, is_alone = [1.0], [0.0], True, True
    for stage in stages:
        if stage.kind == "command":
            cpus.append(stage.resources.cpus)
            gpus.append(stage.resources.gpus)
            continue
        is_alone &= stage.kind == "pretrain" and stage.objective.kind != "skip_gram"  # the others read on Ray Data
        if stage.kind in ("pretrain", "finetune"):
            cpus.append(stage.resources.least * stage.resources.cpus_per_worker)
            gpus.append(stage.resources.least * stage.resources.gpus_per_worker)
            is_here &= stage.resources.most == 1
    return _Needs(max(cpus), max(gpus), is_here, is_alone and is_here)


class _Watch:
    """Tells the live view how far the sweep is."""

    def __init__(self, config: Sweep, referee: Any, making: Making) -> None:
        self._config, self._referee, self._progress = config, referee, making.progress
        self._total = planned(config)

    def __call__(self) -> None:
        count, best = self._referee.ask("standing")
        note = f"{count['running']} running, {count['pruned']} pruned, {count['failed']} failed"
        if best is not None:
            number, value = best
            note = f"best {self._config.objective.metric} {value:.4g} (trial {number}), {note}"
        trials = sum(count.values())
        self._progress.update(trials - count["running"], max(self._total or trials, 1), note)


def _nothing(config: Sweep, trials: Sequence[Trial]) -> LlmyardError:
    failed = [each for each in trials if each.state == "failed"]
    if failed:
        return RequestError(
            f"no trial of {len(trials)} finished; trial {failed[0].number} with {dict(failed[0].values)}: "
            f"{failed[0].why}",
            "mend what it says, or the space",
        )
    return RequestError(
        f"no trial of {len(trials)} finished with a number as its {config.objective.metric}",
        "allow more trials, a smaller learning rate, or later stopping",
    )


def _keep(config: Sweep, trials: Sequence[Trial], store: ArtifactStore, referee: Any) -> None:
    """Removes what all trials but the best ones made."""
    objectives = config.objectives
    ranked = sorted(
        (each for each in trials if each.state == "finished"),
        key=lambda each: (objectives[0].cost(each.value(objectives[0]) or 0.0), each.number),
    )
    kept = {each.number for each in [*ranked[: config.keep], *(front_of(trials, objectives) if config.also else [])]}
    for each in ranked:
        if each.number in kept or not each.artifact:
            continue
        try:
            made = [each.artifact, *(item.reference for _, item in store.lineage(store.get(each.artifact)))]
            own = [name for name in dict.fromkeys(made) if f"-{config.output}-{each.number:04d}" in name]
        except MissingArtifact:  # removed by an attempt before
            own = []
        mark = f"-{config.output}-{each.number:04d}-"
        reports = [item.reference for name in store.storage.folders("report") if mark in f"{name}-"
                   for item in store.versions("report", name)]  # fmt: skip
        for name in dict.fromkeys([*reports, *own]):
            with contextlib.suppress(MissingArtifact, RequestError):  # gone, or used by something else by now
                store.remove(name)
        referee.ask("drop", each.number)
    _sweep_up(config, [each.number for each in trials if each.number not in kept], store)


def _sweep_up(config: Sweep, numbers: Sequence[int], store: ArtifactStore) -> None:
    """Removes the folders in which trials have left nothing."""
    for place in own_places(config):
        stage = stages_of(config.job)[place]
        kind = ARTIFACT_KIND[stage.kind]
        wanted = {f"{stage.output}-{config.output}-{number:04d}" for number in numbers}
        for name in store.storage.folders(kind):
            is_ours = name in wanted or (config.seeds > 1 and name.rpartition("-")[0] in wanted)
            if is_ours and next(iter(store.storage.list(f"{kind}/{name}", recursive=True)), None) is None:
                store.storage.delete_folder(f"{kind}/{name}")


def _checkpoint_of(made: Artifact, store: ArtifactStore) -> Artifact | None:
    """Returns the checkpoint that a trial ended in, or whose report it ended in."""
    if made.kind == "checkpoint":
        return made
    named = made.details.get("checkpoint") if made.kind == "report" else None
    return store.get(str(named)) if named else None


def _law(config: Sweep, making: Making, trials: Sequence[Trial]) -> dict[str, Any]:
    """Draws the scaling law of the trials and returns it; where they determine none, why."""
    from llmyard.stages.scaling_report import pages
    from llmyard.sweeps.scaling import fit, points_of, resample

    assert config.scaling is not None
    best: dict[tuple[float, float], Any] = {}
    for point in points_of(trials, config.objective.metric):  # where rates were searched too, the best rate counts
        at = (point.parameters, point.tokens)
        best[at] = min(best.get(at, point), point, key=lambda each: each.loss)
    points = [best[at] for at in sorted(best)]
    try:
        law = fit(points)
        drawn = pages(config.output, points, law, resample(points), config.scaling.budgets)
    except RequestError as refused:
        return {"refused": f"{refused.what}: {refused.remedy}"}
    for name, page in drawn.items():
        making.draft.keep(name, page.encode())
    return asdict(law)


def _made(config: Sweep, making: Making, trials: Sequence[Trial], best: Trial, seconds: float) -> Made:
    from llmyard.stages.sweep_report import pages

    draft = making.draft
    draft.keep("trials.jsonl", "".join(f"{each.to_json()}\n" for each in trials).encode())
    found = {
        "values": dict(best.values), "metrics": dict(best.metrics), "trial": best.number, "artifact": best.artifact,
        "run": best.run,
    }  # fmt: skip
    draft.keep("best.json", json.dumps(found, ensure_ascii=False, indent=1).encode())
    weights = importance(config, trials)
    spent = {
        "seconds": seconds, "trial_seconds": sum(each.seconds for each in trials),
        "steps": float(sum(each.steps for each in trials)),
    }  # fmt: skip
    for name, page in pages(config.output, config, trials, weights, spent).items():
        draft.keep(name, page.encode())
    law = _law(config, making, trials) if config.scaling is not None else {}
    more = ["scaling.html", "scaling.zh.html"] if "irreducible" in law else []
    making.run.attach(["report.html", "report.zh.html", *more, "trials.jsonl", "best.json"])
    states = ("finished", "pruned", "failed")
    metrics = {f"trials_{state}": float(sum(each.state == state for each in trials)) for state in states}
    metrics |= {**best.metrics, **spent}
    also: tuple[Artifact, ...] = (making.context.store.get(best.artifact),) if best.artifact else ()
    front = [each.number for each in front_of(trials, config.objectives)]
    details: dict[str, Any] = {"best": found, "importance": weights, "front": front}
    details |= {"scaling": law} if law else {}
    checkpoint = _checkpoint_of(also[0], making.context.store) if also else None
    if checkpoint is not None:
        details["checkpoint"] = checkpoint.reference
        if config.register_as is not None:
            judged = _judged(config, making, also[0], checkpoint)
            details["parity"] = proven(checkpoint, checkpoint, _questions(config, checkpoint), making)
            details["registered"] = register(config.register_as, making, checkpoint, {**best.metrics, **judged.metrics})
            also = (*also, judged) if judged is not also[0] else also
    return Made(metrics, details, also=also, extra_parents=tuple(each.reference for each in also))


def _judged(config: Sweep, making: Making, made: Artifact, checkpoint: Artifact) -> Artifact:
    """Returns the report on the winner: what its trial ended in, or one that is made now."""
    if made.kind == "report":
        return made
    context = making.context
    inner = replace(context, store=context.store.pinned(checkpoint), parent=making.run.spec.token)
    return run_stage(_questions(config, checkpoint), inner).artifacts[0]


def _questions(config: Sweep, checkpoint: Artifact) -> Evaluate:
    """Returns the evaluation of the winner: the job's own, or of what is held out."""
    last = stages_of(config.job)[-1]
    if last.kind == "evaluate":
        return last.model_copy(update={"output": f"{config.output}-best", "checkpoint": checkpoint.reference})
    split = "validation" if training_of(checkpoint).get("kind") == "pretrain" else "test"
    return Evaluate(output=f"{config.output}-best", checkpoint=checkpoint.reference, splits=(split,))
