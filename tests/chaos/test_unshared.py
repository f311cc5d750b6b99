"""A storage that a node does not share is told before anything is trained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def may_mount() -> bool:
    """Whether this process can make a mount namespace."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    tried = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.chaos
@pytest.mark.skipif(not may_mount(), reason="needs root and mount namespaces")
def test_a_node_that_does_not_see_the_storage_is_named_with_the_remedy() -> None:
    script = Path(__file__).with_name("unshared.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is not shared" in done.stdout
    assert "s3://" in done.stdout
    assert "Traceback" not in done.stdout
