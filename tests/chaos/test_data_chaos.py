"""A few kills under `prepare` as a test; `python tests/chaos/data.py --count N` makes more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_kills_lose_double_and_alter_no_document() -> None:
    script = Path(__file__).with_name("data.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "3", "--seed", "11", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] >= 3
    faults = ("lost", "duplicated", "mismatched", "orphans", "left_files", "extra_versions", "redone", "unclear")
    assert {figures[key] for key in faults} == {0}
    assert figures["rework_units_max"] <= figures["workers"]
