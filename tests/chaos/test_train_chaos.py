"""A few kills under `pretrain` as a test; `python tests/chaos/train.py --count N` makes more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_kills_change_no_bit_of_a_training() -> None:
    script = Path(__file__).with_name("train.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "2", "--seed", "11", "--steps", "120", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] == 2
    faults = ("lost", "duplicated", "mismatched", "mismatched_weights", "lost_checkpoints", "orphans", "unclear")
    assert {figures[key] for key in faults} == {0}
    assert figures["control_mismatched"] > 0
