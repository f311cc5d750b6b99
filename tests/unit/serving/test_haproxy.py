"""HAProxy's configuration, mended: its figures and its admin socket are not for everybody."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.errors import LlmyardError
from llmyard.serving import haproxy


def written(tmp_path: Path) -> str:
    """What Ray writes for an endpoint on this machine."""
    pytest.importorskip("ray.serve")
    from jinja2 import Environment
    from ray.serve._private.haproxy import HAProxyConfig, HealthRouteInfo
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
    from ray.serve.config import HTTPOptions

    config = HAProxyConfig(http_options=HTTPOptions(host="127.0.0.1", port=8123), socket_path=f"{tmp_path}/admin.sock")
    made = Environment()
    made.filters["haproxy_fmt"] = str
    shown: Any = made.from_string(HAPROXY_CONFIG_TEMPLATE)
    routes = HealthRouteInfo(healthy=True, status=200, health_message="", routes_message="")
    names = {"config": config, "backends": [], "backends_with_health_config": [], "grpc_backends": []}
    return str(shown.render(**names, route_info=routes, healthz_rules="", grpc_healthz_rules=""))


def binds(config: str) -> dict[str, str]:
    found, head = {}, ""
    for line in config.splitlines():
        if line and not line[0].isspace():
            head = line.strip()
        if line.strip().startswith("bind "):
            found[head] = line.split()[1]
    return found


def test_what_ray_writes_listens_to_this_machine_only(tmp_path: Path) -> None:
    config = written(tmp_path)
    assert "mode 666" in config  # else there is nothing to mend any more
    assert binds(config)["listen stats"].startswith("*:")
    found = haproxy.hardened(config)
    assert "mode 666" not in found
    assert f"stats socket {tmp_path}/admin.sock mode 600 level admin" in found
    assert all(each.startswith("127.0.0.1:") for each in binds(found).values())
    assert binds(found)["frontend http_frontend"] == "127.0.0.1:8123"
    assert haproxy.hardened(found) == found  # a start that is tried again finds its file mended


@pytest.mark.parametrize(
    "config",
    [
        "",
        "global\n    stats socket /x mode 666 level admin\n",
        "global\n    stats socket /x mode 666 level admin\nlisten stats\n  bind *:1\n  bind *:2\n",
        "global\n    stats socket /x mode 666 level admin\nlisten stats\n  bind 0.0.0.0:1\n",
    ],
)
def test_what_is_not_known_is_not_started(config: str) -> None:
    with pytest.raises(LlmyardError, match="HAProxy"):
        haproxy.hardened(config)


def test_the_file_is_mended_before_haproxy_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if haproxy.binary() is None:
        pytest.skip("HAProxy is not here")
    file = tmp_path / "haproxy.cfg"
    file.write_text(written(tmp_path), encoding="utf-8")
    started: list[list[str]] = []
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/llmyard-haproxy")  # as Ray's processes have it
    monkeypatch.setattr(haproxy.os, "execv", lambda program, arguments: started.append(arguments))
    haproxy.main(["-db", "-f", str(file), "-sf", "12"])
    assert started[0][0] != "/bin/llmyard-haproxy"  # it would become itself for ever
    assert started[0][1:] == ["-db", "-f", str(file), "-sf", "12"]
    assert "mode 600" in file.read_text(encoding="utf-8")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    file.write_text("global\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        haproxy.main(["-f", str(file)])
    assert len(started) == 1
