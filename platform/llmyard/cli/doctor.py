"""``llmyard doctor``: what of this machine could get in the way."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from typing import Any

import typer

from llmyard.cli.shell import Shell
from llmyard.core.errors import LlmyardError

_PACKAGES = ("ray", "torch", "transformers", "datasets", "mlflow", "pyarrow")
_NEEDED_MEMORY = 6e9
_NEEDED_DISK = 2e9


def examine(shell: Shell, storage: str | None) -> None:
    """Prints each finding with its remedy; exits with 1 if one of them stops llmyard."""
    from llmyard.core.storage import Storage

    rows: list[dict[str, Any]] = [_python(), *(_package(name) for name in _PACKAGES), _cpus(), _memory()]
    where = Storage.resolve(storage)
    if where.is_local:
        rows += [_disk(where.uri)]
    rows += [_shared_memory(), _temporary(), _port(8000), _accelerator()]
    for row in rows:
        if not shell.json:
            mark = "ok  " if row["ok"] else "FAIL"
            typer.echo(
                f"{mark} {row['what']}: {row['found']}" + (f"\n       remedy: {row['remedy']}" if not row["ok"] else "")
            )
    failed = [row for row in rows if not row["ok"]]
    if failed:
        shell.found = {"checks": rows}
        raise LlmyardError(f"{len(failed)} of {len(rows)} checks failed", "see the remedies above")
    shell.finish({"checks": rows})


def _row(what: str, found: str, ok: bool, remedy: str = "") -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok, "remedy": remedy}


def _python() -> dict[str, Any]:
    return _row("Python", sys.version.split()[0], sys.version_info >= (3, 11), "install Python 3.11 or newer")


def _package(name: str) -> dict[str, Any]:
    try:
        return _row(name, importlib.metadata.version(name), True)
    except importlib.metadata.PackageNotFoundError:
        return _row(name, "missing", False, "bash cluster/local doctor installs the tested set")


def _cpus() -> dict[str, Any]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _row("CPUs", str(count), True)


def _memory() -> dict[str, Any]:
    import psutil

    free = psutil.virtual_memory().available
    return _row(
        "memory available",
        f"{free / 1e9:.1f} GB",
        free >= _NEEDED_MEMORY,
        "quickstart needs up to 6 GB: close other programs",
    )


def _disk(folder: str) -> dict[str, Any]:
    there = folder
    while not os.path.exists(there):
        there = os.path.dirname(there)
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    found = f"{free / 1e9:.1f} GB free at {folder}" + ("" if writable else ", read-only")
    return _row("storage", found, writable and free >= _NEEDED_DISK, "give another --storage")


def _shared_memory() -> dict[str, Any]:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return _row("shared memory", "no /dev/shm", True)
    return _row(
        "shared memory", f"{free / 1e9:.1f} GB", free >= 5e8, "Ray's object store spills to disk: enlarge /dev/shm"
    )


def _temporary() -> dict[str, Any]:
    free = shutil.disk_usage("/tmp").free
    return _row(
        "/tmp",
        f"{free / 1e9:.1f} GB free",
        free >= 1e9 and os.access("/tmp", os.W_OK),
        "Ray keeps its session there: free some",
    )


def _port(port: int) -> dict[str, Any]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return _row(f"port {port}", "in use", True)
    return _row(f"port {port}", "free", True)


def _accelerator() -> dict[str, Any]:
    import torch

    found = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none; training uses the CPUs"
    return _row("GPU", found, True)
