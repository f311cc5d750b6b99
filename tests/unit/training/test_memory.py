"""Memory that is freed and taken again costs no new pages."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, sys, torch
from llmyard.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for turn in range(20):
    if turn == 10:
        before = faults()
    large = torch.ones(16 << 20)
    del large
print(faults() - before)
"""


def test_pages_of_freed_memory_are_kept() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    if sys.platform != "linux":
        return
    assert faults("kept") < 0.05 * max(faults("given back"), 1000)
