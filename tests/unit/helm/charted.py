"""The chart rendered: objects, the pods that KubeRay makes of them, and values of a site that uses everything."""

from __future__ import annotations

import copy
import functools
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
HELM = ROOT / "helm"
CHART = HELM / "llmyard"
FIXTURES = ROOT.parent / "shared" / "fixtures"
PROFILES = ("small", "gpu", "production")
RELEASE, NAMESPACE = "rel", "llmyard"
Object = dict[str, Any]


@functools.cache
def script(name: str) -> Any:
    """Returns a script of helm/ as a module."""
    spec = importlib.util.spec_from_file_location(f"helm_{name}", HELM / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as `helm -f base -f over` has them: maps are merged, null takes a key away from the defaults."""
    out = dict(copy.deepcopy(base))
    for key, value in over.items():
        both_maps = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both_maps else copy.deepcopy(value)
    return out


def at(path: str, value: Any) -> dict[str, Any]:
    """Returns values with one set: keys are separated by dots."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def loaded(text: str) -> Any:
    """Returns the content of a YAML text; some times faster than yaml.safe_load."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def profile(name: str) -> dict[str, Any]:
    """Returns the values of a profile, with those of a site that names what the profile leaves to it."""
    return merged(loaded((CHART / f"values-{name}.yaml").read_text(encoding="utf-8")), SITE)


def objects(rendered: Mapping[str, str]) -> Iterator[tuple[str, Object]]:
    """Yields the objects of a rendering, each with its template's name."""
    for path, text in rendered.items():
        if path.endswith(".yaml"):
            for found in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if found:
                    yield Path(path).name, found


def pods(found: Object) -> Iterator[Object]:
    """Yields the pods that an object makes, as Pods and Jobs that checkers understand.

    The autoscaler's container, which KubeRay adds to heads, has the options that the object gives it.
    """
    name, spec = found["metadata"]["name"], found.get("spec", {})
    if found["kind"] == "Job":
        yield found
    cluster = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}.get(found["kind"])
    cluster_spec = spec if found["kind"] == "RayCluster" else spec.get(cluster)
    if found["kind"] == "RayJob" and "submitterPodTemplate" in spec:
        yield _object("batch/v1", "Job", f"{name}-submitter", {"template": spec["submitterPodTemplate"]})
    if cluster_spec is None:
        return
    head = copy.deepcopy(cluster_spec["headGroupSpec"]["template"])
    head["metadata"]["labels"]["ray.io/node-type"] = "head"
    yield _pod(f"{name}-head", head)
    for group in cluster_spec["workerGroupSpecs"]:
        worker = copy.deepcopy(group["template"])
        worker["metadata"]["labels"]["ray.io/node-type"] = "worker"
        yield _pod(f"{name}-{group['groupName']}", worker)


def autoscaler(cluster_spec: Object, image: str) -> Object:
    """Returns the container that KubeRay adds to a head."""
    options = copy.deepcopy(cluster_spec["autoscalerOptions"])
    taken = ("resources", "securityContext", "env", "volumeMounts", "imagePullPolicy")
    return {"name": "autoscaler", "image": image, **{key: options[key] for key in taken}}


def cluster_of(found: Object) -> Object:
    """Returns the RayClusterSpec in a RayService, RayCluster or RayJob."""
    spec: Object = found["spec"]
    spec = spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec
    return spec


def _pod(name: str, template: Object) -> Object:
    return _object("v1", "Pod", name, template["spec"], template["metadata"]["labels"])


def _object(version: str, kind: str, name: str, spec: Object, labels: Mapping[str, str] | None = None) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": dict(labels or {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


JOB = """\
kind: pretrain
output: base
shards: my-corpus
steps: 1000000
learning_rate: 3.0e-4   # of $HOME, "quoted": 'twice'
"""

# What profiles leave to a site. Every part of the chart is in use, as far as the profiles go together with it.
SITE: dict[str, Any] = {
    "image": {"registry": "registry.example.com:5000", "digest": f"sha256:{'0123456789abcdef' * 4}"},
    "auth": {"existingSecret": "ray-token"},
    "apiKeys": {"existingSecret": "api-keys"},
    "storage": {"uri": "s3://artifacts/llmyard", "s3": {"region": "eu-1", "credentialsSecret": "s3"}},
    "mlflow": {"trackingUri": "http://mlflow.mlflow:5000", "credentialsSecret": "mlflow"},
    "gcsFaultTolerance": {"redisAddress": "redis.redis:6379", "passwordSecret": {"name": "redis"}},
    "endpoints": {
        "chat": {
            "models": ["checkpoint/chat@20270101T000000-abcdef", "models:/zh-en@champion"],
            "ingress": {"enabled": True, "className": "nginx", "host": "chat.example.com", "tlsSecret": "chat-tls"},
        },
        "facts": {"models": ["triples"], "httpRoute": {"enabled": True, "hostnames": ["facts.example.com"]}},
    },
    "gateway": {"enabled": True, "className": "istio", "tlsSecret": "gateway-tls"},
    "cluster": {"enabled": True},
    "jobs": {
        "train": {"job": JOB, "set": ["model.layers=4", "note=it's"]},
        "shared": {"job": JOB, "shared": True},
    },
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "clusterClients": [{"podSelector": {"matchLabels": {"app": "notebook"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": {
            "storage": {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [443]},
            "mlflow": {"to": [{"namespaceSelector": {}, "podSelector": {}}], "ports": [5000]},
            "redis": {"to": [{"ipBlock": {"cidr": "10.2.0.0/16", "except": ["10.2.3.0/24"]}}], "ports": [6379]},
        },
    },
}  # fmt: skip


def everything() -> dict[str, Any]:
    """Values with what no profile has: the incremental upgrade, queues, deletion rules, HTTP submission, volumes."""
    return merged(
        profile("gpu"),
        {
            "head": {"protectFromEviction": True, "rayLabels": {"zone": "a"}, "affinity": {"nodeAffinity": {}}},
            "pools": {"gpu": {"rayResources": {"GPU": "1", "CPU": "8"}, "runtimeClassName": "nvidia"}},
            "weightCache": {"type": "ephemeral", "storageClass": "local"},
            "secretMounts": [{"secret": "more", "path": "/var/run/more"}],
            "image": {"pullSecrets": ["pull"]},
            "endpoints": {
                "steps": {
                    "models": ["hub:org/model@0123456789abcdef0123456789abcdef01234567"],
                    "upgrade": {"type": "NewClusterWithIncrementalUpgrade", "gatewayClassName": "istio"},
                },
                "queued": {
                    "models": ["chat"],
                    "queue": "serving",
                    "autoscaling": False,
                    "workers": {"cpu": {"minReplicas": 4, "maxReplicas": 4}},
                    "httpRoute": {"enabled": True, "gateway": {"name": "g", "namespace": "n", "sectionName": "https"}},
                },
            },
            "kueue": {"elastic": True, "managedBy": "kueue.x-k8s.io/multikueue"},
            "cluster": {"queue": "batch", "upgrade": "Recreate"},
            "jobs": {
                "cleaned": {
                    "job": JOB,
                    "submissionMode": "HTTPMode",
                    "shutdownAfterJobFinishes": False,
                    "activeDeadlineSeconds": 86400,
                    "preRunningDeadlineSeconds": 3600,
                    "deletionRules": [
                        {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED"}},
                        {"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED", "ttlSeconds": 60}},
                        {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 3600}},
                        {"policy": "DeleteCluster", "condition": {"jobDeploymentStatus": "Failed", "ttlSeconds": 60}},
                    ],
                },
                "queued": {"job": JOB, "queue": "batch", "autoscaling": True},
            },
        },
    )  # fmt: skip
