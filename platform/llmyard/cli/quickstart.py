"""``quickstart``: the whole way, and one question per task at its end."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell
from llmyard.core.errors import RequestError

JOB = "quickstart.yaml"
QUESTIONS = Path(__file__).with_name("questions.yaml")
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
    from llmyard.cli.jobs import run_job
    from llmyard.runtime.session import session
    from llmyard.serving import keys
    from llmyard.serving.config import Endpoint
    from llmyard.serving.endpoint import serving

    console = shell.console()
    with session():  # one Ray for the job and the endpoint
        result = run_job(shell, ready_job(JOB), overrides, None, storage, force)
        store = shell.store(storage)
        models = [store.get(name, "checkpoint") for name in MODELS]
        console.print(f"\n{say('starting_endpoint')}")
        key = keys.new_key(store.storage)
        config = Endpoint(models=tuple(model.reference for model in models), port=free_port(8000))
        with serving(config, models, keys.hashes(store.storage)) as url:
            answers = [ask(url, key, question) for question in questions()]
            for answer in answers:
                console.print(
                    f"[bold]{answer['task']}[/]  {answer['question']}\n  -> {answer['answer']}", highlight=False
                )
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
    """Returns the questions that are asked, each with the route it goes to."""
    import yaml

    asked: list[dict[str, Any]] = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    return asked


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
        answer = "; ".join(f"({each['subject']}, {each['relation']}, {each['object']})" for each in body["triples"])
    else:
        answer = body["choices"][0]["message"]["content"]
    return {"task": question["task"], "question": question["shown"], "answer": " ".join(answer.split())}


def next_steps(console: Any, storage: str) -> None:
    """Prints the exact commands to go on with."""
    where = f" --storage {storage}" if Path(storage) != Path(".llmyard").resolve() else ""
    steps = {
        "next_serve": f"llmyard serve triples translator base{where}",
        "next_runs": f"llmyard runs list{where}",
        "next_lineage": f"llmyard artifacts lineage models:/smallworld-triples@champion{where}",
        "next_mlflow": f"mlflow ui --backend-store-uri sqlite:///{storage}/mlflow.db",
        "next_own": "llmyard init my-project",
    }
    console.print(f"\n{say('next')}")
    for key, command in steps.items():
        console.print(f"  {command}   [dim]# {say(key)}[/]", highlight=False, soft_wrap=True)


def free_port(wanted: int) -> int:
    """Returns the wanted port if it is free, else one that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
