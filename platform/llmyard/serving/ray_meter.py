"""Counts of an endpoint as Ray's own metrics: each node shows them to Prometheus, beside Ray's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmyard.serving.watching import METRICS


class RayMeter:
    """Counts with Ray; a metric is made when it is first counted."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def count(self, name: str, amount: float, tags: Mapping[str, str]) -> None:
        """Adds to a counter."""
        if amount > 0:  # Ray takes no other
            self._metric(name).inc(amount, dict(tags))

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Puts a value into a histogram."""
        self._metric(name).observe(value, dict(tags))

    def set(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Sets a gauge."""
        self._metric(name).set(value, dict(tags))

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            from ray.util import metrics

            asked = METRICS[name]
            shared: dict[str, Any] = {"description": asked.description, "tag_keys": asked.tags}
            if asked.kind == "histogram":
                shared["boundaries"] = list(asked.bounds)
            kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
            self._made[name] = kinds[asked.kind](name, **shared)
        return self._made[name]
