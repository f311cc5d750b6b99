"""Two kills amid a sweep as a test; `python tests/chaos/sweep.py --count N` makes more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_kills_lose_no_trial_and_repeat_none() -> None:
    script = Path(__file__).with_name("sweep.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "2", "--trials", "12", "--seconds", "1", "--seed", "3",
         "--roles", "trial,driver", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["by_role"] == {"trial": 1, "driver": 1}
    assert figures["trials"] == 12
    assert {figures[key] for key in ("lost", "duplicated", "mismatched", "open_runs", "missing_runs")} == {0}
