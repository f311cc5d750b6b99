"""The dashboard asks for metrics and labels that there are, shows all of them, and is what Grafana imports."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from llmyard.serving.grafana import UID, dashboard
from llmyard.serving.watching import METRICS

OF_CLUSTER = "ray_io_cluster"  # Prometheus puts it there
SELECTED = re.compile(r"(ray_\w+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """What Ray's own exporter tells Prometheus of llmyard's metrics: the labels of each name."""
    from prometheus_client import REGISTRY
    from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder

    recorder = OpenTelemetryMetricRecorder()
    for metric in METRICS.values():
        if metric.kind == "histogram":
            recorder.register_histogram_metric(metric.name, metric.description, list(metric.bounds))
        elif metric.kind == "counter":
            recorder.register_counter_metric(metric.name, metric.description)
        else:
            recorder.register_gauge_metric(metric.name, metric.description)
        recorder.set_metric_value(metric.name, dict.fromkeys(metric.tags, "x"), 1.0)
    found: dict[str, set[str]] = {}
    for family in REGISTRY.collect():
        for sample in family.samples:
            if sample.name.startswith("ray_llmyard_"):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def of_serve() -> str:
    """What Ray's own dashboards ask of Serve."""
    from ray.dashboard.modules.metrics import grafana_dashboard_factory as factory

    return str(factory.generate_serve_deployment_grafana_dashboard()[0])


def graphs() -> list[dict[str, Any]]:
    return [each for each in dashboard()["panels"] if each["type"] != "row"]


def queries() -> list[str]:
    variables = [each["query"]["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    return [target["expr"] for graph in graphs() for target in graph["targets"]] + variables


def test_every_query_names_metrics_and_labels_that_ray_exports(exported: dict[str, set[str]], of_serve: str) -> None:
    for query in queries():
        (name,) = set(re.findall(r"\bray_(?!io_)\w+", query))
        if name.startswith("ray_serve_"):
            assert re.search(rf"\b{name}\b", of_serve), query
            known = {"application", "deployment"}
        else:
            assert name in exported, query
            known = exported[name]
        asked = {label for _, chosen in SELECTED.findall(query) for label in re.findall(r"(\w+)=", chosen)}
        asked |= {label for some in re.findall(r"by \(([^)]*)\)", query) for label in some.split(", ")}
        asked |= set(re.findall(r"label_values\(.*, (\w+)\)", query))
        assert asked - {OF_CLUSTER} <= known, query


def test_every_metric_is_shown(exported: dict[str, set[str]]) -> None:
    shown = set(
        re.findall(r"\bray_llmyard_\w+", " ".join(target["expr"] for each in graphs() for target in each["targets"]))
    )
    assert {name for name in exported if not name.endswith(("_count", "_sum"))} == shown
    assert {name.removesuffix("_bucket") for name in shown} == {f"ray_{name}" for name in METRICS}


def test_what_a_legend_and_a_selector_name_is_what_the_query_keeps() -> None:
    for target in (target for each in graphs() for target in each["targets"]):
        kept = set(re.search(r"by \(([^)]*)\)", target["expr"])[1].split(", ")) - {"le"}  # type: ignore[index]
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == kept
        for _, chosen in SELECTED.findall(target["expr"]):
            assert f'{OF_CLUSTER}=~"$cluster"' in chosen.split(",")
        for name, rated in re.findall(r"(ray_\w+)\{[^}]*\}(\[\$__rate_interval\])?", target["expr"]):
            assert bool(rated) == name.endswith(("_total", "_bucket"))  # gauges have no rate, all else has


def test_grafana_takes_it() -> None:
    board = dashboard()
    assert board["uid"] == UID
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    assert board["title"]
    assert isinstance(board["schemaVersion"], int)
    assert board["id"] is None  # Grafana gives it one; another would take a dashboard's place
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert set(re.findall(r"\$(\w+)", json.dumps(board["panels"]))) - {"__rate_interval"} <= set(variables)
    ids = [each["id"] for each in board["panels"]]
    assert len(ids) == len(set(ids))
    for graph in graphs():
        assert {graph["datasource"]["uid"], *(each["datasource"]["uid"] for each in graph["targets"])} == {
            "${datasource}"
        }
        references = [each["refId"] for each in graph["targets"]]
        assert len(references) == len(set(references))
        assert re.search(r"[\u4e00-\u9fff]", graph["title"])
    places = [each["gridPos"] for each in board["panels"]]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_it_is_printed_for_those_who_import_it_by_hand() -> None:
    command = [sys.executable, "-m", "llmyard.serving.grafana"]
    said = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8").stdout
    assert json.loads(said) == dashboard()
