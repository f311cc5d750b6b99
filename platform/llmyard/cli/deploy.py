"""``deploy``: a job that ends in an endpoint, on a running cluster or as values of the Helm chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from llmyard.cli.messages import say
from llmyard.cli.shell import Shell
from llmyard.cli.submit import Code, submit_job
from llmyard.core.errors import RequestError


def refuse_options(given: Mapping[str, Any], needed: str) -> None:
    """Raises RequestError if an option is set that means something only with another one."""
    for option, value in given.items():
        if value:
            raise RequestError(f"{option} goes with {needed}", "leave it out")


def deploy_to_cluster(
    shell: Shell,
    file: Path,
    address: str,
    overrides: Sequence[str],
    storage: str | None,
    *,
    names: Sequence[str],
    given_id: str | None,
    code: Code | None,
    is_shared: bool,
    force: bool,
    detach: bool,
) -> int:
    """Submits a job that deploys what it ends in, and follows it; returns the job's own exit code.

    Raises:
        RequestError: It does not end in `deploy`, or as of `submit`.
    """
    from llmyard.cli.jobs import load
    from llmyard.stages.config import deployed_by, stages_of

    job = load(file, overrides)
    if deployed_by(job) is None:
        raise RequestError(
            f"{file} ends in {stages_of(job)[-1].kind}, which is no endpoint",
            "end it with a stage of kind `deploy`; `llmyard submit` runs any other job on the cluster",
        )
    return submit_job(
        shell, file, address, overrides, storage, names=names, given_id=given_id, code=code, is_shared=is_shared,
        force=force, detach=detach,
    )  # fmt: skip


def write_values(
    shell: Shell, file: Path, overrides: Sequence[str], storage: str | None, output: Path | None, name: str | None
) -> None:
    """Writes the values with which the Helm chart runs a job, or the endpoint that it ends in.

    Raises:
        RequestError: It names what only this machine has, or the file cannot be written.
    """
    from llmyard.cli.helm_values import values_of, written
    from llmyard.cli.jobs import load

    job = load(file, overrides)
    found = values_of(file, job, overrides, storage, name)
    text = written(found, str(output) if output is not None else "FILE")
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{output} cannot be written: {error.strerror}", "give another --output") from None
    typer.echo(say("wrote", file=output), err=True)
