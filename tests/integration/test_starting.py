"""A private Ray whose node process dies while it starts, as on a machine that is too busy: tried again, or told."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Ray looks for a node that is dead already for half a minute.
pytestmark = [pytest.mark.integration, pytest.mark.slow]

STARTS = """
import sys, threading, time
import psutil, ray
from llmyard.core.errors import LlmyardError
from llmyard.runtime.session import session

def kill(count):
    while count:
        for child in psutil.Process().children():
            if child.name() == "raylet":
                child.kill()
                child.wait()
                count -= 1
                break
        time.sleep(0.01)

threading.Thread(target=kill, args=(int(sys.argv[1]),), daemon=True).start()
try:
    with session():
        print("answers", ray.get(ray.remote(lambda: 7).remote()))
except LlmyardError as error:
    print(error)
print("left", [child.name() for child in psutil.Process().children(recursive=True)])
"""


@pytest.mark.parametrize(
    ("deaths", "said"), [(1, "answers 7"), (2, "Ray does not start on this machine: ")], ids=["once", "twice"]
)
def test_a_node_that_dies_while_it_starts_is_started_once_more(deaths: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS, str(deaths)], capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said), done.stdout
    assert done.stdout.endswith("left []\n"), done.stdout
