"""Packages the chart, with llmyard's and the installed Ray's Grafana dashboards: python helm/package.py [DESTINATION].

They are not kept in the repository: they belong to what is installed, and a copy would grow old.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).with_name("llmyard")
# Of Ray's dashboards those for what llmyard runs: nodes and tasks, Serve, Data and Train.
DASHBOARDS = ("default", "serve", "serve_deployment", "data", "train")


class Unfit(Exception):
    """The environment cannot package the chart; the message says what to install."""


def dashboards() -> dict[str, str]:
    """Returns llmyard's dashboard and Ray's by name, as JSON.

    Raises:
        Unfit: llmyard or Ray is not installed, Ray is another version than the chart's, or has no such dashboard.
    """
    wanted = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["rayVersion"]
    try:
        import ray
        from ray.dashboard.modules.metrics import grafana_dashboard_factory as factory
    except ImportError as error:
        raise Unfit(f"Ray's dashboards cannot be imported ({error}): pip install 'ray[default]=={wanted}'") from None
    if ray.__version__ != wanted:
        raise Unfit(f"Ray {ray.__version__} is installed, and the chart is for {wanted}: install that version")
    try:
        from llmyard.serving.grafana import dashboard
    except ImportError as error:
        raise Unfit(f"llmyard's dashboard cannot be imported ({error}): pip install -e .") from None
    made = {"llmyard": _packed(dashboard())}
    for name in DASHBOARDS:
        generate = getattr(factory, f"generate_{name}_grafana_dashboard", None)
        if generate is None:
            raise Unfit(f"Ray {ray.__version__} has no dashboard {name!r}: mend DASHBOARDS in {__file__}")
        content, _ = generate()
        made[name.replace("_", "-")] = _packed(json.loads(content))
    return made


def _packed(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), sort_keys=True)


def complete(into: Path) -> Path:
    """Copies the chart into a folder, with the dashboards, and returns the copy."""
    chart = into / CHART.name
    shutil.copytree(CHART, chart)
    (chart / "dashboards").mkdir()
    for name, content in dashboards().items():
        (chart / "dashboards" / f"{name}.json").write_text(content, encoding="utf-8")
    return chart


def package(destination: Path) -> Path:
    """Writes the packaged chart into a folder and returns its path."""
    try:
        import helm_python
    except ImportError:
        raise Unfit("Helm is not installed: pip install helm-python-sdk") from None
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        return Path(helm_python.package(complete(Path(scratch)), destination=destination))


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 2 cannot."""
    try:
        made = package(Path(arguments[0] if arguments else "dist"))
    except Unfit as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
