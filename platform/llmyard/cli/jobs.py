"""``run`` and ``check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell, command
from llmyard.core.errors import LlmyardError, MissingArtifact, RequestError
from llmyard.core.jobfile import load_job, place_of
from llmyard.core.storage import Storage
from llmyard.stages.config import AnyJob, AnyStage, Pipeline, Sweep, deployed_by, hub_models, job_adapter, stages_of
from llmyard.stages.sizing import size_of


def load(path: Path, overrides: Sequence[str]) -> AnyJob:
    """Returns the validated job of a file."""
    job: AnyJob = load_job(path, job_adapter(), overrides)
    return job


def run_job(
    shell: Shell,
    path: Path,
    overrides: Sequence[str],
    address: str | None,
    storage: str | None,
    force: bool,
    profile: bool = False,
    promote: str | None = None,
) -> dict[str, Any]:
    """Runs a job with its live view and returns what ``--json`` prints."""
    from llmyard.cli.sweeps import trials_table
    from llmyard.cli.view import JobView, duration, results_table
    from llmyard.stages.run import run

    job, store = checked_job(shell, path, overrides, storage, address)
    job = profiled(job) if profile else job
    job = promoted(job, promote) if promote is not None else job
    console = shell.console()
    with JobView(console, live=console.is_terminal, stages=len(stages_of(job))) as view:
        results = run(
            job, storage=store.storage.uri, address=address, force=force, progress=view.stage, on_result=view.result
        )
    console.print(results_table(results))
    for result in results:
        if result.kind == "sweep":
            console.print(trials_table(result.artifacts[0]))
    console.print(say("total", seconds=duration(sum(result.seconds for result in results))))
    made = [
        {"kind": item.kind, "name": item.name, "version": item.version, "path": item.uri, "metrics": item.metrics}
        for result in results
        for item in result.artifacts
    ]
    live = [
        {"name": result.live.name, "urls": list(result.live.urls), "models": list(result.live.models)}
        for result in results
        if result.live is not None
    ]
    return {"artifacts": made, **({"endpoints": live} if live else {}), "error": None}


def promoted(job: AnyJob, alias: str) -> AnyJob:
    """Returns a job whose last stage registers its result under an alias.

    Raises:
        RequestError: It ends in a stage that chooses no model, or no model can have this alias.
    """
    from pydantic import ValidationError

    last = stages_of(job)[-1]
    if last.kind not in ("sweep", "compress", "evaluate"):
        raise RequestError(
            f"--promote: the job ends in {last.kind}, which judges no model", "end it with sweep, compress or evaluate"
        )
    to = {"name": last.register_as.name if last.register_as is not None else last.output, "alias": alias}
    try:
        changed = type(last).model_validate({**last.model_dump(exclude_unset=True), "register_as": to})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RequestError(f"--promote: {said}", "give another alias, or another `output`") from None
    if isinstance(job, Pipeline):
        return job.model_copy(update={"stages": (*job.stages[:-1], changed)})
    return changed


def profiled(job: AnyJob) -> AnyJob:
    """Returns a job whose trainings trace some steps; those that say which are left as they are."""
    from llmyard.training.seeing import Profile

    def traced(stage: Any) -> Any:
        trains = stage.kind in ("pretrain", "finetune") and stage.profile is None
        return stage.model_copy(update={"profile": Profile()}) if trains else stage

    if isinstance(job, Pipeline):
        return job.model_copy(update={"stages": tuple(traced(stage) for stage in job.stages)})
    found: AnyJob = traced(job)
    return found


def checked_job(
    shell: Shell, path: Path, overrides: Sequence[str], storage: str | None, address: str | None = None
) -> tuple[AnyJob, Any]:
    """Returns a job that can begin, and its store: what is wrong with either is said before Ray starts.

    Raises:
        RequestError: The file, its sources, an artifact it names or the storage is.
    """
    from llmyard.stages.run import missing_inputs

    job = load(path, overrides)
    check_files(job, path, overrides)
    store = shell.store(storage or getattr(job, "storage", None))
    missing = missing_inputs(job, store)
    if missing:
        raise MissingArtifact(
            "; ".join(missing), f"make them first, or name another --storage than {store.storage.uri}"
        )
    check_space(store.storage)
    if address is None:
        check_memory(job, store)
    try:
        store.storage.makedirs("")
    except LlmyardError as error:
        raise RequestError(error.what, error.remedy) from None
    return job, store


def check_files(job: AnyJob, path: Path, overrides: Sequence[str]) -> None:
    """Raises RequestError if sources' files or a model of the hub are not there, with the place that names them."""
    from llmyard.sources.corpus import check_source
    from llmyard.stages.first_examples import refuse_misread

    for at, stage in _placed(job):
        named = [((*at, "sources", number), each) for number, each in enumerate(getattr(stage, "sources", ()) or ())]
        data = getattr(stage, "data", None)
        named += [((*at, "data"), data)] if data is not None else []
        others = getattr(stage, "also", ())
        named += [((*at, "also", number, "data"), each.data) for number, each in enumerate(others)]
        for init in hub_models(stage):
            from llmyard.stages.bases import check_hub

            try:
                check_hub(init)
            except RequestError as refused:
                place = place_of(path, overrides, (*at, "init"))
                raise RequestError(f"{place}: {refused.what}", refused.remedy) from None
        for where, source in named:
            fault = check_source(source)
            if fault is not None:
                field, error = fault
                place = place_of(path, overrides, (*where, *field))
                raise RequestError(f"{place}: {error.what}", error.remedy)
        refuse_misread(stage, partial(_place_below, path, overrides, at))


def _place_below(path: Path, overrides: Sequence[str], at: tuple[str | int, ...], field: Sequence[str | int]) -> str:
    return place_of(path, overrides, (*at, *field))


def _placed(job: AnyJob, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], AnyStage]]:
    """Yields where each stage stands in a job file, those that a sweep tries out instead of the sweep."""
    for index, stage in enumerate(stages_of(job)):
        place = (*at, "stages", index) if isinstance(job, Pipeline) else at
        if isinstance(stage, Sweep):
            yield from _placed(stage.job, (*place, "job"))
        else:
            yield place, stage


def check_space(storage: Any) -> None:
    """Raises RequestError if a local storage cannot be written or its disk is nearly full; makes nothing."""
    import os
    import shutil

    if not storage.is_local:
        return
    there = storage.uri
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise RequestError(f"the storage {storage.uri} cannot be made: {there} is no folder", "give another --storage")
    if not os.access(there, os.W_OK):
        raise RequestError(f"the storage {storage.uri} cannot be written", "give another --storage")
    free = shutil.disk_usage(there).free
    if free < 500e6:
        raise RequestError(
            f"only {free / 1e6:.0f} MB are free at {storage.uri}", "free some space, or give another --storage"
        )


def check_job(
    shell: Shell,
    path: Path,
    overrides: Sequence[str],
    storage: str | None,
    price: float | None,
    address: str | None = None,
) -> None:
    """Validates and prints the plan."""
    from llmyard.cli.view import columns
    from llmyard.stages.run import missing_inputs, states

    job = load(path, overrides)
    check_files(job, path, overrides)
    store = shell.store(storage or getattr(job, "storage", None))
    check_space(store.storage)
    if address is None:
        check_memory(job, store)
    elif address.startswith(("http://", "https://")):
        from llmyard.cli.submit import check_cluster

        check_cluster(address, job, lambda place: place_of(path, overrides, place))
    if deployed_by(job) is not None:
        _note_no_key(store.storage)
    missing = missing_inputs(job, store)
    planned = zip(stages_of(job), states(job, store), strict=True)
    rows = [describe(stage, state, job, store, price) for stage, state in planned]
    whole = {key: sum(float(row.get(key) or 0) for row in rows) for key in ("device-hours", "cost")}
    if not shell.json:
        total = dict.fromkeys(rows[0], "") | {"stage": "total", "device-hours": f"{whole['device-hours']:.3g}"}
        total |= {"cost": f"{whole['cost']:.2f}"} if price is not None else {}
        shell.console().print(columns([*rows, total] if len(rows) > 1 else rows))
    if missing:
        raise MissingArtifact("; ".join(missing), "make them first, or name another --storage")
    shell.finish({"plan": rows, "total": whole})


def _note_no_key(storage: Storage) -> None:
    from llmyard.serving.keys import stored

    if not stored(storage):
        typer.echo(say("no_key", command=command(), storage=storage.uri), err=True)


def describe(stage: AnyStage, state: str, job: AnyJob, store: Any, price: float | None) -> dict[str, Any]:
    """Returns what is known of a stage before it runs; nothing of what it takes where it is skipped. Of a sweep: what
    all its trials would take that were as large as the job in the file and ran to their end.
    """
    row: dict[str, Any] = {"stage": stage.kind, "output": stage.output, "state": state}
    row |= {"parameters": "", "memory a worker": "", "tokens": "", "device-hours": ""}
    if price is not None:
        row["cost"] = ""
    if state == "skip":
        return row
    if stage.kind == "prepare":
        from llmyard.stages.preparing.estimate import estimate

        about = estimate(stage)
        row["memory a worker"] = f"{about.worker_bytes / 1e6:,.0f} MB"
        row["tokens"] = f"{about.tokens:,}"
        row["device-hours"] = f"{about.cpu_seconds / 3600:.3g}"
        if price is not None:
            row["cost"] = f"{about.cpu_seconds / 3600 * price:.2f}"
    times = trials_of(stage) if stage.kind == "sweep" else 1
    if stage.kind == "sweep" and times:
        row["output"] = say("times", output=stage.output, trials=times)
    sizes = [size for each in _trained(stage) if (size := _size(each, stage, job, store)) is not None]
    if sizes and times:
        row["parameters"] = f"{max(each.parameters for each in sizes):,}"
        row["memory a worker"] = f"{max(each.worker_bytes for each in sizes) / 1e6:,.0f} MB"
        row["tokens"] = f"{times * sum(each.tokens for each in sizes):,}"
        hours = times * sum(each.hours for each in sizes)
        row["device-hours"] = f"{hours:.3g}"
        if price is not None:
            row["cost"] = f"{hours * price:.2f}"
    return row


def trials_of(sweep: Sweep) -> int:
    """Returns how many trainings a sweep's trials are at most, all seeds counted; 0 where time or steps end it."""
    from llmyard.sweeps.searchers import planned

    return (planned(sweep) or 0) * sweep.seeds


def _trained(stage: AnyStage) -> list[Any]:
    """Returns a stage that trains, or those of a sweep's trials as they stand in the job file."""
    inner = stages_of(stage.job) if stage.kind == "sweep" else (stage,)
    return [each for each in inner if each.kind in ("pretrain", "finetune")]


def _size(training: Any, stage: AnyStage, job: AnyJob, store: Any) -> Any:
    around = stage.job if stage.kind == "sweep" else job
    vocabulary = vocabulary_of(training, around, store) or vocabulary_of(training, job, store)
    return size_of(training, vocabulary, base_of(training, around, store))


_SURELY = 2 / 3  # of an estimate that is right within a third


def check_memory(job: AnyJob, store: Any) -> None:
    """Raises RequestError if a stage that is to run surely needs more memory than this machine has."""
    import psutil

    from llmyard.stages.run import states

    for number, stage in enumerate(stages_of(job)):
        if stage.kind not in ("pretrain", "finetune") or stage.resources.gpus_per_worker:
            continue
        found = size_of(stage, vocabulary_of(stage, job, store), base_of(stage, job, store))
        needed = found.worker_bytes * stage.resources.least if found is not None else 0
        there = psutil.virtual_memory().total
        if needed * _SURELY > there and states(job, store)[number] == "run":
            raise RequestError(
                f"{stage.kind} {stage.output}: {stage.resources.least} workers need some {needed / 1e9:,.1f} GB, this "
                f"machine has {there / 1e9:,.1f}",
                "take a smaller model or batch.micro_batch, divide the model with parallel.shard over more machines "
                "(--address), or set activation_checkpointing: true",
            )


def base_of(stage: Any, job: AnyJob, store: Any) -> Any:
    """Returns the shape of the model that a training goes on from: of a stage of the job, else of a checkpoint in the
    store; None where it is not known, as of a model of a hub.
    """
    from pydantic import TypeAdapter, ValidationError

    from llmyard.models.config import ModelChoice

    if stage.init == "scratch" or hub_models(stage):
        return None
    stages = list(stages_of(job))
    before = stages[: next(at for at, each in enumerate(stages) if each is stage)]
    # Only an earlier stage is meant: one that goes on from its own name means what the store has.
    for other in reversed(before):
        if other.kind in ("pretrain", "finetune") and other.output == stage.init:
            return other.model or base_of(other, job, store)
    try:
        return TypeAdapter(ModelChoice).validate_python(store.get(stage.init, "checkpoint").config.get("model"))
    except (MissingArtifact, ValidationError):
        return None


def vocabulary_of(stage: Any, job: AnyJob, store: Any) -> int:
    """Returns the size of a stage's vocabulary, from the stage that trains it or from the store; 0 if unknown."""
    name = stage.shards if stage.kind == "pretrain" else stage.tokenizer
    try:
        for other in stages_of(job):
            if other.kind != "prepare" or other.output != name or isinstance(other.tokenizer, str):
                continue
            if other.tokenizer.kind == "extension":
                base = store.get(other.tokenizer.extend, "tokenizer")
                return int(base.details["vocab_size"]) + other.tokenizer.new_tokens
            return other.tokenizer.vocab_size
        return int(store.get(name, "tokenizer").details["vocab_size"])
    except MissingArtifact:
        return 0
