"""Secure unless told otherwise: the pods, their tokens and Secrets, who reaches what, and what checkov finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import charted
import pytest
import yaml

# Kubernetes' Pod Security Standard "restricted".
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
WRITABLE = {"/tmp", "/workspace", "/cache", "/storage"}
RAY = ("RayService", "RayCluster", "RayJob")


@pytest.fixture(scope="module", params=[*charted.PROFILES, "everything"])
def found(request: pytest.FixtureRequest, render: Any) -> list[charted.Object]:
    values = charted.everything() if request.param == "everything" else charted.profile(request.param)
    return list(render(values))


def specs(found: list[charted.Object]) -> Iterator[tuple[str, charted.Object]]:
    """Yields the spec of every pod with its name, and the autoscaler's container in those of heads."""
    for each in found:
        for pod in charted.pods(each):
            spec = pod["spec"] if pod["kind"] == "Pod" else pod["spec"]["template"]["spec"]
            cluster = charted.cluster_of(each) if each["kind"] in RAY else {}
            if pod["metadata"]["name"].endswith("-head") and cluster["enableInTreeAutoscaling"]:
                image = spec["containers"][0]["image"]
                spec = {**spec, "containers": [*spec["containers"], charted.autoscaler(cluster, image)]}
            yield pod["metadata"]["name"], spec


def test_pods_are_restricted(found: list[charted.Object]) -> None:
    seen = 0
    for name, spec in specs(found):
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10_000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {key for volume in spec["volumes"] for key in volume if key != "name"} <= VOLUMES, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["privileged"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsNonRoot"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert "lifecycle" not in container  # no `ray stop`: it would end what is being drained
            mounts = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert mounts <= WRITABLE, name
            seen += 1
    assert seen >= 9


def test_pods_get_time_to_end(found: list[charted.Object]) -> None:
    for name, spec in specs(found):
        if "submitter" not in name and not name.endswith("-test"):
            (drain,) = [
                int(each["value"])
                for each in spec["containers"][0]["env"]
                if each["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
            ]
            assert 60 <= spec["terminationGracePeriodSeconds"] == drain + 15


def test_no_pod_is_told_the_api_servers_token_but_an_autoscaler(found: list[charted.Object]) -> None:
    for each in found:
        if each["kind"] == "ServiceAccount":
            assert each["automountServiceAccountToken"] is False
    for name, spec in specs(found):
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] in {"rel-llmyard-head", "rel-llmyard-worker"}
        for container in spec["containers"]:
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            has_token = "/var/run/secrets/kubernetes.io/serviceaccount" in paths
            assert has_token == (container["name"] == "autoscaler"), name


def test_every_ray_container_asks_for_the_token(found: list[charted.Object]) -> None:
    for each in found:
        if each["kind"] in RAY and "clusterSelector" not in each["spec"]:
            assert charted.cluster_of(each)["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    for name, spec in specs(found):
        for container in spec["containers"]:
            env = {each["name"]: each.get("value") for each in container["env"]}
            if container["name"] in {"ray-head", "ray-worker", "ray-job-submitter"}:
                assert env["RAY_AUTH_MODE"] == "token", name
                assert env["RAY_AUTH_TOKEN_PATH"] == "/var/run/llmyard/ray-auth/auth_token"


def test_secrets_are_files_that_only_their_readers_see(found: list[charted.Object]) -> None:
    for name, spec in specs(found):
        for container in spec["containers"]:
            assert "envFrom" not in container
            assert not any("valueFrom" in each for each in container["env"]), name
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440
        serves = any(port.get("name") == "serve" for port in spec["containers"][0].get("ports", ()))
        assert any(volume["name"] == "api-keys" for volume in spec["volumes"]) == serves, name


def test_no_work_lands_on_a_head_and_no_head_is_exposed(found: list[charted.Object]) -> None:
    for each in found:
        if each["kind"] in RAY and "clusterSelector" not in each["spec"]:
            head = charted.cluster_of(each)["headGroupSpec"]
            assert head["rayStartParams"]["num-cpus"] == "0"
            assert head["serviceType"] == "ClusterIP"
            assert "enableIngress" not in head
            limits = head["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert limits.keys() == {"cpu", "memory", "ephemeral-storage"}
            assert each["spec"].get("excludeHeadPodFromServeSvc", True) is True
        if each["kind"] == "Ingress":
            assert each["spec"]["tls"][0]["hosts"] == [each["spec"]["rules"][0]["host"]]
            ports = [path["backend"]["service"]["port"] for path in each["spec"]["rules"][0]["http"]["paths"]]
            assert ports == [{"number": 8000}]


def test_what_is_not_asked_for_is_not_there(render: Any) -> None:
    values = {
        "auth": {"existingSecret": "t"},
        "apiKeys": {"existingSecret": "k"},
        "storage": {"claim": "a"},
        "endpoints": {"chat": {"models": ["chat"]}},
    }
    kinds = {each["kind"] for each in render(values)}
    assert kinds == {"RayService", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget", "Job"}


def selects(selector: charted.Object, labels: dict[str, str]) -> bool:
    """Returns whether a label selector fits labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(labels.get(each["key"]) not in each["values"] for each in selector.get("matchExpressions", ()))


def test_every_pod_is_denied_everything_first(found: list[charted.Object]) -> None:
    policies = [each for each in found if each["kind"] == "NetworkPolicy"]
    (deny,) = [each for each in policies if each["metadata"]["name"].endswith("default-deny")]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny["spec"].keys()
    for each in found:
        for pod in charted.pods(each):
            template = pod if pod["kind"] == "Pod" else pod["spec"]["template"]
            assert selects(deny["spec"]["podSelector"], template["metadata"]["labels"]), pod["metadata"]["name"]


def test_workloads_reach_themselves_and_no_other(found: list[charted.Object]) -> None:
    """By the rules between pods of the release: a job cannot reach an endpoint's Ray, nor the other way round."""
    policies = [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
    pods = [pod for each in found for pod in charted.pods(each) if pod["kind"] == "Pod"]
    for target in pods:
        for source in pods:
            theirs, ours = target["metadata"]["labels"], source["metadata"]["labels"]
            rules = [
                rule
                for policy in policies
                if "Ingress" in policy["policyTypes"] and selects(policy["podSelector"], theirs)
                for rule in policy.get("ingress", ())
                for peer in rule["from"]
                if "podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], ours)
            ]
            is_same = theirs["llmyard/workload"] == ours["llmyard/workload"]
            assert bool(rules) == is_same, (source["metadata"]["name"], target["metadata"]["name"])


def test_disruption_budgets_select_pods_that_there_are(found: list[charted.Object]) -> None:
    labels = [pod["metadata"]["labels"] for each in found for pod in charted.pods(each) if pod["kind"] == "Pod"]
    for each in found:
        if each["kind"] == "PodDisruptionBudget":
            assert any(selects(each["spec"]["selector"], of_pod) for of_pod in labels)
            assert isinstance(each["spec"]["minAvailable"], int)


def test_an_untrusted_word_stays_a_word(render: Any) -> None:
    """What stands in values reaches shells and YAML as it is written."""
    evil = "x: y # \" ' {{ .Values }} $(touch /tmp/x) `id`"
    values = charted.merged(
        charted.profile("small"),
        {
            "env": {"EVIL": evil},
            "endpoints": {"chat": {"revision": evil}},
            "jobs": {"train": {"set": [f"note={evil}"]}},
            "mlflow": {"trackingUri": "http://mlflow/'\"#x"},
        },
    )
    found = render(values)
    for _, spec in specs(found):
        for container in spec["containers"]:
            assert all(each["value"] == evil for each in container["env"] if each["name"] == "EVIL")
    (service,) = [each for each in found if each["metadata"]["name"] == "rel-llmyard-chat" and each["kind"] in RAY]
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["revision"] == evil
    (job,) = [each for each in found if each["kind"] == "RayJob" and "train" in each["metadata"]["name"]]
    done = subprocess.run(
        ["sh", "-c", job["spec"]["entrypoint"].replace("llmyard run", "printf '%s\\n'")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"note={evil}"


def checkov() -> str:
    """Returns checkov's path; it needs an environment of its own, for it pins what others pin too."""
    named = os.environ.get("LLMYARD_CHECKOV")
    path = named or shutil.which("checkov") or str(Path(sys.executable).with_name("checkov"))
    if not Path(path).exists():
        pytest.skip("checkov is not installed: put it into a venv of its own and name it in LLMYARD_CHECKOV")
    return path


def extracted(found: list[charted.Object]) -> Iterator[charted.Object]:
    """Yields objects that checkov understands: instead of Ray's resources, which it does not look into, their pods.

    The autoscaler's container is laid before it in a Job: KubeRay gives it no probes, and of a Job none are asked.
    """
    for each in found:
        if each["kind"] not in RAY:
            yield each
            continue
        for pod in charted.pods(each):
            yield pod
            spec = pod["spec"]
            cluster = charted.cluster_of(each)
            if pod["metadata"]["name"].endswith("-head") and cluster["enableInTreeAutoscaling"]:
                containers = [charted.autoscaler(cluster, spec["containers"][0]["image"])]
                metadata = {**pod["metadata"], "name": f"{pod['metadata']['name']}-autoscaler"}
                template = {"metadata": {"labels": metadata["labels"]}, "spec": {**spec, "containers": containers}}
                yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}


BAD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "control", "namespace": "default"},
    "spec": {"containers": [{"name": "bad", "image": "bad"}]},
}


def test_checkov_finds_nothing(render: Any, tmp_path: Path) -> None:
    """All profiles at once, with no check left out; a bad pod among them shows that it looks."""
    program = checkov()
    for name in (*charted.PROFILES, "control"):
        objects = [BAD] if name == "control" else list(extracted(render(charted.profile(name))))
        (tmp_path / name).mkdir()
        text = yaml.safe_dump_all(objects, sort_keys=False)
        (tmp_path / name / "objects.yaml").write_text(text, encoding="utf-8")
    command = [program, "-d", str(tmp_path), "--framework", "kubernetes", "--skip-download", "-o", "json", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    results = json.loads(done.stdout)["results"]
    failed = [(each["check_id"], each["resource"], each["check_name"]) for each in results["failed_checks"]]
    assert len([each for each in failed if each[1] == "Pod.default.control"]) > 15
    assert [each for each in failed if each[1] != "Pod.default.control"] == []
    assert results["skipped_checks"] == []
    assert results["parsing_errors"] == []
    assert len(results["passed_checks"]) > 1000
