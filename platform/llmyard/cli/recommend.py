"""``llmyard recommend``: which model, size, method and settings, with reasons and a job file."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llmyard.cli.messages import say as command_says
from llmyard.cli.shell import Shell, command
from llmyard.core.errors import RequestError

if TYPE_CHECKING:
    from llmyard.advice.question import Hardware, Question
    from llmyard.advice.recommend import Suggestion

_PROBE_SECONDS = 10


def hardware_of(gpus: int | None, gpu_memory: float | None, cpus: int | None, memory: float | None) -> Hardware:
    """Returns the machine that was described; what was left out is this machine's.

    Raises:
        RequestError: GPUs are named, but not how much memory each has.
    """
    import psutil

    from llmyard.advice.question import Hardware

    here = gpus_here() if gpus is None and cpus is None and gpu_memory is None else []
    if gpus and not gpu_memory:
        known = gpus_here()
        if not known:
            raise RequestError(f"--gpus {gpus} says not how much memory each has", "add --gpu-memory GB, such as 24")
        gpu_memory = known[0]
    if gpu_memory and not gpus:
        gpus = 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(
        gpus=gpus if gpus is not None else len(here),
        gpu_memory_gb=gpu_memory or (min(here) if here else 0),
        cpus=cpus or cores,
        memory_gb=memory or round(psutil.virtual_memory().total / 1e9, 1),
    )


def gpus_here() -> list[float]:
    """Returns the memory of each of this machine's GPUs in GB, as nvidia-smi tells it; none without that program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [round(int(line) * 1.048576e6 / 1e9, 1) for line in answer.split() if line.isdigit()]


def question_of(task: str | None, languages: str, **fields: Any) -> Question:
    """Returns the checked question.

    Raises:
        RequestError: A value is wrong.
    """
    from pydantic import ValidationError

    from llmyard.advice.question import Language, Question, TaskName

    tasks = get_args(TaskName)
    named = (task or "").replace("-", "_")
    if named not in tasks:
        near = [each for each in tasks if named and named in each] or difflib.get_close_matches(named, tasks, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        what = f"there is no task {task!r}" if task else "no task is named"
        raise RequestError(what, f"{hint}one of: {', '.join(tasks)}; `--list` shows models and data sets")
    asked = tuple(dict.fromkeys(part.strip() for part in languages.split(",") if part.strip()))
    wrong = [each for each in asked if each not in get_args(Language)]
    if wrong or not asked:
        what = f"{', '.join(wrong)} is not known" if wrong else "no language is named"
        raise RequestError(f"--languages {languages!r}: {what}", "give zh, en or zh,en")
    try:
        return Question.model_validate({"task": named, "languages": asked, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{place}: {first['msg']}, not {first['input']!r}", "see --help") from None


def give_advice(shell: Shell, question: Question, data: str | None, output: Path | None, choice: int) -> None:
    """Prints suggestions with reasons, and writes the job of one of them.

    Raises:
        RequestError: There is no such suggestion, or the file cannot be written.
    """
    from llmyard.advice.recommend import recommend

    found = recommend(question, data)
    if not 1 <= choice <= len(found):
        raise RequestError(f"--choice {choice}: there are {len(found)} suggestions", f"give 1 to {len(found)}")
    if output is not None:
        write_job(found[choice - 1], question, data, output)
    if not shell.json:
        print_advice(shell, found, question, choice)
    if output is not None:
        _tell(shell, output)
    shell.finish(
        {
            "question": question.model_dump(mode="json"),
            "suggestions": [as_plain(each) for each in found],
            "datasets": _datasets(question),
            "output": None if output is None else str(output),
        }
    )


def write_job(chosen: Suggestion, question: Question, data: str | None, output: Path) -> None:
    """Writes a job file that validates.

    Raises:
        RequestError: The file exists, or cannot be written.
    """
    from llmyard.advice.jobs import header_of, text_of_job
    from llmyard.core.jobfile import parse_job
    from llmyard.stages.config import job_adapter

    text = text_of_job(chosen.job, header_of(chosen.candidate, question, data))
    parse_job(text, str(output), job_adapter())  # a fault of the rules would be said here, not after hours
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RequestError(f"{output} exists", "name another --output, or remove it") from None
    except OSError as error:
        raise RequestError(f"cannot write {output}: {error.strerror}", "name a file that can be written") from None


def _tell(shell: Shell, output: Path) -> None:
    console = shell.console()
    console.print(command_says("wrote", file=output), highlight=False, soft_wrap=True)
    llmyard = command()
    steps = f"{llmyard} check {output} && {llmyard} run {output}"
    console.print(f"{command_says('next')} {steps}", highlight=False, soft_wrap=True)


def as_plain(suggestion: Suggestion) -> dict[str, Any]:
    """Returns a suggestion as JSON data; sentences are in the user's language."""
    from llmyard.advice.texts import said

    candidate, plan = suggestion.candidate, suggestion.candidate.plan
    memory = plan.memory
    model = candidate.published
    return {
        "model": suggestion.name,
        "family": candidate.family,
        "parameters": candidate.shape.parameters,
        "start": candidate.start,
        "method": candidate.method,
        "learning_rate": plan.learning_rate,
        "optimizer": plan.optimizer,
        "batch": plan.batch,
        "micro_batch": plan.way.micro_batch,
        "steps": plan.steps,
        "epochs": round(plan.epochs, 2),
        "sequence_length": plan.way.length,
        "workers": plan.workers,
        "memory_bytes": {
            "weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer,
            "activations": memory.activations, "rest": memory.rest, "total": memory.total,
            "available": plan.available,
        },
        "fits": candidate.fits,
        "hours": round(candidate.hours, 2),
        "licence": None if model is None else model.licence,
        "source": None if model is None else model.source,
        "merit": round(suggestion.merit, 2),
        "reasons": [{"topic": each.topic, "key": each.key, "text": said(each)} for each in suggestion.reasons],
        "job": suggestion.job,
    }  # fmt: skip


def print_advice(shell: Shell, found: list[Suggestion], question: Question, choice: int) -> None:
    """Prints what was asked, the suggestions as a table, all reasons of one, and why the others are there."""
    from llmyard.advice.reasons import TOPICS
    from llmyard.advice.texts import said, say

    console = shell.console()
    console.print(_asked(question), highlight=False)
    console.print()
    console.print(_table(found))
    chosen = found[choice - 1]
    console.print()
    console.print(say("first", number=choice, model=chosen.name), style="bold", highlight=False)
    for topic in TOPICS:
        told = [said(each) for each in chosen.reasons if each.topic == topic]
        if told:
            console.print(f"  {say(f'topic {topic}')}", style="bold", highlight=False)
        for sentence in told:
            console.print(f"    - {sentence}", highlight=False, markup=False)
    others = [(number, each) for number, each in enumerate(found, start=1) if number != choice]
    if others:
        console.print()
        console.print(say("others"), style="bold", highlight=False)
    for number, each in others:
        why = " ".join(said(reason) for reason in each.reasons if reason.topic == "start")
        console.print("  " + say("other", number=number, model=each.name, why=why), highlight=False, markup=False)


def _asked(question: Question) -> str:
    from llmyard.advice.candidates import examples_of, tokens_of
    from llmyard.advice.texts import say

    machine = question.hardware
    described = (
        say("machine gpu", gpus=machine.gpus, gb=machine.gpu_memory_gb)
        if machine.has_gpus
        else say("machine cpu", cpus=machine.cpus, gb=machine.memory_gb)
    )
    return say(
        "asked", task=say(f"task {question.task}"), machine=described, examples=examples_of(question),
        tokens=tokens_of(question), languages=" + ".join(say(f"language {each}") for each in question.languages),
    )  # fmt: skip


def _table(found: list[Suggestion]) -> Any:
    from rich.table import Table

    from llmyard.advice.recommend import short
    from llmyard.advice.texts import say

    table = Table(show_edge=False, pad_edge=False)
    keys = ("rank", "model", "parameters", "start", "method", "rate", "batch", "steps", "memory", "hours", "fits")
    for key in keys:
        table.add_column(say(f"column {key}"), overflow="fold", no_wrap=key != "model")
    for number, each in enumerate(found, start=1):
        candidate, plan = each.candidate, each.candidate.plan
        table.add_row(
            str(number), each.name, short(candidate.shape.parameters), say(f"start {candidate.start}"),
            say(f"way {candidate.method}"), f"{plan.learning_rate:.0e}", f"{plan.batch} ({plan.way.micro_batch})",
            f"{plan.steps:,}", f"{plan.memory.total / 1e9:.1f}", f"{candidate.hours:.2g}",
            say("fits yes" if candidate.fits else "fits no"),
        )  # fmt: skip
    return table


def _datasets(question: Question) -> list[dict[str, Any]]:
    from llmyard.advice.catalogue import datasets_for

    return [each.model_dump(mode="json") for each in datasets_for(question.task, question.languages)]


def print_catalogue(shell: Shell) -> None:
    """Prints all models and data sets that llmyard knows of."""
    from llmyard.advice.catalogue import catalogue
    from llmyard.advice.listing import dataset_rows, model_rows
    from llmyard.advice.texts import say
    from llmyard.core.language import user_language

    if shell.json:
        known = catalogue()
        models = [each.model_dump(mode="json") | {"use": each.use, "tasks": each.tasks} for each in known.models]
        shell.finish({"models": models, "datasets": [each.model_dump(mode="json") for each in known.datasets]})
        return
    from rich.table import Table

    console = shell.console()
    for title, rows in (("list models", model_rows(user_language())), ("list datasets", dataset_rows(user_language()))):
        table = Table(title=say(title), title_justify="left", show_edge=False, pad_edge=False)
        for key in rows[0]:
            table.add_column(say(f"column {key}"), overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
        console.print()
