"""What cluster/ holds, read: locks, the Dockerfile, and what its build may see."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "cluster" / "image"
RAY_UP = ROOT / "cluster" / "ray-up"
CONSTRAINTS = ROOT / "cluster" / "constraints.txt"
REMEDY = "make the locks again: bash cluster/image/lock FOLDER"
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)((?: --hash=sha256:[0-9a-f]{64})*)")


@dataclass(frozen=True)
class Pin:
    """A line of a lock: the version, and how many files it allows."""

    version: Version
    hashes: int

    @property
    def public(self) -> str:
        """The version without its build, as `+cpu`."""
        return self.version.public


def pins(path: Path) -> dict[str, Pin]:
    """Returns what a lock, or the constraints, pins; every line must be a pin."""
    text = path.read_text(encoding="utf-8").replace(" \\\n    ", " ")
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            match = _PIN.fullmatch(line)
            assert match, f"{path.name} has a line that pins nothing: {line[:80]}"
            found[str(canonicalize_name(match[1]))] = Pin(Version(match[2]), match[3].count("--hash"))
    return found


def project() -> dict[str, Any]:
    """Returns pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Stage:
    """A stage of a Dockerfile: what it begins with, its name, and its instructions in order."""

    base: str
    name: str
    steps: tuple[tuple[str, str], ...]

    def all(self, instruction: str) -> list[str]:
        """Returns what stands behind an instruction, each time that it does."""
        return [rest for name, rest in self.steps if name == instruction]


def stages(text: str) -> list[Stage]:
    """Returns the stages of a Dockerfile."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(str.strip, lines.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found.append(Stage(base, stage, ()))
        else:
            last = found.pop()
            found.append(Stage(last.base, last.name, (*last.steps, (name, " ".join(rest.split())))))
    return found


def seen_by_build(path: str) -> bool:
    """Returns whether a path is in the build's context: of the rules that match, the last one counts."""
    seen = True
    parents = [str(each) for each in (PurePosixPath(path), *PurePosixPath(path).parents)][:-1]
    for line in (IMAGE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
        rule = line.strip().removeprefix("!")
        if rule and not rule.startswith("#"):
            anywhere = rule.removeprefix("**/")
            if any(
                fnmatch(each, rule) or (anywhere != rule and fnmatch(Path(each).name, anywhere)) for each in parents
            ):
                seen = line.startswith("!")
    return seen
