"""No value is dead: each is changed, and the objects change with it. Each has a comment, and both READMEs list it."""

from __future__ import annotations

import json
from typing import Any

import charted
import pytest
from charted import at, merged

# What must be set so that some value may be what it is.
WITH_GATEWAY = {"gateway": {"enabled": True, "className": "istio", "tlsSecret": "tls"}}
WITH_REDIS = {
    "gcsFaultTolerance": {"enabled": True, "redisAddress": "redis:6379", "passwordSecret": {"name": "redis"}},
    "networkPolicy": {"egress": {"redis": {"to": [], "ports": [6379]}}},
}
WITH_HUB = at("networkPolicy.egress.hub", {"to": [], "ports": [443]})
WITH_MLFLOW = merged(
    at("mlflow.trackingUri", "http://mlflow:5000"), at("networkPolicy.egress.mlflow", {"to": [], "ports": [5000]})
)
STEPS = at("endpointDefaults.upgrade", {"type": "NewClusterWithIncrementalUpgrade", "gatewayClassName": "istio"})
INGRESS = merged(
    at("endpoints.chat.ingress.enabled", True),
    at("endpointDefaults.ingress", {"host": "a.example.com", "tlsSecret": "tls"}),
)
ROUTE = merged(WITH_GATEWAY, at("endpoints.chat.httpRoute.enabled", True))
MONITOR = at("monitoring.podMonitor.enabled", True)
BOARDS = at("monitoring.dashboards.enabled", True)
QUEUED = at("jobs.train.queue", "batch")
FOUR = {"cpu": {"minReplicas": 4, "maxReplicas": 4}}

BASE: dict[str, Any] = {
    "auth": {"existingSecret": "ray-token"},
    "apiKeys": {"existingSecret": "api-keys"},
    "storage": {"claim": "artifacts"},
    "endpoints": {"chat": {"models": ["chat"]}},
    "cluster": {"enabled": True},
    "jobs": {"train": {"job": charted.JOB}},
    "networkPolicy": {"clients": [{"podSelector": {}}], "monitoring": [{"podSelector": {}}]},
}

# Another value for each value; in a tuple, with what else is set before and after.
CHANGES: dict[str, Any] = {
    "nameOverride": "yard",
    "fullnameOverride": "yard",
    "labels": {"team": "a"},
    "annotations": {"team": "a"},
    "image.registry": "registry.example.com",
    "image.repository": "other/llmyard",
    "image.tag": "0.2.0",
    "image.digest": f"sha256:{'0' * 64}",
    "image.requireDigest": None,  # changes whether the chart renders at all: test_rules
    "image.pullPolicy": "IfNotPresent",
    "image.pullSecrets": ["pull"],
    "rayVersion": "2.61.0",
    "auth.enabled": False,
    "auth.existingSecret": "other",
    "apiKeys.existingSecret": "other",
    "storage.uri": "/storage/folder",
    "storage.claim": "other",
    "storage.s3.endpoint": "http://minio:9000",
    "storage.s3.region": "eu-1",
    "storage.s3.credentialsSecret": "s3",
    "weightCache.type": "ephemeral",
    "weightCache.size": "9Gi",
    "weightCache.storageClass": ("local", at("weightCache.type", "ephemeral")),
    "weightCache.claim": ("weights", at("weightCache", {"type": "claim", "claim": "other"})),
    "hub.endpoint": "https://hub.example.com",
    "hub.tokenSecret": "hub",
    "hub.offline": (False, WITH_HUB),
    "mlflow.trackingUri": ("http://other:5000", WITH_MLFLOW),
    "mlflow.credentialsSecret": ("mlflow", WITH_MLFLOW),
    "env": {"A": "b"},
    "secretMounts": [{"secret": "more", "path": "/more"}],
    "serviceAccount.annotations": {"role": "a"},
    "podSecurity.runAsUser": 20000,
    "podSecurity.runAsGroup": 20000,
    "podSecurity.fsGroup": 20000,
    "scratch.tmpSize": "9Gi",
    "scratch.homeSize": "9Gi",
    "head.cpu": "3",
    "head.memory": "9Gi",
    "head.rayStartParams": {"object-store-memory": "1000000000"},
    "head.rayLabels": {"zone": "a"},
    "head.nodeSelector": {"zone": "a"},
    "head.tolerations": [{"operator": "Exists"}],
    "head.affinity": {"nodeAffinity": {}},
    "head.priorityClassName": "high",
    "head.env": {"A": "b"},
    "head.protectFromEviction": True,
    "autoscaler.idleTimeoutSeconds": 9,
    "autoscaler.upscalingMode": "Aggressive",
    "autoscaler.cpu": "1",
    "autoscaler.memory": "1Gi",
    "gcsFaultTolerance.enabled": (True, merged(WITH_REDIS, at("gcsFaultTolerance.enabled", False))),
    "gcsFaultTolerance.redisAddress": ("rediss://other:6380", WITH_REDIS),
    "gcsFaultTolerance.redisUsername": ("ray", WITH_REDIS),
    "gcsFaultTolerance.passwordSecret.name": ("other", WITH_REDIS),
    "gcsFaultTolerance.passwordSecret.key": ("other", WITH_REDIS),
    "poolDefaults.cpu": 8,
    "poolDefaults.memory": "9Gi",
    "poolDefaults.gpus": 1,
    "poolDefaults.gpuResource": ("amd.com/gpu", at("poolDefaults.gpus", 1)),
    "poolDefaults.rayStartParams": {"object-store-memory": "1000000000"},
    "poolDefaults.rayResources": {"CPU": "4"},
    "poolDefaults.rayLabels": {"zone": "a"},
    "poolDefaults.idleTimeoutSeconds": 9,
    "poolDefaults.priority": 1,
    "poolDefaults.nodeSelector": {"zone": "a"},
    "poolDefaults.tolerations": [{"operator": "Exists"}],
    "poolDefaults.affinity": {"nodeAffinity": {}},
    "poolDefaults.topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "poolDefaults.priorityClassName": "high",
    "poolDefaults.runtimeClassName": "nvidia",
    "poolDefaults.env": {"A": "b"},
    "pools": {"cpu": {"memory": "9Gi"}},
    "endpointDefaults.models": (
        ["other"], merged(at("endpoints.second", {}), at("endpointDefaults.models", ["chat"])),
    ),
    "endpointDefaults.index": "passages",
    "endpointDefaults.canaries": [{"model": "chat@2", "beside": "chat"}],
    "endpointDefaults.revision": "2",
    "endpointDefaults.workers": {"cpu": {"minReplicas": 3, "maxReplicas": 5}},
    "endpointDefaults.autoscaling": (False, at("endpointDefaults.workers", FOUR)),
    "endpointDefaults.replica.cpus": 1,
    "endpointDefaults.replica.memoryBytes": 4_000_000_000,
    "endpointDefaults.replica.minReplicas": 3,
    "endpointDefaults.replica.maxReplicas": 7,
    "endpointDefaults.replica.targetOngoingRequests": 9,
    "endpointDefaults.replica.maxOngoingRequests": 99,
    "endpointDefaults.replica.maxQueuedRequests": 99,
    "endpointDefaults.replica.upscaleDelaySeconds": 9,
    "endpointDefaults.replica.downscaleDelaySeconds": 9,
    "endpointDefaults.replica.gracefulShutdownSeconds": 9,
    "endpointDefaults.maxBodyBytes": 20_000_000,
    "endpointDefaults.bodySeconds": 0.5,
    "endpointDefaults.maxNewTokens": 99,
    "endpointDefaults.maxTokensUnderWay": 999,
    "endpointDefaults.deadlineSeconds": 99.5,
    "endpointDefaults.requestTimeoutSeconds": 199,
    "endpointDefaults.harmfulWords": {"lists": ["/storage/words"]},
    "endpointDefaults.haproxy": {"enabled": False},
    "endpointDefaults.upgrade.type": "None",
    "endpointDefaults.upgrade.gatewayClassName": ("other", STEPS),
    "endpointDefaults.upgrade.stepSizePercent": (9, STEPS),
    "endpointDefaults.upgrade.intervalSeconds": (9, STEPS),
    "endpointDefaults.upgrade.maxSurgePercent": (99, STEPS),
    "endpointDefaults.upgrade.deletionDelaySeconds": 9,
    "endpointDefaults.initializingTimeout": "1h30m",
    "endpointDefaults.terminationGracePeriodSeconds": 99,
    "endpointDefaults.minAvailable": 0,
    "endpointDefaults.queue": ("serving", at("endpointDefaults", {"workers": FOUR, "autoscaling": False})),
    "endpointDefaults.ingress.enabled": (True, at("endpointDefaults.ingress", {"host": "a.b", "tlsSecret": "tls"})),
    "endpointDefaults.ingress.className": ("nginx", INGRESS),
    "endpointDefaults.ingress.host": ("b.example.com", INGRESS),
    "endpointDefaults.ingress.tlsSecret": ("other", INGRESS),
    "endpointDefaults.ingress.annotations": ({"a": "b"}, INGRESS),
    "endpointDefaults.httpRoute.enabled": (True, WITH_GATEWAY),
    "endpointDefaults.httpRoute.hostnames": (["a.example.com"], ROUTE),
    "endpointDefaults.httpRoute.gateway": ({"name": "g", "sectionName": "https"}, ROUTE),
    "endpoints": {"chat": {"revision": "2"}},
    "gateway.enabled": (True, at("gateway", {"className": "istio", "tlsSecret": "tls"})),
    "gateway.className": ("other", WITH_GATEWAY),
    "gateway.hostname": ("a.example.com", WITH_GATEWAY),
    "gateway.tlsSecret": ("other", WITH_GATEWAY),
    "gateway.annotations": ({"a": "b"}, WITH_GATEWAY),
    "cluster.enabled": False,
    "cluster.workers": {"cpu": {"minReplicas": 1, "maxReplicas": 9}},
    "cluster.autoscaling": (False, at("cluster.workers", FOUR)),
    "cluster.upgrade": "Recreate",
    "cluster.terminationGracePeriodSeconds": 99,
    "cluster.queue": ("batch", at("kueue.elastic", True)),
    "jobDefaults.job": ("kind: prepare\n", merged(at("jobs.second", {}), at("jobDefaults.job", charted.JOB))),
    "jobDefaults.set": ["a.b=1"],
    "jobDefaults.shared": True,
    "jobDefaults.workers": FOUR,
    "jobDefaults.autoscaling": True,
    "jobDefaults.submissionMode": "HTTPMode",
    "jobDefaults.backoffLimit": 9,
    "jobDefaults.submitterBackoffLimit": 9,
    "jobDefaults.activeDeadlineSeconds": 9,
    "jobDefaults.preRunningDeadlineSeconds": 9,
    "jobDefaults.shutdownAfterJobFinishes": False,
    "jobDefaults.ttlSecondsAfterFinished": 9,
    "jobDefaults.deletionRules": (
        [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}],
        at("jobDefaults.shutdownAfterJobFinishes", False),
    ),
    "jobDefaults.terminationGracePeriodSeconds": 99,
    "jobDefaults.queue": "batch",
    "jobs": {"train": {"backoffLimit": 9}},
    "kueue.managedBy": ("kueue.x-k8s.io/multikueue", QUEUED),
    "kueue.elastic": (True, merged(QUEUED, at("jobs.train.autoscaling", True))),
    "networkPolicy.enabled": False,
    "networkPolicy.clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    "networkPolicy.clusterClients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    "networkPolicy.monitoring": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    "networkPolicy.operator": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    "networkPolicy.dns": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    "networkPolicy.apiServer.to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    "networkPolicy.apiServer.ports": [8443],
    "networkPolicy.egress": {"more": {"to": [{"podSelector": {}}], "ports": [80]}},
    "monitoring.podMonitor.enabled": True,
    "monitoring.podMonitor.labels": ({"a": "b"}, MONITOR),
    "monitoring.podMonitor.interval": ("9s", MONITOR),
    "monitoring.dashboards.enabled": True,
    "monitoring.dashboards.labels": ({"a": "b"}, BOARDS),
    "monitoring.dashboards.annotations": ({"a": "b"}, BOARDS),
    "test.enabled": False,
    "test.timeoutSeconds": 9,
}  # fmt: skip


def values() -> list[Any]:
    """Returns all values of values.yaml, without groups."""
    table = charted.script("values_table")
    text = (charted.CHART / "values.yaml").read_text(encoding="utf-8")
    return [value for value in table.values_of(text) if not value.is_group]


def test_every_value_is_in_the_list_of_changes() -> None:
    assert [value.path for value in values()] == list(CHANGES)


@pytest.mark.parametrize("path", [path for path, change in CHANGES.items() if change is not None])
def test_every_value_changes_what_is_rendered(chart: Any, helm: Any, path: str) -> None:
    change = CHANGES[path]
    value, given = change if isinstance(change, tuple) else (change, {})
    before = merged(BASE, given)
    after = rendered(chart, merged(before, at(path, value)))
    if path == "kueue.elastic":  # whether a queued job may scale at all
        with pytest.raises(helm.HelmError, match=r"kueue\.elastic"):
            rendered(chart, before)
    else:
        assert rendered(chart, before) != after


PARTS = {
    "haproxy.program": "/opt/llmyard-haproxy",
    "harmfulWords.harmless": ["s3://b/harmless"],
    "harmfulWords.maxDensity": 0.5,
    "canaries": [{"model": "chat@2", "beside": "chat", "weight": 0.5, "leastRequests": 9, "mostFailing": 0.1,
                  "mostSlower": 2}],
}  # fmt: skip


@pytest.mark.parametrize("path", PARTS)
def test_every_part_of_a_value_changes_what_is_rendered(chart: Any, path: str) -> None:
    lists = {"harmfulWords": {"lists": ["/storage/words"]}, "canaries": [{"model": "chat@2", "beside": "chat"}]}
    before = merged(BASE, {"endpointDefaults": lists})
    assert rendered(chart, before) != rendered(chart, merged(before, at(f"endpointDefaults.{path}", PARTS[path])))


_rendered: dict[str, dict[str, str]] = {}  # the same values come before many changes


def rendered(chart: Any, given: dict[str, Any]) -> dict[str, str]:
    """Returns all manifests; the notes for the installer do not count."""
    key = json.dumps(given, sort_keys=True)
    if key not in _rendered:
        made: dict[str, str] = chart.render(given, name=charted.RELEASE, namespace=charted.NAMESPACE)
        _rendered[key] = {path: text for path, text in made.items() if path.endswith(".yaml")}
    return _rendered[key]


def test_the_schema_names_every_value_and_no_other() -> None:
    schema = json.loads((charted.CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(_named(schema, schema)) - {"global"} == set(_paths(charted.loaded(
        (charted.CHART / "values.yaml").read_text(encoding="utf-8")
    )))  # fmt: skip


def _named(schema: dict[str, Any], node: dict[str, Any], above: str = "") -> list[str]:
    """Returns the paths of all values in a schema, maps with free keys not entered."""
    if "$ref" in node:
        node = schema["definitions"][node["$ref"].rpartition("/")[2]]
    found: list[str] = []
    for key, inner in node.get("properties", {}).items():
        path = f"{above}.{key}".strip(".")
        below = _named(schema, inner, path) if path != "endpointDefaults.httpRoute.gateway" else []
        found += below or [path]
    return found


def _paths(node: dict[str, Any], above: str = "") -> list[str]:
    """Returns the paths of all values in values.yaml; maps whose keys are free are values."""
    free = {"workers", "rayStartParams", "pools", "labels", "annotations", "env"}
    found: list[str] = []
    for key, inner in node.items():
        path = f"{above}.{key}".strip(".")
        is_map = isinstance(inner, dict) and bool(inner) and key not in free
        found += _paths(inner, path) if is_map else [path]
    return found


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_readmes_have_the_table_of_values(name: str) -> None:
    readme = charted.CHART / name
    assert readme.read_text(encoding="utf-8") == charted.script("values_table").written(readme), (
        "python helm/values_table.py"
    )


def test_the_chinese_texts_are_of_the_values_that_there_are() -> None:
    table = charted.script("values_table")
    paths = [value.path for value in table.values_of((charted.CHART / "values.yaml").read_text(encoding="utf-8"))]
    assert list(table.chinese()) == paths


def test_a_value_without_a_comment_is_found() -> None:
    table = charted.script("values_table")
    with pytest.raises(table.Uncommented, match=r"values\.yaml:4: a\.c has no comment"):
        table.values_of("a:\n  # What b is.\n  b: 1\n  c: 2\n")
