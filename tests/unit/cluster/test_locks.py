"""The locks agree with pyproject.toml and the constraints, and leave nothing out."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import definition
import pytest
from definition import IMAGE, RAY_UP, REMEDY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = (*sorted(IMAGE.glob("*.lock")), *sorted(RAY_UP.glob("*.lock")))
COMMON = definition.pins(IMAGE / "requirements.lock")
BUILDS = ("cpu", "cuda")


def wanted() -> list[Requirement]:
    """Returns what the image has: all that llmyard needs, and what sends traces."""
    project = definition.project()["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["traces"])]


@pytest.mark.parametrize("build", BUILDS)
def test_every_dependency_of_the_image_is_locked_at_its_pin(build: str) -> None:
    pinned = definition.pins(definition.CONSTRAINTS)
    locked = {**COMMON, **definition.pins(IMAGE / f"torch-{build}.lock")}
    for requirement in wanted():
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{requirement} is in no lock: {REMEDY}"
        assert requirement.specifier.contains(locked[name].public), f"{name} {locked[name].version}: {REMEDY}"
        assert locked[name].public == str(pinned[name].version), f"{name} {locked[name].version}: {REMEDY}"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_the_constraints_versions_and_hashes(path: Path) -> None:
    pinned = definition.pins(definition.CONSTRAINTS)
    locked = definition.pins(path)
    assert locked
    for name, pin in locked.items():
        assert pin.hashes, f"{name} has no hash: {REMEDY}"
        other = pinned.get(name)
        assert other is None or pin.public == other.public, f"{name} {pin.version} but {other.version}: {REMEDY}"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_no_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("://", "--index", "--extra-index", "--find-links", "file:", "@ "))


def test_the_locks_of_an_image_do_not_overlap() -> None:
    for build in BUILDS:
        assert not COMMON.keys() & definition.pins(IMAGE / f"torch-{build}.lock").keys(), REMEDY


def test_what_builds_wheels_is_locked() -> None:
    (backend,) = [Requirement(each) for each in definition.project()["build-system"]["requires"]]
    locked = definition.pins(IMAGE / "build.lock")
    assert backend.specifier.contains(locked[backend.name].public), REMEDY
    assert locked["setuptools"] == COMMON["setuptools"], REMEDY


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the locks are for Python 3.11")
def test_what_locked_packages_need_is_locked() -> None:
    """By what the packages that are installed here say of themselves."""
    locked = {**COMMON, **definition.pins(IMAGE / "torch-cpu.lock")}
    waiting, seen = [(each.name, frozenset(each.extras)) for each in wanted()], set()
    while waiting:
        name, extras = waiting.pop()
        key = (canonicalize_name(name), extras)
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in locked, f"{name} is in no lock: {REMEDY}"
        try:
            needed = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue  # only here by a marker of another machine
        for each in needed:
            if any(each.marker is None or each.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((each.name, frozenset(each.extras)))
    assert len(seen) > 100
