"""``quickstart``: the whole way, and one question per task at its end."""

from __future__ import annotations

import json
import secrets
import shlex
import socket
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell, command
from llmyard.core.errors import RequestError

JOB = "quickstart.yaml"
# MLflow's page opens on traces unless the address asks for the view of model training; `llmyard` is a store's first
# experiment.
RUNS_PAGE = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
MODELS = ("triples", "translator", "base")


def ready_job(name: str) -> Path:
    """Returns the path of a job file that comes with llmyard: from the checkout, or from the installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "jobs", package / "ready_jobs"):
        if (folder / name).is_file():
            return folder / name
    raise RequestError(f"the job file {name} is not installed", "run from a checkout, or install llmyard again")


def run_quickstart(
    shell: Shell, storage: str | None, overrides: Sequence[str], keep_serving: bool, force: bool
) -> None:
    """Runs the job, serves its models, asks, prints what to do next."""
    from llmyard.cli.jobs import checked_job, run_job

    checked_job(shell, ready_job(JOB), overrides, storage)  # a wrong request is told before Ray is imported
    from llmyard.runtime.session import session
    from llmyard.serving import keys
    from llmyard.serving.config import Endpoint
    from llmyard.serving.endpoint import serving, set_environment
    from llmyard.serving.replica import Opening

    console = shell.console()
    set_environment()
    console.print(say("starting_ray"), highlight=False)
    with session():  # one Ray for the job and the endpoint
        result = run_job(shell, ready_job(JOB), overrides, None, storage, force)
        store = shell.store(storage)
        models = [store.get(name, "checkpoint") for name in MODELS]
        console.print(f"\n{say('starting_endpoint')}")
        key = keys.PREFIX + secrets.token_urlsafe(32)  # for this endpoint only: it is not stored
        config = Endpoint(models=tuple(model.reference for model in models), port=free_port(8000))
        known = [keys.StoredKey(keys.hash_of(key))]
        with serving(config, Opening(tuple(models), MODELS, lambda: known, config.limits)) as url:
            answers = [ask(url, key, question) for question in questions()]
            for answer in answers:
                show(console, answer)
            if keep_serving:
                console.print(say("serving", models=", ".join(model.reference for model in models), url=url))
                console.print(say("key_once", key=key), highlight=False)
                next_steps(console, store.storage.uri)
                while True:
                    time.sleep(3600)
    console.print(say("stopped"))
    next_steps(console, store.storage.uri)
    shell.finish({**result, "answers": answers})


def questions() -> list[dict[str, Any]]:
    """Returns one held-out question per task and language, with the right answer where the world knows it."""
    from llmyard.sources.smallworld import SmallWorld

    world = SmallWorld("dev", 7)
    asked: list[dict[str, Any]] = []
    for index in (0, 1):
        pair = world.example("translation", "test", index)
        body = {"text": pair["source"], "target_language": pair["target_language"]}
        task = f"translation {pair['source_language']} → {pair['target_language']}"
        asked.append({"task": task, "route": "/v1/translate", "body": body, "right": pair["target"]})
    for index in (0, 1):
        record = world.example("knowledge_graph", "test", index)
        right = [(each["subject"], each["relation"], each["object"]) for each in record["triples"]]
        task = f"knowledge graph {record['language']}"
        asked.append({"task": task, "route": "/v1/extract", "body": {"text": record["text"]}, "right": facts(right)})
    chat = {"model": "base", "messages": [{"role": "user", "content": "In the end"}], "max_tokens": 40}
    asked.append({"task": "chat (base)", "route": "/v1/chat/completions", "body": chat, "right": ""})
    return asked


def facts(triples: Iterable[tuple[str, str, str]]) -> str:
    """Returns triples as one line."""
    return "; ".join(f"({', '.join(each)})" for each in sorted(triples))


def ask(url: str, key: str, question: dict[str, Any]) -> dict[str, str]:
    """Sends a question to the endpoint and returns it with its answer."""
    request = urllib.request.Request(
        url + question["route"],
        data=json.dumps(question["body"]).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        body = json.load(response)
    if "translation" in body:
        answer = body["translation"]
    elif "triples" in body:
        answer = facts((each["subject"], each["relation"], each["object"]) for each in body["triples"])
    else:
        answer = body["choices"][0]["message"]["content"]
    text = question["body"].get("text") or question["body"]["messages"][0]["content"]
    return {"task": question["task"], "question": text, "answer": " ".join(answer.split()), "right": question["right"]}


def show(console: Any, answer: dict[str, str]) -> None:
    """Prints a question, its answer and the right one."""
    from rich.markup import escape

    console.print(f"[bold]{answer['task']}[/]  {escape(answer['question'])}", highlight=False)
    console.print(f"  {say('answer')}: {escape(answer['answer'])}", highlight=False)
    if answer["right"]:
        console.print(f"  [dim]{say('right')}: {escape(answer['right'])}[/]", highlight=False)


def next_steps(console: Any, storage: str) -> None:
    """Prints the exact commands to go on with."""
    from rich.markup import escape

    where = f" --storage {shlex.quote(storage)}" if Path(storage) != Path(".llmyard").resolve() else ""
    llmyard = command()
    mlflow = Path(sys.executable).with_name("mlflow")
    steps = {
        "next_serve": f"{llmyard} serve triples translator base{where}",
        "next_runs": f"{llmyard} runs list{where}",
        "next_lineage": f"{llmyard} artifacts lineage models:/smallworld-triples@champion{where}",
        "next_mlflow": f"{mlflow} ui --backend-store-uri {shlex.quote(f'sqlite:///{storage}/mlflow.db')}",
        "next_own": f"{llmyard} init my-project",
    }
    console.print(f"\n{say('next')}")
    for key, step in steps.items():
        console.print(f"  {escape(step)}   [dim]# {say(key, page=RUNS_PAGE)}[/]", highlight=False, soft_wrap=True)


def free_port(wanted: int) -> int:
    """Returns the wanted port if it is free, else one that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
