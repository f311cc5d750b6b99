"""A node lost by its link, and an endpoint updated and drained; `bash cluster/local chaos cluster` does more of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

from _lab import lab


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_lost_nodes_cost_no_step_and_updates_no_request() -> None:
    if missing := lab.why_not():
        pytest.skip(missing)
    script = Path(__file__).with_name("cluster.py")
    command = [sys.executable, str(script), "--count", "1", "--steps", "150", "--minutes", "0.3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["kills"], figures["lost"], figures["mismatched"], figures["lost_requests"]) == (1, 0, 0, 0)
    assert figures["requests"] > 0
