"""The endpoint as the chart runs it, once inside what the chart's pods are: bubblewrap makes a machine of its own.

In it the user is 1000, has no capability and gets none, the root is read-only, and the network is a loopback; /tmp, the
home and the cache may be written. The chart's own values say the rest: environment, mounts, Serve's config. What it is
not: a cluster (the node is head and worker in one), and the system calls are not filtered as by RuntimeDefault. To the
machine outside the user is whoever runs the test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.serving.keys import hash_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "llmyard"
INSIDE = Path(__file__).with_name("restricted_endpoint.py")
KEY, TOKEN = "ly-restricted", "0123456789abcdef" * 4
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc")


@pytest.fixture(scope="module")
def bwrap() -> str:
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    done = subprocess.run(
        [program, "--unshare-all", "--uid", "1000", "--ro-bind", "/", "/", "true"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"bubblewrap may not make namespaces here: {done.stderr.strip()}")
    return program


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    """The container of a worker that the chart renders, with Serve's config as `config`."""
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: pip install helm-python-sdk")
    values = {
        "auth": {"existingSecret": "token"},
        "apiKeys": {"existingSecret": "keys"},
        "storage": {"claim": "artifacts"},
        "endpoints": {
            "chat": {
                "models": ["translator"],
                "replica": {"cpus": 1, "minReplicas": 1, "maxReplicas": 1},
                "haproxy": {"program": str(Path(sys.executable).with_name("llmyard-haproxy"))},
            }
        },
        "pools": {"cpu": {}},
    }
    rendered = helm.Chart.load(CHART).render(values, name="rel", namespace="llmyard")
    (text,) = [text for name, text in rendered.items() if name.endswith("/rayservice.yaml")]
    spec = yaml.safe_load(text)["spec"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    (found,) = group["template"]["spec"]["containers"]
    return {**found, "config": yaml.safe_load(spec["serveConfigV2"])}


def sandbox(program: str, container: dict[str, Any], sources: dict[str, Path]) -> list[str]:
    """Returns the command before what runs in the sandbox: the container's mounts, environment and rights."""
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--uid", "1000", "--gid", "1000"]
    command += ["--cap-drop", "ALL", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    for mount in container["volumeMounts"]:
        readonly = mount.get("readOnly", False)
        command += ["--ro-bind" if readonly else "--bind", str(sources[mount["mountPath"]]), mount["mountPath"]]
    for folder in SYSTEM:
        if Path(folder).is_symlink():
            command += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            command += ["--ro-bind", folder, folder]
    for folder in (sys.base_prefix, sys.prefix, str(ROOT / "platform"), str(INSIDE.parent), str(CHART)):
        command += ["--ro-bind", folder, folder]
    for variable in container["env"]:
        command += ["--setenv", variable["name"], variable["value"]]
    command += ["--setenv", "PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8"]
    return [*command, "--remount-ro", "/", "--chdir", "/workspace"]


def test_an_endpoint_of_the_chart_answers_without_any_right(
    bwrap: str, container: dict[str, Any], tiny: Any, tmp_path: Path
) -> None:
    secrets = {"ray-auth/auth_token": TOKEN, "api-keys/hashes": f"{hash_of(KEY)}\n"}
    for name, text in secrets.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    writable = {name: tmp_path / name.strip("/") for name in ("/tmp", "/workspace", "/cache")}
    for folder in writable.values():
        folder.mkdir()
    sources = writable | {
        "/storage": Path(tiny.store.storage.uri),
        "/var/run/llmyard/ray-auth": tmp_path / "ray-auth",
        "/var/run/llmyard/api-keys": tmp_path / "api-keys",
    }
    closed = ["/", "/usr", "/etc", "/storage", "/var/run/llmyard/api-keys", "/var/run/llmyard/ray-auth", sys.prefix]
    asked = {
        "config": container["config"], "key": KEY, "text": "马洛找到了一盏绿色的灯。", "closed": closed,
        "open": list(writable), "smoke": str(CHART / "files" / "smoke.py"),
    }  # fmt: skip
    (writable["/workspace"] / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    command = [*sandbox(bwrap, container, sources), sys.executable, str(INSIDE), "/workspace/asked.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=450, env={}, check=False)

    log = writable["/tmp"] / "ray-start.log"
    assert done.returncode == 0, done.stderr + done.stdout + (log.read_text() if log.exists() else "")
    *said, last = done.stdout.splitlines()
    found = json.loads(last)
    assert found["process"] == {
        "user": [1000, 1000, 1000], "capabilities": [0], "no_new_privileges": "1", "interfaces": ["lo"],
    }  # fmt: skip
    assert found["written"] == []
    assert found["unwritable"] == []
    assert (found["without_key"], found["wrong_key"]) == (401, 401)
    status, text = found["with_key"]
    assert (status, json.loads(text)["translation"]) == (200, "Malo found a green lamp.")
    assert (found["smoke"], len(said)) == (0, 2), said
