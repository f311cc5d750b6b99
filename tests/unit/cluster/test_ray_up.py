"""The files for `ray up`: taken by Ray's own schema, safe unless told otherwise, not to be started half filled in."""

from __future__ import annotations

import copy
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from definition import RAY_UP, ROOT

pytest.importorskip("ray")

from ray.autoscaler._private.util import prepare_config, validate_config

FILES = sorted(RAY_UP.glob("*.yaml"))
# A Python that only notes what it is asked.
PYTHON = """#!/bin/bash
echo "$*" >>"${NOTES:-/dev/null}"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""
WHEEL = "llmyard-0.1.0-py3-none-any.whl"
CLOUDS = [path for path in FILES if path.stem != "on-premise"]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def filled(path: Path) -> dict[str, Any]:
    """Returns a file's config with something where it is to be filled in."""
    return dict(yaml.safe_load(text_of(path).replace("FILL-IN", "filled-in")))


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config as `ray up` has it, with Ray's defaults; raises what Ray refuses."""
    found = prepare_config(config)
    validate_config(found)
    return dict(found)


def commands(config: dict[str, Any]) -> list[str]:
    return [each for key, value in config.items() if key.endswith("_commands") for each in value]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_takes_it(path: Path) -> None:
    config = prepared(filled(path))
    assert config["provider"]["type"] == {"on-premise": "local"}.get(path.stem, path.stem)
    assert config["head_node_type"] in config["available_node_types"]
    assert not config["docker"]
    assert config["cluster_synced_files"] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_refuses_what_is_misspelt(path: Path) -> None:
    wrong = filled(path) | {"idle_timeout_minuets": 5}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuets"):
        prepared(wrong)
    wrong = filled(path)
    wrong["auth"]["ssh_usr"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="ssh_usr"):
        prepared(wrong)


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_ray_refuses_what_is_misspelt_in_a_group(path: Path) -> None:
    wrong = copy.deepcopy(filled(path))
    wrong["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        prepared(wrong)
    wrong = copy.deepcopy(filled(path)) | {"max_workers": 1}
    wrong["available_node_types"]["cpu"]["min_workers"] = 2
    with pytest.raises(ValueError, match="max_workers"):
        prepared(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_start_asks_for_the_token_and_the_dashboard_is_the_heads_own(path: Path) -> None:
    config = prepared(filled(path))
    starts = [each for each in commands(config) if "ray start" in each]
    assert len(starts) == 2
    for each in commands(config):
        assert "ray " not in each or each.startswith(". ~/.llmyard/ray-up/env;"), each
    heads = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in heads
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in heads
    assert ("RAY_enable_autoscaler_v2=0" in heads) == (path.stem == "on-premise")  # v2 would leave a machine out
    environment = subprocess.run(
        ["bash", "-c", ". ./env; env"], cwd=RAY_UP, env={"HOME": "/home/x", "PATH": "/bin:/usr/bin"},
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert "RAY_AUTH_MODE=token" in environment
    (remote,) = config["file_mounts"]
    assert f"RAY_AUTH_TOKEN_PATH={remote.replace('~', '/home/x')}/auth_token" in environment
    assert config["file_mounts"][remote] == f"~/.llmyard/ray-up/{path.stem}"
    assert [each for each in environment if each.startswith("PATH=/home/x/.llmyard/venv/bin:")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_start_has_the_options(path: Path) -> None:
    from ray.scripts.scripts import start, stop

    known = {name: {option for each in command.params if isinstance(each, click.Option) for option in each.opts}
             for name, command in (("start", start), ("stop", stop))}  # fmt: skip
    config = prepared(filled(path))
    used = [match for each in commands(config) for match in re.finditer(r"ray (start|stop)([^;]*)", each)]
    assert len(used) == 4
    for match in used:
        options = {word.split("=")[0] for word in match[2].split() if word.startswith("--")}
        assert options
        assert options <= known[match[1]], match[0]


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_work_lands_on_spot_workers_and_none_on_the_head(path: Path) -> None:
    types = prepared(filled(path))["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert set(types) == {"head", "cpu", "gpu"}
    for name, spot in (("head", False), ("cpu", True), ("gpu", True)):
        node = types[name]["node_config"]
        assert ("InstanceMarketOptions" in node or "scheduling" in node) == spot, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_open_to_the_world(path: Path) -> None:
    """Beyond SSH, which Ray's and Google's own defaults let in."""
    values = re.sub(r"#.*", "", text_of(path))
    assert "0.0.0.0" not in values
    assert "IpPermissions" not in values
    assert "security_group" not in values


def bundle(path: Path, home: Path, python: str = "false") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(RAY_UP / "bundle"), str(path)], env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHON": python},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_not_filled_in_is_refused_with_its_lines(path: Path, tmp_path: Path) -> None:
    done = bundle(path, tmp_path)
    assert done.returncode == 2
    lines = [number for number, line in enumerate(text_of(path).splitlines(), 1) if re.match(r"[^#]*FILL-IN", line)]
    assert 1 <= len(lines) <= 6
    assert all(re.search(rf"\b{number}:", done.stderr) for number in lines)
    assert "remedy: put your own values where FILL-IN stands" in done.stderr
    assert not (tmp_path / ".llmyard").exists()  # and without that folder `ray up` has no file to bring along


def test_a_bundle_has_what_nodes_install_and_a_token_of_its_own(tmp_path: Path) -> None:
    ready = tmp_path / "on-premise.yaml"
    ready.write_text(text_of(RAY_UP / "on-premise.yaml").replace("FILL-IN", "filled-in"), encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'{PYTHON}[[ $* != *" wheel "* ]] || touch "$HOME/.llmyard/ray-up/on-premise/{WHEEL}"\n', "utf-8")
    python.chmod(0o755)
    done = bundle(ready, tmp_path, str(python))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / ".llmyard" / "ray-up" / "on-premise"
    locks = {path.name for path in (*(ROOT / "cluster" / "image").glob("*.lock"), *RAY_UP.glob("*.lock"))}
    names = {path.name for path in folder.iterdir()}
    assert names == {*locks, "node", "env", "auth_token", WHEEL}
    token = folder / "auth_token"
    assert re.fullmatch(r"[0-9a-f]{64}", token.read_text(encoding="utf-8").strip())
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = token.read_bytes()
    assert bundle(ready, tmp_path, str(python)).returncode == 0
    assert token.read_bytes() == before


def test_a_node_installs_once_and_checks_every_file(tmp_path: Path) -> None:
    """With a Python that only notes what it is asked."""
    folder = tmp_path / ".llmyard" / "ray-up"
    folder.mkdir(parents=True)
    for path in (*(ROOT / "cluster" / "image").glob("*.lock"), *RAY_UP.glob("*.lock"), RAY_UP / "node"):
        shutil.copy(path, folder)
    (folder / WHEEL).touch()
    (tmp_path / "python3.11").write_text(PYTHON, encoding="utf-8")
    (tmp_path / "python3.11").chmod(0o755)
    notes = tmp_path / "notes"
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin", "NOTES": str(notes)}

    def calls(*cloud: str) -> list[str]:
        notes.write_text("", encoding="utf-8")
        subprocess.run(["bash", str(folder / "node"), *cloud], env=environment, check=True)
        return [line for line in notes.read_text(encoding="utf-8").splitlines() if " install " in line]

    first = calls()
    assert len(first) == 3
    for call in first:
        assert "--require-hashes" in call or "--no-index" in call, call
        assert all((folder / name).exists() for name in re.findall(r"-r (\S+)", call)), call
    assert "-r torch-cuda.lock" in first[1]
    assert calls() == []
    assert "-r aws.lock" in calls("aws")[1]
    (folder / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert "-r torch-cpu.lock" in calls("aws")[1]
    bashrc = (tmp_path / ".bashrc").read_text(encoding="utf-8")
    assert bashrc == ". ~/.llmyard/ray-up/env\n"
