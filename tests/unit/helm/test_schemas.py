"""Every object against the schemas that an API server has: KubeRay's and the Gateway API's definitions with their rules
in CEL, Kubernetes' own for the rest. `schema-validated`: no API server has seen these objects yet.
"""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import charted
import definitions
import pytest

KUBERNETES = "1.36"


@pytest.fixture(scope="module", params=[*charted.PROFILES, "everything"])
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    return charted.everything() if request.param == "everything" else charted.profile(request.param)


def test_custom_resources_fit_their_definitions(
    render: Any, values: dict[str, Any], crds: definitions.Definitions
) -> None:
    pytest.importorskip("celpy", reason="cel-python is not installed: pip install cel-python")
    checked = {found["kind"] for found in render(values) if crds.knows(found)}
    assert checked == {"RayService", "RayCluster", "RayJob", "Gateway", "HTTPRoute"}
    faults = {
        f"{found['kind']}/{found['metadata']['name']}": said
        for found in render(values)
        if crds.knows(found) and (said := crds.faults(found))
    }
    assert faults == {}


@functools.cache
def _contents(filename: str, desired_version: str) -> Any:
    import importlib.resources

    return json.loads(importlib.resources.files("kubernetes_validate").joinpath(filename).read_text(encoding="utf-8"))


def test_core_objects_fit_kubernetes(render: Any, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: pip install kubernetes-validate"
    )
    # It would read its 1.5 MB of definitions for each object.
    monkeypatch.setattr("kubernetes_validate.utils.schema_contents", _contents)
    own = {"ray.io/v1", "gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1"}
    for found in render(values):
        if found["apiVersion"] not in own:
            validate.validate(found, KUBERNETES, strict=True)
        for pod in charted.pods(found):
            validate.validate(pod, KUBERNETES, strict=True)  # the templates in custom resources are not looked into


def test_the_check_sees_what_an_api_server_sees(render: Any, crds: definitions.Definitions) -> None:
    """A control: objects are broken one by one, and each time the definitions notice."""
    pytest.importorskip("celpy", reason="cel-python is not installed: pip install cel-python")
    (sound,) = [
        found
        for found in render(charted.everything())
        if found["kind"] == "RayJob" and "cleaned" in found["metadata"]["name"]
    ]
    assert crds.faults(sound) == []
    head = ("rayClusterSpec", "headGroupSpec")
    rules = ("deletionStrategy", "deletionRules")
    condition = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}
    breaks: dict[str, tuple[tuple[str | int, ...], Any]] = {
        "Additional properties": ((*head, "unknown"), 1),
        "is not of type 'integer'": (("backoffLimit",), "two"),
        "is not one of": ((*rules, 0, "policy"), "Delete"),
        "must be either": (("managedBy",), "somebody"),
        "cannot be used together within the same deletion condition": ((*rules, 0, "condition"), condition),
        "requires either the JobStatus": ((*rules, 0, "condition"), {"ttlSeconds": 3}),
        "cannot be used together within the same deletionStrategy": (
            ("deletionStrategy", "onSuccess"), {"policy": "DeleteSelf"},
        ),
        "requires either BOTH": (("deletionStrategy",), {}),
    }  # fmt: skip
    for said, (path, value) in breaks.items():
        broken = copy.deepcopy(sound)
        place: Any = broken["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert any(said in fault for fault in crds.faults(broken)), said


def test_defaults_are_filled_in_before_validation(render: Any, crds: definitions.Definitions) -> None:
    (found,) = [found for found in render(charted.profile("small")) if found["kind"] == "RayCluster"]
    assert "numOfHosts" not in found["spec"]["workerGroupSpecs"][0]
    completed = crds.completed(found)
    assert completed["spec"]["workerGroupSpecs"][0]["numOfHosts"] == 1


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']", "kueue.x-k8s.io/multikueue", True),
        ("self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']", "me", False),
        ("has(self.a) || has(self.b)", {"b": 1}, True),
        ("self.all(l1, self.exists_one(l2, l1.name == l2.name))", [{"name": "a"}, {"name": "a"}], False),
    ],
)
def test_cel_means_here_what_it_means_there(rule: str, value: Any, expected: bool) -> None:
    pytest.importorskip("celpy", reason="cel-python is not installed: pip install cel-python")
    assert definitions.holds(rule, value) is expected
