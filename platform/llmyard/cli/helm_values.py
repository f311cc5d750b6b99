"""A job as values of the Helm chart: an endpoint, a job on a cluster of its own, or one after the other."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llmyard.cli.messages import say
from llmyard.core.errors import RequestError

if TYPE_CHECKING:
    from llmyard.serving.config import Canary, Limits
    from llmyard.stages.config import AnyJob
    from llmyard.stages.deploy_config import Deploy
    from llmyard.stages.placement import Demand

POOL, POOL_CPUS = "cpu", 4
"""The chart's own pool, and the CPUs of its workers."""
TIMEOUT_SECONDS, MAX_ONGOING = 300, 64
"""Where the chart's proxy gives up, and most requests of a replica."""
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_NAME_LENGTH = 28  # of one that is made here: KubeRay takes 47 characters, with those of the release before it
_MOUNTED = re.compile(r"/storage(/.*)?")  # where the chart mounts a claim
_LIMITS = {
    "max_body_bytes": "maxBodyBytes", "body_seconds": "bodySeconds", "max_new_tokens": "maxNewTokens",
    "max_tokens_under_way": "maxTokensUnderWay", "deadline_seconds": "deadlineSeconds",
}  # fmt: skip
_CANARY = {
    "weight": "weight", "least_requests": "leastRequests", "most_failing": "mostFailing", "most_slower": "mostSlower",
}  # fmt: skip


def values_of(
    file: Path, job: AnyJob, overrides: Sequence[str], storage: str | None, name: str | None
) -> dict[str, Any]:
    """Returns the values for a job file; what a job cannot say (image, Secrets, network) is left to the site's own.

    Args:
        file: The job file.
        job: What it says, with the overrides.
        overrides: Of the user.
        storage: As it was given on the command line.
        name: What the values call it; None for the job's own name.

    Raises:
        RequestError: It names what only this machine has, or cannot be named so.
    """
    from llmyard.stages.carrying import pack
    from llmyard.stages.config import Pipeline, deployed_by
    from llmyard.stages.placement import demands

    where, tracking = _storage(storage, job), _tracking()
    pack(file, overrides, job, where, carries=False)
    found: dict[str, Any] = {}
    if where:
        found["storage"] = {"uri": where}
    if tracking:
        found["mlflow"] = {"trackingUri": tracking}
    if _asks_the_hub(job):
        found["hub"] = {"offline": False}
    deploy, pools = deployed_by(job), _Pools()
    if deploy is not None:
        found["endpoints"] = {_named(name, deploy.endpoint, file): _endpoint(deploy, pools)}
    before = job.model_copy(update={"stages": job.stages[:-1]}) if isinstance(job, Pipeline) and deploy else job
    if job is not deploy and not (isinstance(before, Pipeline) and not before.stages):
        text = file.read_text(encoding="utf-8")
        sets = list(overrides)
        if isinstance(job, Pipeline) and deploy is not None:
            text = without_last_stage(text)
            sets = [each for each in sets if not each.startswith(f"stages.{len(job.stages) - 1}.")]
        called = job.name if isinstance(job, Pipeline) else job.output
        workers = pools.workers(demands(before))
        found["jobs"] = {
            _named(name, called, file): {
                "job": text, **({"set": sets} if sets else {}), "workers": workers, "autoscaling": _scales(workers),
            }
        }  # fmt: skip
    return {**found, **({"pools": pools.made} if pools.made else {})}


def written(values: Mapping[str, Any], file: str) -> str:
    """Returns values as a file, whose comments say how it is used.

    Args:
        values: As :func:`values_of` returns them.
        file: What the comments call it.
    """
    lines = [f"helm upgrade --install llmyard helm/llmyard -f SITE.yaml -f {file}", *say("values_site").splitlines()]
    if "jobs" in values and "endpoints" in values:
        lines += say("values_both").splitlines()
    body = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return "".join(f"# {line}\n" for line in lines) + body


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _storage(storage: str | None, job: AnyJob) -> str:
    """Returns where artifacts are for the pods; "" where nobody says."""
    from llmyard.core.storage import Storage
    from llmyard.core.submission import check_storage

    given = storage or getattr(job, "storage", None) or os.environ.get("LLMYARD_STORAGE")
    if not given:
        return ""
    found = Storage.resolve(given)
    if not found.is_local:
        check_storage(found.uri, is_local=False, is_shared=False)
        return found.uri
    if not _MOUNTED.fullmatch(given):
        raise RequestError(
            f"the storage {given} is on this machine: pods do not see it",
            "give --storage s3://BUCKET/FOLDER, or /storage/FOLDER of the claim that the site's values name",
        )
    return given


def _tracking() -> str:
    from llmyard.core.submission import environment

    try:
        return environment((), os.environ).get("MLFLOW_TRACKING_URI", "")
    except RequestError as refused:
        raise RequestError(refused.what, "set it to a server that the pods reach, or unset it") from None


def _asks_the_hub(job: AnyJob) -> bool:
    from llmyard.sources.config import HubDataset
    from llmyard.stages.carrying import configs
    from llmyard.stages.config import deployed_by, hub_models, stages_of
    from llmyard.stages.naming import HUB

    deploy = deployed_by(job)
    named = [name for stage in stages_of(job) for name in hub_models(stage)]
    named += [name for name in (deploy.named if deploy is not None else ()) if name.startswith(HUB)]
    return bool(named) or any(isinstance(config, HubDataset) for _, config in configs(job))


def _named(given: str | None, called: str, file: Path) -> str:
    """Returns a name that the chart takes, of letters that Kubernetes takes."""
    if given is not None:
        if not _NAME.fullmatch(given):
            raise RequestError(f"--name {given!r}", "lower-case letters, digits and -, at most 40, a letter first")
        return given
    for each in (called, file.stem):
        plain = re.sub(r"[^a-z0-9]+", "-", each.lower()).strip("-")[:_NAME_LENGTH].strip("-")
        if _NAME.fullmatch(plain):
            return plain
    raise RequestError(f"{called!r} cannot be a name in Kubernetes", "give --name")


class _Pools:
    """Kinds of workers: the chart's own, and those that a job needs beside it."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def workers(self, demands: Sequence[Demand]) -> dict[str, Any]:
        """Returns how many workers of which pool hold what must be held at one time."""
        with_gpus = [each for each in demands if each.each.get("GPU", 0) > 0]
        found = self._group(with_gpus) if with_gpus else {}
        there = sum(size["minReplicas"] for size in found.values()) * POOL_CPUS
        others = [
            each for each in demands if each not in with_gpus and _cpus(each) * max(each.count, each.most) > there
        ]
        return found | (self._group(others) if others else {})

    def _group(self, demands: Sequence[Demand]) -> dict[str, Any]:
        cpus = max(POOL_CPUS, *(math.ceil(_cpus(each)) for each in demands))
        gpus = max(math.ceil(each.each.get("GPU", 0)) for each in demands)
        name = "-".join(
            ["gpu" if gpus else POOL, *([str(gpus)] if gpus > 1 else []), *([str(cpus)] * (cpus > POOL_CPUS))]
        )
        pool = ({"cpu": cpus} if cpus > POOL_CPUS else {}) | ({"gpus": gpus} if gpus else {})
        if pool:
            self.made[name] = pool

        def workers(count: int, each: Mapping[str, float]) -> int:
            rooms = [cpus // each["CPU"]] if each.get("CPU") else []
            rooms += [gpus // each["GPU"]] if each.get("GPU") else []
            return math.ceil(count / max(1, min(rooms)))

        least = max(workers(each.count, each.each) for each in demands)
        most = max(workers(_most(each), each.each) for each in demands)
        return {name: {"minReplicas": least, "maxReplicas": max(least, most)}}


def _cpus(demand: Demand) -> float:
    return demand.each.get("CPU", 0.0)


def _most(demand: Demand) -> int:
    return max(demand.count, demand.most)


def _scales(workers: Mapping[str, Any]) -> bool:
    return any(size["minReplicas"] != size["maxReplicas"] for size in workers.values())


def _endpoint(deploy: Deploy, pools: _Pools) -> dict[str, Any]:
    from llmyard.stages.placement import demands

    scale = deploy.scale
    (demand,) = demands(deploy)
    workers = pools.workers([demand])
    # Two replicas are on two workers: one of these may be lost.
    ((pool, size),) = workers.items()
    least = max(size["minReplicas"], 2) if scale.least > 1 else scale.least and size["minReplicas"]
    workers = {pool: {"minReplicas": least, "maxReplicas": max(least, size["maxReplicas"])}}
    replica = {
        "cpus": scale.cpus, "minReplicas": scale.least, "maxReplicas": scale.most,
        "targetOngoingRequests": max(1, round(scale.requests_per_replica)),
        "upscaleDelaySeconds": round(scale.up_seconds), "downscaleDelaySeconds": round(scale.down_seconds),
    }  # fmt: skip
    if replica["targetOngoingRequests"] > MAX_ONGOING:
        replica["maxOngoingRequests"] = replica["targetOngoingRequests"]
    found: dict[str, Any] = {"models": list(deploy.models)}
    if deploy.index is not None:
        found["index"] = deploy.index
    if deploy.canaries:
        found["canaries"] = [_canary(each) for each in deploy.canaries]
    found |= _limits(deploy.limits) | {"replica": replica, "workers": workers, "autoscaling": _scales(workers)}
    if least < 2:
        found["minAvailable"] = 0  # else no node with it could be drained
    if not deploy.haproxy:
        found["haproxy"] = {"enabled": False}
    return found


def _canary(canary: Canary) -> dict[str, Any]:
    usual = {name: field.default for name, field in type(canary).model_fields.items()}
    set_ = {theirs: getattr(canary, ours) for ours, theirs in _CANARY.items() if getattr(canary, ours) != usual[ours]}
    return {"model": canary.model, "beside": canary.beside, **set_}


def _limits(limits: Limits) -> dict[str, Any]:
    usual = type(limits)()
    found = {theirs: getattr(limits, ours) for ours, theirs in _LIMITS.items()
             if getattr(limits, ours) != getattr(usual, ours)}  # fmt: skip
    if limits.deadline_seconds > TIMEOUT_SECONDS:
        found["requestTimeoutSeconds"] = math.ceil(limits.deadline_seconds) + 60
    words = limits.harmful_words
    if words is not None:
        found["harmfulWords"] = {
            "lists": list(words.lists), "harmless": list(words.harmless), "maxDensity": words.max_density,
        }  # fmt: skip
    return found


def without_last_stage(text: str) -> str:
    """Returns a pipeline's text without its last stage, with the comments of the others."""
    from llmyard.core.positions import read_yaml

    wanted = dict(read_yaml(text).data)
    wanted["stages"] = wanted["stages"][:-1]
    cut = _cut(text)
    try:
        if cut is not None and read_yaml(cut).data == wanted:
            return cut
    except yaml.YAMLError:
        pass
    return yaml.dump(wanted, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _cut(text: str) -> str | None:
    """Returns a text without the lines of the last item of `stages`; None where that shares lines with others."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    stages = next((value for key, value in root.value if key.value == "stages"), None)
    if stages is None or stages.flow_style:
        return None
    lines = text.splitlines(keepends=True)
    begin, end = stages.value[-1].start_mark.line, stages.end_mark.line
    while begin > 0 and not lines[begin].lstrip().startswith("-"):
        begin -= 1
    while begin > 0 and lines[begin - 1].lstrip().startswith("#"):  # what is said of it
        begin -= 1
    return "".join(lines[:begin] + (lines[end:] if stages.end_mark.column == 0 else []))
