"""On a cluster with KubeRay, where KUBECONFIG names one: `pytest -m kubernetes`. Nothing else here needs one.

A server-side dry run makes nothing. What installs needs values of that cluster: an image that it can pull, Secrets and
a storage that are there; LLMYARD_TEST_VALUES names a file with them, LLMYARD_TEST_NAMESPACE where to install.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import charted
import pytest

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
]
TEST_VALUES = os.environ.get("LLMYARD_TEST_VALUES", "")


@pytest.fixture
def cluster(helm: Any) -> Iterator[Any]:
    """A connection; the test fails, and is not skipped, where the named cluster does not answer."""
    namespace = os.environ.get("LLMYARD_TEST_NAMESPACE", charted.NAMESPACE)
    with helm.Config(namespace=namespace) as config:
        config.check_reachable()
        yield config


@pytest.mark.parametrize("profile", [*charted.PROFILES, "everything"])
def test_the_api_server_takes_all_objects(cluster: Any, chart: Any, profile: str) -> None:
    values = charted.everything() if profile == "everything" else charted.profile(profile)
    release = cluster.install(chart, f"dry-{profile[:5]}", values, dry_run="server", timeout=120)
    assert "RayService" in release["manifest"]


@pytest.mark.skipif(not TEST_VALUES, reason="LLMYARD_TEST_VALUES names no values to install with")
def test_an_installed_release_passes_its_test(cluster: Any, complete_chart: Path) -> None:
    values = charted.loaded(Path(TEST_VALUES).read_text(encoding="utf-8"))
    cluster.install(complete_chart, "llmyard-test", values, create_namespace=True, timeout=900)
    try:
        cluster.test("llmyard-test", timeout=1800, logs=True)
    finally:
        cluster.uninstall("llmyard-test", timeout=300)
