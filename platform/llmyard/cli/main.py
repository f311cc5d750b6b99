"""The command line: thin verbs over the stages; heavy imports happen inside them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmyard.cli import artifacts as artifacts_commands
from llmyard.cli import cluster_jobs, endpoints
from llmyard.cli import keys as keys_commands
from llmyard.cli import runs as runs_commands
from llmyard.cli.messages import say
from llmyard.cli.shell import Json, Set, Shell, StorageOption, shell

app = typer.Typer(
    help="llmyard: raw text in, an authenticated endpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(artifacts_commands.app, name="artifacts")
app.add_typer(runs_commands.app, name="runs")
app.add_typer(cluster_jobs.app, name="jobs")
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(keys_commands.app, name="keys")

JobFile = Annotated[Path, typer.Argument(help="A job file; ready ones are in jobs/.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster; by default a private Ray on this machine.")]
Force = Annotated[bool, typer.Option("--force", help="Run stages anew although nothing changed.")]

Detach = Annotated[bool, typer.Option("--detach", help="Come back at once; `llmyard jobs` shows the rest.")]
Variables = Annotated[
    list[str] | None,
    typer.Option("--env", help="Name of a variable to take along beside AWS_*, HF_* and MLFLOW_*; repeatable."),
]
GivenId = Annotated[str | None, typer.Option("--id", help="Submission id; by default made of the job.")]
Code = Annotated[
    Literal["here", "image"] | None,
    typer.Option(help="Whose llmyard runs: this one, carried along, or the one in the cluster's image."),
]
SharedPaths = Annotated[
    bool, typer.Option("--shared-paths", help="The cluster sees the same files under the same paths.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from llmyard.core.artifacts import code_version

        typer.echo(code_version())
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
]


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False, version: Version = False
) -> None:
    """Options before the command."""
    shell.debug = debug


@app.command(help=say("quickstart_help"))
def quickstart(
    storage: StorageOption = None,
    overrides: Set = None,
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the endpoint running.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    from llmyard.cli.quickstart import run_quickstart

    shell.json = as_json
    run_quickstart(shell, storage, overrides or [], keep_serving, force)


@app.command()
def run(
    job: JobFile,
    overrides: Set = None,
    address: Address = None,
    storage: StorageOption = None,
    force: Force = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace some training steps; the trace lies in the checkpoint's folder.")
    ] = False,
    promote: Annotated[
        str | None,
        typer.Option(help="Register what the job's last sweep, compression or evaluation ends in under this alias."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a job; finished stages are skipped, interrupted ones continued."""
    from llmyard.cli.jobs import run_job

    shell.json = as_json
    shell.finish(run_job(shell, job, overrides or [], address, storage, force, profile, promote))


@app.command()
def submit(
    job: JobFile,
    address: cluster_jobs.ClusterAddress,
    overrides: Set = None,
    storage: StorageOption = None,
    detach: Detach = False,
    force: Force = False,
    environment: Variables = None,
    given_id: GivenId = None,
    code: Code = None,
    shared_paths: SharedPaths = False,
    as_json: Json = False,
) -> int:
    """Run a job on a Ray cluster, driver and all; the same job that runs there already is followed instead."""
    from llmyard.cli.submit import submit_job

    shell.json = as_json
    return submit_job(
        shell, job, address, overrides or [], storage, names=environment or (), given_id=given_id, code=code,
        is_shared=shared_paths, force=force, detach=detach,
    )  # fmt: skip


@app.command()
def deploy(
    job: JobFile,
    address: Annotated[
        str | None, typer.Option(help="Deploy to this cluster: its dashboard, such as http://HEAD:8265.")
    ] = None,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Write values of the Helm chart instead, of this or any other job.")
    ] = False,
    overrides: Set = None,
    storage: StorageOption = None,
    output: Annotated[Path | None, typer.Option(help="File for the values; standard output without.")] = None,
    name: Annotated[str | None, typer.Option(help="What the values call it; by default as the job does.")] = None,
    detach: Detach = False,
    force: Force = False,
    environment: Variables = None,
    given_id: GivenId = None,
    code: Code = None,
    shared_paths: SharedPaths = False,
    as_json: Json = False,
) -> int:
    """Put checkpoints behind an endpoint that stays: on a Ray cluster (--address), or through the Helm chart
    (--kubernetes).
    """
    from llmyard.cli.deploy import deploy_to_cluster, refuse_options, write_values
    from llmyard.core.errors import RequestError

    shell.json = as_json
    if address is None and not kubernetes:
        address = os.environ.get("RAY_API_SERVER_ADDRESS")  # as `submit` and `jobs` have it
    if (address is None) != kubernetes:
        what = "--address and --kubernetes" if kubernetes else "neither --address nor --kubernetes"
        raise RequestError(f"{what}: deploy where?", "give one of them; `llmyard serve` serves models here")
    if address is None:
        of_clusters = {"--detach": detach, "--force": force, "--env": environment, "--id": given_id, "--code": code,
                       "--shared-paths": shared_paths}  # fmt: skip
        refuse_options(of_clusters, "--address")
        write_values(shell, job, overrides or [], storage, output, name)
        return 0
    refuse_options({"--output": output, "--name": name}, "--kubernetes")
    return deploy_to_cluster(
        shell, job, address, overrides or [], storage, names=environment or (), given_id=given_id, code=code,
        is_shared=shared_paths, force=force, detach=detach,
    )  # fmt: skip


@app.command()
def check(
    job: JobFile,
    overrides: Set = None,
    storage: StorageOption = None,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="Price of one worker's device an hour.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="A cluster instead of this machine; of a dashboard's http:// address it is also asked for room."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate a job without starting anything; print what would run, its size and its cost."""
    from llmyard.cli.jobs import check_job

    shell.json = as_json
    check_job(shell, job, overrides or [], storage, price, address)


@app.command()
def serve(
    models: Annotated[list[str], typer.Argument(help="Checkpoints: NAME[@VERSION] or models:/NAME@ALIAS.")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine only by default.")] = "127.0.0.1",
    new_key: Annotated[bool, typer.Option("--new-key", help="Make another API key and print it.")] = False,
    index: Annotated[
        str | None, typer.Option(help="An index, NAME[@VERSION]: questions without a text are answered from it.")
    ] = None,
    replicas: Annotated[
        str, typer.Option(help="How many processes answer: N, or LEAST-MOST, by what is asked; 0-2 begins with none.")
    ] = "1",
    haproxy: Annotated[
        bool,
        typer.Option(
            "--haproxy",
            help="HAProxy before the replicas: several times faster. Their own ports then listen at the same host, and "
            "ask for a key too.",
        ),
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Serve models on this machine, with API keys and a page to try them."""
    from llmyard.cli.serve import serve_models

    serve_models(shell, models, (host, port), new_key, index, replicas, haproxy, storage)


@app.command()
def ask(
    model: Annotated[str, typer.Argument(help="A checkpoint: NAME[@VERSION] or models:/NAME@ALIAS.")],
    text: Annotated[str, typer.Argument(help="The text to translate, summarise, tag or go on with; the question.")],
    target: Annotated[
        str | None,
        typer.Option(help="Translation: the language to translate into, en or zh; by default the other one."),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Question answering: the text in which to look for the answer.")
    ] = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """One answer without a server."""
    from llmyard.cli.serve import ask_model

    shell.json = as_json
    ask_model(shell, model, text, target, context, storage)


@app.command(help=say("recommend_help"))
def recommend(
    task: Annotated[str | None, typer.Argument(help="Such as translation, classification or pretraining.")] = None,
    languages: Annotated[str, typer.Option(help="zh, en or zh,en.")] = "zh,en",
    examples: Annotated[int | None, typer.Option(min=1, help="Examples; documents for pretraining.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an example on average, with its answer.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs; by default those of this machine.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=1, help="GB of each GPU.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores; by default those of this machine.")] = None,
    memory: Annotated[float | None, typer.Option(min=1, help="GB of RAM.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.01, help="How long training may take.")] = None,
    interactive: Annotated[bool, typer.Option("--interactive/--batch", help="Whether somebody waits.")] = True,
    open_domain: Annotated[bool, typer.Option("--open-domain", help="Answers stand in no given text.")] = False,
    structured: Annotated[bool, typer.Option("--structured", help="Answers must follow a schema.")] = False,
    long_texts: Annotated[bool, typer.Option("--long", help="Texts of thousands of tokens.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Nothing can be downloaded.")] = False,
    data: Annotated[str | None, typer.Option(help="Your examples (or texts, for pretraining), for the job.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write a job file.")] = None,
    choice: Annotated[int, typer.Option(help="Which suggestion to explain and to write.")] = 1,
    listing: Annotated[bool, typer.Option("--list", help="Print the known models and data sets.")] = False,
    as_json: Json = False,
) -> None:
    from llmyard.cli.recommend import give_advice, hardware_of, print_catalogue, question_of

    shell.json = as_json
    if listing:
        print_catalogue(shell)
        return
    asked = question_of(
        task, languages, examples=examples, tokens=tokens, hours=hours, interactive=interactive,
        open_domain=open_domain, structured=structured, long_texts=long_texts, offline=offline,
        hardware=hardware_of(gpus, gpu_memory, cpus, memory),
    )  # fmt: skip
    give_advice(shell, asked, data, output, choice)


@app.command()
def doctor(storage: StorageOption = None, as_json: Json = False) -> None:
    """Check this machine: Python, packages, CPUs, memory, disk, shared memory, ports, storage."""
    from llmyard.cli.doctor import examine

    shell.json = as_json
    examine(shell, storage)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write the files of a new project: a job on your own text and pairs, sample data, a README."""
    from llmyard.cli.init import write_project

    write_project(shell, folder)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    from llmyard.stages.config import job_adapter

    typer.echo(json.dumps(job_adapter().json_schema(), indent=1, ensure_ascii=False))


INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 failed, 2 wrong request, 130 interrupted."""
    from llmyard.core.errors import LlmyardError

    given = sys.argv[1:] if arguments is None else arguments
    shell.found, shell.has_told = {}, False
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        result: Any = app(given, standalone_mode=False)
        # Typer turns Ctrl-C into this code by itself.
        return shell.interrupted() if result == INTERRUPTED and not shell.has_told else int(result or 0)
    except LlmyardError as error:
        return shell.failed(error)
    except KeyboardInterrupt:
        return shell.interrupted()
    except typer.Exit as leave:
        return int(leave.exit_code)
    except SystemExit as leave:
        if leave.code == signal.SIGTERM:  # it came while Ray started, whose own handler ends the process so
            return shell.interrupted()
        return shell.unexpected(leave)
    except Exception as error:
        return shell.unexpected(error)


def _interrupt(number: int, frame: object) -> None:
    """Makes SIGTERM end a command as Ctrl-C does: leases given back, the run marked KILLED, Ray stopped."""
    raise KeyboardInterrupt


def script() -> None:
    """Entry point of the ``llmyard`` command."""
    code = main()
    session = sys.modules.get("llmyard.runtime.session")
    if session is not None and session.is_lost():
        # Ray's own way out waits for the node process that died, and then ends this one with another code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


__all__ = ["Shell", "app", "main", "script"]
