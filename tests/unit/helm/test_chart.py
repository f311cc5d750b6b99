"""The chart as Helm sees it: what it renders to, one object a template, and the scripts beside it."""

from __future__ import annotations

import json
import os
import re
import shlex
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import charted
import pytest
import yaml

from llmyard.core.storage import Storage

TEMPLATES = charted.CHART / "templates"
MAXIMUM_LINES = 400


@pytest.fixture(scope="module", params=charted.PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_lint_finds_nothing(helm: Any, complete_chart: Path, profile: str) -> None:
    report = helm.lint(complete_chart, charted.profile(profile), strict=True, namespace=charted.NAMESPACE)
    assert not report["errors"]
    # An icon is advised, which the chart has none of; severity 1 is that.
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_defaults_ask_for_nothing_and_render(chart: Any) -> None:
    made = Counter(found["kind"] for _, found in charted.objects(chart.render({}, name="rel", namespace="llmyard")))
    assert made == {"NetworkPolicy": 3}  # all denied, DNS and the operator allowed: there are no pods yet


def test_every_template_makes_objects_of_one_kind(chart: Any) -> None:
    kinds: dict[str, set[str]] = {}
    for name in charted.PROFILES:
        values = charted.merged(charted.profile(name), charted.at("head.protectFromEviction", True))
        for template, found in charted.objects(chart.render(values, name="rel", namespace="llmyard")):
            kinds.setdefault(template, set()).add(found["kind"])
    assert all(len(found) == 1 for found in kinds.values()), kinds
    assert kinds.keys() == {path.name for path in TEMPLATES.glob("*.yaml")} - {"validate.yaml"}


def test_names_are_unique_and_in_the_releases_namespace(render: Any, profile: str) -> None:
    found = render(charted.profile(profile))
    names = Counter((each["kind"], each["metadata"]["name"]) for each in found)
    assert max(names.values()) == 1
    assert {each["metadata"]["namespace"] for each in found} == {charted.NAMESPACE}


def test_no_file_grows_past_the_limit() -> None:
    counted = {
        path.relative_to(charted.HELM).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in charted.HELM.rglob("*")
        if path.is_file() and path.suffix in {".yaml", ".tpl", ".py", ".md", ".json"}
    }
    assert {name: lines for name, lines in counted.items() if lines > MAXIMUM_LINES} == {}


def test_a_job_file_reaches_the_head_unchanged(render: Any) -> None:
    found = render(charted.profile("gpu"))
    (files,) = [
        each["data"] for each in found if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "rel-llmyard-jobs"
    ]
    assert len(files) == 2
    assert set(files.values()) == {charted.JOB}
    for job in (each for each in found if each["kind"] == "RayJob"):
        words = shlex.split(job["spec"]["entrypoint"])
        assert words[words.index("llmyard") + 2].removeprefix("/etc/llmyard/jobs/") in files


def test_all_ready_jobs_can_be_run(render: Any) -> None:
    paths = [path for path in sorted((charted.ROOT / "jobs").rglob("*.yaml")) if path.parent.name != "deploy"]
    texts = {f"j{number}": {"job": path.read_text(encoding="utf-8")} for number, path in enumerate(paths)}
    values = {"auth": {"existingSecret": "t"}, "storage": {"claim": "artifacts"}, "jobs": texts}
    found = render(values)
    (files,) = [each["data"] for each in found if each["kind"] == "ConfigMap"]
    assert sorted(files.values()) == sorted(each["job"] for each in texts.values())


def test_an_entrypoint_is_one_simple_command(render: Any) -> None:
    """KubeRay writes it into `if ...; then ray job submit ... -- ENTRYPOINT; fi`; Ray quotes its words again."""
    for job in (each for each in render(charted.profile("small")) if each["kind"] == "RayJob"):
        lexer = shlex.shlex(job["spec"]["entrypoint"], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        assert not any(word in {"&&", "||", ";", "|", "&", "(", ")", "<", ">"} for word in words), words
        assert words == shlex.split(shlex.join(words))
        if "train" in job["metadata"]["name"]:
            assert words[-4:] == ["--set", "model.layers=4", "--set", "note=it's"]


def test_another_job_is_another_rayjob_and_another_file(render: Any) -> None:
    def named(text: str) -> str:
        values = charted.merged(charted.profile("small"), charted.at("jobs.train.job", text))
        (job,) = [each for each in render(values) if each["kind"] == "RayJob" and "train" in each["metadata"]["name"]]
        return str(job["metadata"]["name"])

    assert named(charted.JOB) == named(charted.JOB)
    assert named(charted.JOB) != named(charted.JOB + "# more\n")


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_values_that_the_readme_shows_render(render: Any, name: str) -> None:
    text = (charted.CHART / name).read_text(encoding="utf-8")
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    ]
    site, jobs = (charted.loaded(block) for block in blocks)
    site["image"]["digest"] = charted.SITE["image"]["digest"]  # it is left out there
    jobs["jobs"]["pretrain"]["job"] = charted.JOB  # so is some of the text
    jobs["mlflow"] = charted.SITE["mlflow"]
    jobs["networkPolicy"] = {"egress": {"mlflow": charted.SITE["networkPolicy"]["egress"]["mlflow"]}}
    kinds = {each["kind"] for each in render(charted.merged(site, jobs))}
    assert {"RayService", "RayJob", "Ingress"} <= kinds


def test_a_version_of_the_chart_replaces_no_cluster(render: Any) -> None:
    """KubeRay makes a new cluster when the spec of one changes: what changes with each release stays out of it."""
    for found in render(charted.profile("production")):
        if found["kind"] in {"RayService", "RayCluster", "RayJob"}:
            spec = json.dumps({**charted.cluster_of(found), "rayVersion": ""})
            assert "helm.sh/chart" not in spec
            assert "app.kubernetes.io/version" not in spec


def test_serves_config_is_one_that_serve_reads(render: Any) -> None:
    from ray.serve.schema import ServeDeploySchema

    from llmyard.serving.application import Served

    for found in render(charted.profile("production")):
        if found["kind"] == "RayService":
            config = ServeDeploySchema.model_validate(charted.loaded(found["spec"]["serveConfigV2"]))
            (application,) = config.applications
            served = Served.model_validate(application.args)
            assert served.models
            assert Storage.resolve(served.storage).uri == "s3://artifacts/llmyard"
            (deployment,) = application.deployments
            assert deployment.name == "llmyard"
            assert application.import_path == "llmyard.serving.application:build"


def test_an_endpoint_is_told_all_that_the_application_takes(render: Any) -> None:
    from llmyard.serving.application import Served
    from llmyard.serving.config import Canary, Limits

    words = {"lists": ["/storage/words"], "harmless": ["s3://b/harmless"], "maxDensity": 0.5}
    judged = {"weight": 0.5, "leastRequests": 9, "mostFailing": 0.1, "mostSlower": 2}
    canary = {"model": "chat@2", "beside": "chat", **judged}
    given = {
        "index": "passages@3", "canaries": [canary, {"model": "models:/zh-en@next", "beside": "zh-en"}],
        "maxBodyBytes": 2_000_000, "bodySeconds": 0.5, "maxNewTokens": 9, "maxTokensUnderWay": 2_000_000,
        "deadlineSeconds": 9.5, "harmfulWords": words,
    }  # fmt: skip
    values = charted.merged(charted.profile("small"), charted.at("endpoints.chat", given))
    (found,) = [each for each in render(values) if each["kind"] == "RayService" and "chat" in each["metadata"]["name"]]
    (application,) = charted.loaded(found["spec"]["serveConfigV2"])["applications"]
    served = Served.model_validate(application["args"])
    assert served.index == "passages@3"
    assert served.canaries == (
        Canary(model="chat@2", beside="chat", weight=0.5, least_requests=9, most_failing=0.1, most_slower=2),
        Canary(model="models:/zh-en@next", beside="zh-en"),
    )
    limits = served.limits.model_dump()
    harmful = limits.pop("harmful_words")
    assert harmful == {"lists": ("/storage/words",), "harmless": ("s3://b/harmless",), "max_density": 0.5}
    assert limits == {
        "max_body_bytes": 2_000_000, "body_seconds": 0.5, "max_new_tokens": 9, "max_tokens_under_way": 2_000_000,
        "deadline_seconds": 9.5,
    }  # fmt: skip
    usual = charted.loaded((charted.CHART / "values.yaml").read_text(encoding="utf-8"))["endpointDefaults"]
    ours = {"maxBodyBytes": "max_body_bytes", "bodySeconds": "body_seconds", "maxNewTokens": "max_new_tokens",
            "maxTokensUnderWay": "max_tokens_under_way", "deadlineSeconds": "deadline_seconds"}  # fmt: skip
    assert {theirs: usual[name] for name, theirs in ours.items()} == Limits().model_dump(exclude={"harmful_words"})


@pytest.mark.parametrize("least", [0, 1])
def test_the_head_takes_callers_where_no_replica_may_be_there_to(render: Any, least: int) -> None:
    given = {"replica": {"minReplicas": least}, "haproxy": {"enabled": bool(least)}}
    for found in render(charted.merged(charted.profile("small"), charted.at("endpoints.chat", given))):
        if found["kind"] != "RayService" or "chat" not in found["metadata"]["name"]:
            continue
        assert found["spec"]["excludeHeadPodFromServeSvc"] is bool(least)
        config = charted.loaded(found["spec"]["serveConfigV2"])
        assert config["applications"][0]["deployments"][0]["autoscaling_config"]["min_replicas"] == least
        for pod in charted.pods(found):
            variables = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
            program = variables.get("RAY_SERVE_HAPROXY_BINARY_PATH")
            assert (variables.get("RAY_SERVE_ENABLE_HA_PROXY"), program) == (
                ("1", "/usr/local/bin/llmyard-haproxy") if least else (None, None)
            )
            assert {"name": "tmp", "mountPath": "/tmp"} in pod["spec"]["containers"][0]["volumeMounts"]


def test_the_package_holds_dashboards_and_lints(helm: Any, complete_chart: Path, tmp_path: Path) -> None:
    archive = Path(helm.package(complete_chart, destination=tmp_path))
    with helm.Chart.load(archive) as packaged:
        names = {each["name"] for each in packaged.files}
        assert {"dashboards/default.json", "dashboards/serve.json", "files/smoke.py", "README.zh.md"} <= names
        rendered = packaged.render(charted.profile("production"), name="rel", namespace="llmyard")
    boards = [found for _, found in charted.objects(rendered) if "dashboard" in found["metadata"]["name"]]
    assert len(boards) == 6
    for board in boards:
        ((_, content),) = board["data"].items()
        assert json.loads(content)["panels"]
        assert len(content) < 900_000  # a ConfigMap holds 1 MiB
        assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_dashboards_of_another_ray_are_refused(helm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = charted.script("package")
    monkeypatch.setattr("ray.__version__", "2.0.0")
    with pytest.raises(package.Unfit, match=r"Ray 2\.0\.0 is installed, and the chart is for 2\.60\.0"):
        package.package(tmp_path)
    assert package.main([str(tmp_path)]) == 2


def test_without_dashboards_the_chart_says_how_to_get_them(helm: Any) -> None:
    with helm.Chart.load(charted.CHART) as plain, pytest.raises(helm.HelmError, match=r"helm/package\.py"):
        plain.render(charted.at("monitoring.dashboards.enabled", True), name="rel")


def test_goldens(render: Any, profile: str, request: pytest.FixtureRequest) -> None:
    """The whole of what each profile renders to; `LLMYARD_GOLDEN=write` writes it anew, to be read in the diff."""
    folder = Path(__file__).parent / "golden" / profile
    texts: dict[str, str] = {}
    for found in sorted(render(charted.profile(profile)), key=lambda each: (each["kind"], each["metadata"]["name"])):
        if found["kind"] == "ConfigMap" and "dashboard" in found["metadata"]["name"]:
            continue  # Ray's, checked above
        split = found["kind"] in {"RayService", "RayCluster", "RayJob"}
        file = f"{found['kind']}-{found['metadata']['name']}.yaml" if split else f"{found['kind']}.yaml"
        text = yaml.safe_dump(found, sort_keys=False, width=120, explicit_start=True, default_flow_style=None)
        texts[file] = texts.get(file, "") + text
    if os.environ.get("LLMYARD_GOLDEN") == "write":
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.yaml"):
            old.unlink()
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    kept = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    assert kept.keys() == texts.keys()
    for file, text in texts.items():
        assert text == kept[file], file
