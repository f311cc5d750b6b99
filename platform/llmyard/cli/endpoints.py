"""``endpoints``: what answers on a cluster: list, stop."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from llmyard.cli.cluster_jobs import ClusterAddress
from llmyard.cli.messages import say
from llmyard.cli.shell import Json, shell

app = typer.Typer(help="The endpoints that `deploy` left on a Ray cluster: list, stop.", no_args_is_help=True)


@app.command("list")
def list_endpoints(address: ClusterAddress, as_json: Json = False) -> None:
    """List what answers on the cluster, where, and with how many replicas."""
    from llmyard.runtime.submission import Dashboard
    from llmyard.serving.deployed import running

    shell.json = as_json
    found = running(Dashboard(address))
    if shell.json:
        shell.finish({"endpoints": [asdict(each) for each in found]})
        return
    rows = [
        {
            "endpoint": each.name,
            "status": each.status,
            "replicas": f"{each.replicas}/{each.wanted}",
            "deployed": time.strftime("%Y-%m-%d %H:%M", time.localtime(each.deployed)),
            "url": " ".join(each.urls),
            "said": each.said.strip().partition("\n")[0],
        }
        for each in found
    ]
    shell.table(rows, "endpoints")


@app.command()
def stop(
    name: Annotated[str, typer.Argument(help="As `endpoints list` shows it.")],
    address: ClusterAddress,
    as_json: Json = False,
) -> None:
    """Stop an endpoint; what it has begun to answer is answered first."""
    from llmyard.runtime.submission import Dashboard
    from llmyard.serving.deployed import end

    def tell(replicas: int) -> None:
        if not shell.json:
            typer.echo(say("endpoint_ending", name=name, count=replicas))

    shell.json = as_json
    end(Dashboard(address), name, tell)
    if not shell.json:
        typer.echo(say("endpoint_ended", name=name))
    shell.finish({"endpoint": name, "status": "stopped"})
