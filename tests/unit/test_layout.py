"""The shape of the source tree and what an import costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "mlflow", "transformers", "pyarrow", "numpy")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_platform_is_a_source_root_and_no_package() -> None:
    assert [path.name for path in (ROOT / "platform").glob("*.py*")] == []


def test_the_standard_librarys_platform_is_not_shadowed() -> None:
    done = python("import platform; print(platform.system(), platform.__file__)")
    assert done.returncode == 0
    assert done.stdout.startswith("Linux")
    assert str(ROOT / "platform") not in done.stdout


def test_the_top_level_holds_what_it_should() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    folders = {path.partition("/")[0] for path in listed.stdout.splitlines() if "/" in path}
    assert folders == {".ci", "cluster", "helm", "jobs", "platform", "tests"}


def test_no_source_file_grows_past_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "platform").rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) >= 400
    }
    assert not long


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "WRONG"], ["run", "WRONG"], ["schema"]])
def test_help_and_config_errors_need_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("kind: pretrain\nsteps: many\n", encoding="utf-8")
    code = (
        "import sys\n"
        "from llmyard.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        f"print('LOADED', status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python(code, *[str(wrong) if each == "WRONG" else each for each in arguments])
    expected = 2 if "WRONG" in arguments else 0
    assert done.stdout.splitlines()[-1:] == [f"LOADED {expected} []"], done.stdout + done.stderr
    if expected:
        assert f"{wrong}:2:8: steps:" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_layers_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
