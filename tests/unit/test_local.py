"""`cluster/local` on first use, with a Python that only notes what it is asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "local"
# `-m venv X` makes X/bin with itself and an llmyard in it; everything is slow enough to be met by a second call.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$NOTES"
case "$1 $2" in
  "-m venv") sleep 0.5; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"
    printf '#!/usr/bin/env bash\necho "$LLMYARD_COMMAND: $*"\n' >"$3/bin/llmyard"; chmod +x "$3/bin/llmyard" ;;
  "-m pip") sleep 0.3 ;;
  "--version "*) echo "Python 3.11" ;;
esac
"""
DF = """#!/usr/bin/env bash
echo "df ${@: -1}" >>"$NOTES"
echo "head"; echo "disk 1 1 ${FREE_KB:-99999999} 1% /"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name, text in (("fake-python", PYTHON), ("df", DF)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes"),
        "LLMYARD_PYTHON": str(tmp_path / "fake-python"), "LLMYARD_VENV": str(tmp_path / "elsewhere" / "venv"),
    }  # fmt: skip


def test_two_first_calls_install_once(environment: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", str(SCRIPT), "artifacts", "list"]
    calls = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [call.communicate(timeout=60) for call in calls]
    assert [call.returncode for call in calls] == [0, 0], ended
    assert [out for out, _ in ended] == [f"bash {SCRIPT}: artifacts list\n"] * 2
    assert sum("waiting for it" in err for _, err in ended) == 1
    notes = (tmp_path / "notes").read_text(encoding="utf-8").splitlines()
    assert sum(note.startswith("-m venv") for note in notes) == 1
    assert sum(note.startswith("-m pip") for note in notes) == 2


def test_the_disk_that_is_measured_is_the_environments(environment: dict[str, str], tmp_path: Path) -> None:
    ended = subprocess.run(
        ["bash", str(SCRIPT), "doctor"], env=environment | {"FREE_KB": "1000"}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "remedy: free some disk space" in ended.stderr
    assert f"df {tmp_path}/elsewhere/venv" in (tmp_path / "notes").read_text(encoding="utf-8")
