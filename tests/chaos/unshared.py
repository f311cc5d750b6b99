"""A node that does not see the storage beside one that does: what a training on both says.

    python tests/chaos/unshared.py

The node's Ray runs in a mount namespace of its own, in which an empty folder hides the storage; that needs root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _cluster import LocalCluster
from _commands import Command
from _training import copy_prepared, write_jobs

PATIENCE = 180.0


def main() -> int:
    """Runs the job; prints what it said and returns its exit code."""
    import ray

    home = Path(tempfile.mkdtemp(prefix="yct", dir="/tmp"))
    seen: dict[int, float] = {}
    prepare, job = write_jobs(home, 20)
    done = Command(prepare, home / "made", home / "log0", home.name, seen)
    assert done.process.wait(timeout=PATIENCE) == 0, done.output()
    storage = home / "storage"
    copy_prepared(home / "made", storage)
    cluster = LocalCluster(home.name, nodes=1)
    start = [str(Path(sys.executable).with_name("ray")), "start", f"--address={cluster.address}", "--num-cpus=1",
             "--object-store-memory=100000000", "--block"]  # fmt: skip
    hidden = f'mount -t tmpfs none "{storage}" && exec "$@"'
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        give_up = time.monotonic() + PATIENCE
        while ray.cluster_resources().get("CPU", 0) < 2 and time.monotonic() < give_up:
            time.sleep(0.2)
        command = Command(job, storage, home / "log1", home.name, seen, "--address", cluster.address)
        code = command.process.wait(timeout=PATIENCE)
        print(command.output())
    finally:
        node.terminate()
        node.wait()
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
