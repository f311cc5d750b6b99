"""A few kills as a test; `python tests/chaos/tracking.py --count N` makes more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_kills_lose_and_double_no_metric() -> None:
    script = Path(__file__).with_name("tracking.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "5", "--seed", "11", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] == 5
    assert {figures[key] for key in ("lost", "duplicated", "mismatched", "orphans", "unsent_folders")} == {0}
