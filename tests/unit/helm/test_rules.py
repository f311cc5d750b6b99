"""Bad values die when the chart is rendered, with a message that names the value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import charted
import definitions
import pytest
from charted import JOB, at, merged
from kuberay_rules import BASE, CEL, OPEN, RULES, WITH_REDIS, KubeRayRule

REACHED = [rule for rule in RULES if rule.values is not None]


_refused: dict[str, str] = {}  # by values: two tests look at all of them


def refusal(chart: Any, helm: Any, values: dict[str, Any]) -> str:
    """Returns what the chart says of values; fails if it takes them."""
    key = json.dumps(values, sort_keys=True)
    if key not in _refused:
        with pytest.raises(helm.HelmError) as refused:
            chart.render(values, name=charted.RELEASE, namespace=charted.NAMESPACE)
        _refused[key] = str(refused.value)
    return _refused[key]


def test_what_the_negative_tests_start_from_renders(render: Any) -> None:
    assert {found["kind"] for found in render(BASE)} >= {"RayService", "RayCluster", "RayJob"}
    render(merged(BASE, WITH_REDIS))
    render(merged(BASE, OPEN))


@pytest.mark.parametrize("rule", REACHED, ids=lambda rule: f"{rule.about}: {rule.says[:60]}")
def test_values_that_kuberay_would_refuse_are_refused(chart: Any, helm: Any, rule: KubeRayRule) -> None:
    assert rule.values is not None
    said = refusal(chart, helm, merged(BASE, rule.values))
    assert re.search(rule.named, said), said


def test_every_rule_is_reached_or_says_why_not() -> None:
    assert all((rule.values is None) == bool(rule.why_not) for rule in RULES)
    assert all(bool(rule.named) == (rule.values is not None) for rule in RULES)
    names = [(rule.about, rule.says) for rule in RULES]
    assert len(names) == len(set(names))


def test_the_list_has_all_rules_of_the_definitions(crds: definitions.Definitions) -> None:
    kinds = {"RayCluster", "RayService", "RayJob"}
    found = {rule.message for rule in crds.rules() if rule.kind in kinds}
    assert found == {rule.says for rule in CEL}


def test_pools_keep_what_only_scaling_workloads_take(render: Any) -> None:
    """KubeRay refuses a group's priority and idle time without autoscaler v2, so a job that does not scale has none."""
    values = merged(BASE, at("pools.cpu", {"priority": 3, "idleTimeoutSeconds": 9}))
    for found in render(values):
        if found["kind"] in {"RayService", "RayCluster", "RayJob"} and "workerGroupSpecs" in charted.cluster_of(found):
            spec = charted.cluster_of(found)
            for group in spec["workerGroupSpecs"]:
                scales = spec["enableInTreeAutoscaling"]
                assert ("priority" in group, "idleTimeoutSeconds" in group) == (scales, scales)
            assert spec.get("autoscalerOptions", {"version": "v2"})["version"] == "v2"


S3 = merged(at("storage", {"claim": "", "uri": "s3://b/p"}), at("mlflow.trackingUri", "http://mlflow:5000"))
HUB = at("networkPolicy.egress.hub", {"to": [], "ports": [443]})
MLFLOW = at("networkPolicy.egress.mlflow", {"to": [], "ports": [5000]})
STORAGE = at("networkPolicy.egress.storage", {"to": [], "ports": [443]})
TWO = {"cpu": {"minReplicas": 2, "maxReplicas": 2}}

# What does not go together by the chart's own rules: values over BASE, and a pattern of what is said.
OWN: list[tuple[dict[str, Any], str]] = [
    (at("auth.existingSecret", ""), r"auth\.existingSecret is empty"),
    (at("apiKeys.existingSecret", ""), r"apiKeys\.existingSecret is empty"),
    (at("image.requireDigest", True), r"image\.digest is empty"),
    (at("image.digest", "sha256:12"), r"/image/digest'"),
    (at("image.tag", "latest"), r"/image/tag'"),
    (at("storage.claim", ""), r"storage\.uri and storage\.claim are empty, and chat needs a storage"),
    (at("storage", {"claim": "", "uri": "/data"}), r"storage\.uri is /data, a folder, and storage\.claim is empty"),
    (at("storage.uri", "/data"), r"storage\.uri is /data, and storage\.claim is mounted at /storage"),
    (at("storage.uri", "s3://b/p"), r"storage\.uri is s3://b/p, and storage\.claim is artifacts: give one"),
    (merged(S3, merged(MLFLOW, {})), r"networkPolicy\.egress\.storage is missing"),
    (merged(S3, merged(STORAGE, {})), r"networkPolicy\.egress\.mlflow is missing"),
    (merged(merged(S3, STORAGE), at("mlflow.trackingUri", "")), r"mlflow\.trackingUri is empty, and jobs\.\w+ records"),
    (at("weightCache.type", "claim"), r"weightCache\.claim is empty"),
    (at("weightCache.claim", "c"), r"weightCache\.claim is c, and weightCache\.type is emptyDir"),
    (at("weightCache.storageClass", "c"), r"weightCache\.storageClass is c, and weightCache\.type is emptyDir"),
    (at("weightCache.type", "none"), r"/weightCache/type'"),
    (at("weightCache.size", "500Mi"), r"/weightCache/size'"),
    (at("mlflow.credentialsSecret", "m"), r"mlflow\.credentialsSecret is m, and mlflow\.trackingUri is empty"),
    (at("secretMounts", [{"secret": "s", "path": "/tmp/x"}]), r"secretMounts\[0\]\.path is /tmp/x, which is in use"),
    (at("secretMounts", [{"secret": "s", "path": "/x"}, {"secret": "t", "path": "/x/"}]), r"secretMounts\[1\]\.path"),
    (at("env", {"HOME": "/root"}), r"env\.HOME is set by the chart"),
    (at("pools.cpu.env", {"LLMYARD_CACHE": "/x"}), r"pools\.cpu\.env\.LLMYARD_CACHE is set by weightCache"),
    (at("poolDefaults.env", {"HF_TOKEN": "x"}), r"poolDefaults\.env\.HF_TOKEN is set by hub\.tokenSecret"),
    (at("poolDefaults.rayStartParams", {"address": "x"}), r"poolDefaults\.rayStartParams\.address is set by KubeRay"),
    (at("head.rayStartParams", {"dashboard-port": "1"}), r"head\.rayStartParams\.dashboard-port is set by the chart"),
    (at("gcsFaultTolerance.enabled", True), r"gcsFaultTolerance\.redisAddress is empty"),
    (at("gcsFaultTolerance.enabled", True), r"gcsFaultTolerance\.passwordSecret\.name is empty"),
    (at("gcsFaultTolerance.enabled", True), r"networkPolicy\.egress\.redis is missing"),
    (at("gcsFaultTolerance.redisAddress", "redis"), r"/gcsFaultTolerance/redisAddress'"),
    (at("hub.offline", False), r"networkPolicy\.egress\.hub is missing"),
    (at("endpoints.chat.models", ["hub:a/b@c"]), r"models has hub:a/b@c, and hub\.offline is true"),
    (at("endpoints.chat.models", ["hub:a/b"]), r"/endpoints/chat/models/0'"),
    (at("endpoints.chat.models", ["models:/a@b"]), r"models has models:/a@b, and mlflow\.trackingUri is empty"),
    (at("endpoints.chat.models", ["a", "a"]), r"/endpoints/chat/models'"),
    (at("endpoints.chat.models", []), r"endpoints\.chat\.models is empty"),
    (at("endpoints.chat.canaries", [{"model": "hub:a/b@c", "beside": "chat"}]),
     r"canaries\[0\]\.model has hub:a/b@c, and hub\.offline is true"),
    (at("endpoints.chat.canaries", [{"model": "chat", "beside": "chat"}]),
     r"canaries\[0\]\.model has chat, which models has too"),
    (at("endpoints.chat.canaries", [{"model": "a", "beside": "chat"}, {"model": "b", "beside": "chat"}]),
     r"canaries\[1\]\.beside is chat, as of canaries\[0\]"),
    (at("endpoints.chat.canaries", [{"model": "a"}]), r"/endpoints/chat/canaries/0': missing property 'beside'"),
    (at("endpoints.chat.canaries", [{"model": "a", "beside": "chat", "weight": 0}]), r"/canaries/0/weight'"),
    (at("endpoints.chat.index", "a b"), r"/endpoints/chat/index'"),
    (at("endpoints.chat.bodySeconds", 0), r"/endpoints/chat/bodySeconds'"),
    (at("endpoints.chat.deadlineSeconds", 301), r"deadlineSeconds is 301, above requestTimeoutSeconds 300"),
    (at("endpoints.chat.harmfulWords.lists", ["words"]), r"/endpoints/chat/harmfulWords/lists/0'"),
    (at("endpoints.chat.harmfulWords.harmless", ["/a"]), r"harmfulWords\.harmless is given, and lists is empty"),
    (at("endpoints.chat.haproxy.program", "haproxy"), r"/endpoints/chat/haproxy/program'"),
    (at("env", {"RAY_SERVE_ENABLE_HA_PROXY": "0"}), r"env\.RAY_SERVE_ENABLE_HA_PROXY is set by haproxy\.enabled"),
    (at("jobs.train.job", "kind: deploy\nmodels: [a]\n"), r"jobs\.train\.job ends in kind deploy, and its cluster"),
    (at("jobs.train.job", "kind: pipeline\nstages: [{kind: pretrain}, {kind: deploy}]\n"),
     r"jobs\.train\.job ends in kind deploy"),
    (at("endpoints.chat.model", ["a"]), r"/endpoints/chat': additional properties 'model' not allowed"),
    (at("endpoints.cluster.models", ["a"]), r"endpoints\.cluster: its services would have the names"),
    (at("endpoints.chat.workers", {"gpu": TWO["cpu"]}), r'workers\.gpu: there is no pool "gpu"; there is: cpu'),
    (at("endpoints.chat.workers", {}), r"endpoints\.chat\.workers has no worker"),
    (at("jobs.train.workers", {"cpu": {"minReplicas": 0, "maxReplicas": 0}}), r"jobs\.train\.workers has no worker"),
    (at("cluster.autoscaling", False), r"cluster\.workers\.cpu: minReplicas 0 and maxReplicas 4 differ"),
    (at("endpoints.chat.replica.minReplicas", 9), r"replica\.minReplicas is 9, above maxReplicas 8"),
    (at("endpoints.chat.replica.maxReplicas", 9), r"maxReplicas is 9, and .* has room for 8 replicas of 2 CPUs"),
    (at("endpoints.chat.replica.cpus", 5), r"has room for 0 replicas of 5 CPUs"),
    (at("pools.cpu.rayStartParams", {"num-cpus": "2"}), r"has room for 4 replicas of 2 CPUs"),
    (at("pools.cpu.rayResources", {"CPU": "3"}), r"has room for 4 replicas of 2 CPUs"),
    (at("endpoints.chat.replica.targetOngoingRequests", 65), r"targetOngoingRequests is 65, above maxOngoing\w+ 64"),
    (at("endpoints.chat.replica.gracefulShutdownSeconds", 110), r"gracefulShutdownSeconds is 110, and term.* 120"),
    (at("endpoints.chat.terminationGracePeriodSeconds", 30), r"/endpoints/chat/terminationGracePeriodSeconds'"),
    (at("endpoints.chat.minAvailable", 2), r"minAvailable is 2, and there may be no more than 2 workers"),
    (at("endpoints.chat.ingress.enabled", True), r"endpoints\.chat\.ingress\.host is empty"),
    (at("endpoints.chat.ingress.enabled", True), r"endpoints\.chat\.ingress\.tlsSecret is empty"),
    (at("endpoints.chat.ingress.enabled", True), r"networkPolicy\.clients is empty, and endpoints\.chat is reached"),
    (at("endpoints.chat.httpRoute.enabled", True), r"httpRoute\.gateway is empty, and gateway\.enabled is false"),
    (at("endpoints.chat.httpRoute", {"enabled": True, "gateway": {"name": "g"}}), r"httpRoute\.gateway\.sectionName"),
    (at("endpoints.chat", {"ingress": {"enabled": True}, "upgrade": {"type": "NewClusterWithIncrementalUpgrade"}}),
     r"ingress\.enabled is true, and with .*NewClusterWithIncrementalUpgrade KubeRay makes a Gateway"),
    (at("endpoints.chat", {"httpRoute": {"enabled": True}, "upgrade": {"type": "NewClusterWithIncrementalUpgrade"}}),
     r"httpRoute\.enabled is true, and with .*NewClusterWithIncrementalUpgrade"),
    (at("gateway.enabled", True), r"gateway\.className is empty"),
    (at("gateway.enabled", True), r"gateway\.tlsSecret is empty"),
    (at("monitoring.podMonitor.enabled", True), r"networkPolicy\.monitoring is empty"),
    (at("networkPolicy.clients", [{}]), r"/networkPolicy/clients/0'"),
    (at("jobs.train.job", ""), r"jobs\.train\.job is empty"),
    (at("jobs.train.job", "kind: [\n"), r"jobs\.train\.job is no YAML mapping"),
    (at("jobs.train.job", "steps: 3\n"), r"jobs\.train\.job has no `kind`"),
    (at("jobs.train.set", ["no assignment"]), r"/jobs/train/set/0'"),
    (at("cluster.enabled", False), r"jobs\.shared\.shared is true, and cluster\.enabled is false"),
    (at("jobs.shared.workers", TWO), r"jobs\.shared\.workers is given, and jobs\.shared\.shared is true"),
    (at("jobs.train", {"submissionMode": "HTTPMode", "submitterBackoffLimit": 1}), r"submitterBackoffLimit is given"),
    (at("endpoints.chat.queue", "q"), r"endpoints\.chat\.autoscaling is true, and Kueue takes no RayService"),
    (at("cluster.queue", "q"), r"cluster\.autoscaling is true, and cluster\.queue is q: .*kueue\.elastic"),
    (at("jobs.train", {"queue": "q", "shutdownAfterJobFinishes": False}), r"and Kueue's queue q needs it"),
    (merged(at("pools", {f"p{number}": {} for number in range(8)}),
            at("jobs.train", {"queue": "q", "workers": {f"p{number}": TWO["cpu"] for number in range(8)}})),
     r"jobs\.train\.workers names 8 pools, and Kueue admits 7"),
    (at("labels", {"llmyard/workload": "x"}), r"labels\.llmyard/workload is set by the chart"),
    (at("labels", {"a b": "x"}), r"/labels': additional properties 'a b'"),
    (at("nameOverride", "Yard"), r'fullnameOverride, nameOverride or the release: .* "rel-Yard"'),
    (at("images.tag", "1"), r"additional properties 'images' not allowed"),
    (at("head.cpu", 2), r"/head/cpu': got number, want string"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "said"), OWN, ids=[said[:60] for _, said in OWN])
def test_values_that_do_not_go_together_are_refused(chart: Any, helm: Any, values: dict[str, Any], said: str) -> None:
    assert re.search(said, (text := refusal(chart, helm, merged(BASE, values)))), text


def test_all_faults_are_said_at_once(chart: Any, helm: Any) -> None:
    values = merged(BASE, merged(at("auth.existingSecret", ""), at("jobs.train.job", "")))
    said = refusal(chart, helm, values)
    assert "2 of the values cannot be used:" in said
    assert said.count("\n- ") == 2


def test_every_message_has_a_negative_test(chart: Any, helm: Any) -> None:
    """Each line that the validation templates can say is said in one of the cases above."""
    broken = [rule.values for rule in REACHED if rule.values is not None] + [values for values, _ in OWN]
    said = "\n".join(refusal(chart, helm, merged(BASE, values)) for values in broken)
    with helm.Chart.load(charted.CHART) as plain:  # without dashboards
        said += "\n" + refusal(plain, helm, at("monitoring.dashboards.enabled", True))
    messages = list(_messages())
    assert len(messages) > 60
    unsaid = [line for line, pattern in messages if not re.search(pattern, said, re.MULTILINE)]
    assert unsaid == []


def _messages() -> Iterator[tuple[str, str]]:
    """Yields the messages in the templates, each with a pattern of what it becomes."""
    for template in sorted((charted.CHART / "templates").glob("_validate*.tpl")):
        text = re.sub(r"\{\{/\*.*?\*/\}\}", "", template.read_text(encoding="utf-8"), flags=re.DOTALL)
        text = re.sub(r'\{\{- define "llmyard\.managed.*?\{\{- end \}\}', "", text, flags=re.DOTALL)
        for line in text.splitlines():
            if line and not line.startswith("{{-"):
                fixed = re.split(r"\{\{.*?\}\}", line)
                yield line, "^- " + ".*".join(re.escape(part) for part in fixed)


def test_a_job_text_is_not_read_as_more_than_it_is(render: Any) -> None:
    """`{{` in a job is text: values are no templates."""
    text = JOB + "note: '{{ .Values.auth }}'\n"
    found = render(merged(BASE, at("jobs.train.job", text)))
    assert text in next(each for each in found if each["metadata"]["name"] == "rel-llmyard-jobs")["data"].values()
