"""The Grafana dashboard of an endpoint: ``python -m llmyard.serving.grafana > llmyard.json``, to be imported there.

It asks Prometheus for the names that Ray's exporter gives to the metrics of :mod:`llmyard.serving.watching`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from llmyard.serving.watching import METRICS

UID, TITLE = "llmyard-endpoint", "llmyard endpoints · 端点"
WIDTH, HEIGHT = 8, 8  # of a panel; Grafana has 24 columns
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# A series without the label of KubeRay's clusters has it as "", which all clusters match.
_CHOSEN = {"ray_io_cluster": "$cluster", "model": "$model", "route": "$route"}
_CLUSTER = 'ray_io_cluster=~"$cluster"'
_RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A graph.

    Attributes:
        title: English and Chinese.
        unit: In Grafana's names.
        queries: PromQL, each with the legend of its series.
        description: Of what is shown.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str


def _selector(name: str, extra: str = "") -> str:
    """Returns a metric's series that the dashboard's variables choose."""
    labels = ("ray_io_cluster", *(tag for tag in METRICS[name].tags if tag in _CHOSEN))
    chosen = [f'{label}=~"{_CHOSEN[label]}"' for label in labels]
    return "{" + ",".join([*chosen, *([extra] if extra else [])]) + "}"


def _of(name: str, what: str) -> str:
    """Returns the text of a legend: a metric's labels, and what it is."""
    told = " ".join("{{" + tag + "}}" for tag in METRICS[name].tags)
    return f"{told} {what}".strip()


def _rate(name: str, what: str = "") -> tuple[str, str]:
    by = ", ".join(METRICS[name].tags)
    return f"sum by ({by}) (rate(ray_{name}{_selector(name)}{_RATE}))", _of(name, what)


def _now(name: str, what: str = "") -> tuple[str, str]:
    by = ", ".join(METRICS[name].tags)
    return f"sum by ({by}) (ray_{name}{_selector(name)})", _of(name, what)


def _quantile(share: float, name: str, what: str = "") -> tuple[str, str]:
    by = ", ".join(("le", *METRICS[name].tags))
    series = f"ray_{name}_bucket{_selector(name)}{_RATE}"
    legend = _of(name, f"{what} p{100 * share:g}".strip())
    return f"histogram_quantile({share:g}, sum by ({by}) (rate({series})))", legend


def _spread(title: str, unit: str, name: str) -> Panel:
    queries = tuple(_quantile(share, name) for share in (0.5, 0.95, 0.99))
    return Panel(title, unit, queries, METRICS[name].description)


def _failing(status: str, what: str) -> tuple[str, str]:
    name = "llmyard_requests_total"
    chosen = _selector(name, f'status=~"{status}"')
    every = f"sum by (route) (rate(ray_{name}{_selector(name)}{_RATE}))"
    return f"sum by (route) (rate(ray_{name}{chosen}{_RATE})) / {every}", f"{{{{route}}}} {what}"


def _replicas(name: str, what: str) -> tuple[str, str]:
    chosen = f'{{{_CLUSTER},deployment="llmyard"}}'
    return f"sum by (application) (ray_{name}{chosen})", f"{{{{application}}}} {what}"


def panels() -> dict[str, tuple[Panel, ...]]:
    """Returns the graphs of each row."""
    return {
        "Requests · 请求": (
            Panel("Requests per second · 每秒请求", "reqps", (_rate("llmyard_requests_total"),),
                  "Requests answered, by route and status."),
            Panel("Errors · 错误", "percentunit", (_failing("5..|0", "5xx"), _failing("4..", "4xx")),
                  "Share of the requests. 5xx counts what was cut off before it had a status, too."),
            _spread("Time of a request · 请求用时", "s", "llmyard_request_seconds"),
        ),
        "Latency of models · 模型延迟": (
            _spread("Time to first token · 首词元时间", "s", "llmyard_time_to_first_token_seconds"),
            _spread("Inter-token latency · 词元间隔", "s", "llmyard_inter_token_seconds"),
            Panel("Queue · 排队", "short", (
                _now("llmyard_requests_waiting", "waiting"), _now("llmyard_requests_running", "running"),
                _replicas("serve_deployment_queued_queries", "waiting for a replica"),
            ), "Requests that wait for an engine, answers being written, and requests that wait for a replica."),
        ),
        "Tokens · 词元": (
            Panel("Tokens per second · 每秒词元", "short", (
                _rate("llmyard_prompt_tokens_total", "in"), _rate("llmyard_generation_tokens_total", "out"),
            ), "Tokens read in prompts and written."),
            Panel("Tokens of a request · 每个请求的词元", "short", (
                _quantile(0.5, "llmyard_prompt_tokens", "in"), _quantile(0.95, "llmyard_prompt_tokens", "in"),
                _quantile(0.5, "llmyard_generation_tokens", "out"), _quantile(0.95, "llmyard_generation_tokens", "out"),
            ), "Tokens of a prompt and of an answer."),
            Panel("Ends of answers · 回答如何结束", "reqps", (_rate("llmyard_finished_total"),),
                  METRICS["llmyard_finished_total"].description),
        ),
        "Replicas · 副本": (
            Panel("KV cache · 键值缓存", "bytes", (_now("llmyard_kv_cache_bytes"),),
                  METRICS["llmyard_kv_cache_bytes"].description),
            Panel("Replicas · 副本", "short", (_replicas("serve_deployment_replica_healthy", "healthy"),),
                  "Replicas that pass their checks."),
            Panel("Spans dropped · 丢弃的跨度", "short", (_rate("llmyard_spans_dropped_total"),),
                  METRICS["llmyard_spans_dropped_total"].description),
        ),
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Returns the dashboard, as Grafana 9 or later imports it."""
    shown: list[dict[str, Any]] = []
    top = 0
    for row, graphs in panels().items():
        place = {"x": 0, "y": top, "w": 3 * WIDTH, "h": 1}
        shown.append({"id": len(shown) + 1, "type": "row", "title": row, "collapsed": False, "gridPos": place})
        for column, panel in enumerate(graphs):
            place = {"x": column * WIDTH, "y": top + 1, "w": WIDTH, "h": HEIGHT}
            shown.append({"id": len(shown) + 1, "gridPos": place, **_graph(panel)})
        top += 1 + HEIGHT
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0,
         "refresh": 1, "multi": False, "includeAll": False, "options": [], "current": {}, "regex": ""},
        _variable("cluster", "Cluster · 集群", "label_values(ray_llmyard_requests_total, ray_io_cluster)"),
        _variable("model", "Model · 模型", f"label_values(ray_llmyard_requests_running{{{_CLUSTER}}}, model)"),
        _variable("route", "Route · 路由", f"label_values(ray_llmyard_requests_total{{{_CLUSTER}}}, route)"),
    ]  # fmt: skip
    return {
        "uid": UID, "title": TITLE, "tags": ["llmyard", "ray"], "schemaVersion": 38, "version": 1, "id": None,
        "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "", "links": [],
        "time": {"from": "now-1h", "to": "now"}, "templating": {"list": variables},
        "annotations": {"list": []}, "panels": shown,
    }  # fmt: skip


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "definition": query,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "hide": 0, "multi": True,
        "includeAll": True, "allValue": ".*", "options": [], "regex": "",
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _graph(panel: Panel) -> dict[str, Any]:
    return {
        "type": "timeseries", "title": panel.title, "description": panel.description, "datasource": _SOURCE,
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend, "range": True}
            for at, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), ensure_ascii=False, indent=2) + "\n")
