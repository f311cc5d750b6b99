"""The chart, loaded once; what a test needs and does not find makes it skip, with the reason."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for charted and definitions

import charted
import definitions

Render = Callable[..., list[charted.Object]]


def pytest_configure(config: pytest.Config) -> None:
    """Names the marker of what needs a cluster; nothing outside this folder uses it."""
    config.addinivalue_line("markers", "kubernetes: needs the cluster that KUBECONFIG names; skipped without")


@pytest.fixture(scope="session")
def helm() -> Any:
    """Helm 4 as a wheel."""
    return pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: pip install helm-python-sdk")


@pytest.fixture(scope="session")
def complete_chart(helm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart's folder as it is packaged, with Ray's dashboards."""
    return Path(charted.script("package").complete(tmp_path_factory.mktemp("complete")))


@pytest.fixture(scope="session")
def chart(helm: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The chart with a small dashboard: Ray's would double the time of a rendering."""
    folder = tmp_path_factory.mktemp("chart") / charted.CHART.name
    shutil.copytree(charted.CHART, folder)
    (folder / "dashboards").mkdir()
    (folder / "dashboards" / "small.json").write_text('{"panels": [{"title": "{{ legend }}"}]}', encoding="utf-8")
    return helm.Chart.load(folder)


@pytest.fixture(scope="session")
def render(chart: Any) -> Render:
    """Renders values to objects."""

    def rendered(values: dict[str, Any], name: str = charted.RELEASE) -> list[charted.Object]:
        return [found for _, found in charted.objects(chart.render(values, name=name, namespace=charted.NAMESPACE))]

    return rendered


@pytest.fixture(scope="session")
def crds(request: pytest.FixtureRequest) -> definitions.Definitions:
    """The definitions of KubeRay and the Gateway API, if they lie beside the checkout."""
    if not charted.FIXTURES.is_dir():
        pytest.skip(f"there are no definitions in {charted.FIXTURES}")
    cache = getattr(request.config, "cache", None)
    return definitions.read(charted.FIXTURES, cache.mkdir("custom-resource-definitions") if cache else None)
