"""Work over units on a private Ray."""

from __future__ import annotations

import os
from typing import Any

import pytest

from llmyard.core.errors import DataError
from llmyard.runtime.datasets import map_units, map_with

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]


class Counted:
    """Says in which process it was made, and how often it was called."""

    def __init__(self, start: int) -> None:
        self.made, self.calls = f"{os.getpid()}-{id(self)}-{os.urandom(4).hex()}", start

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        return {"unit": unit["number"], "made": self.made, "process": os.getpid(), "calls": self.calls}


def test_a_process_makes_its_worker_once_and_keeps_it_for_its_units() -> None:
    rows = list(map_with([{"number": number} for number in range(12)], Counted, (100,)))
    assert sorted(row["unit"] for row in rows) == list(range(12))
    assert len({row["made"] for row in rows}) == len({row["process"] for row in rows})
    assert max(row["calls"] for row in rows) > 101


def test_each_unit_gives_one_result() -> None:
    rows = list(map_units([{"x": x} for x in range(7)], lambda unit: {"y": unit["x"] ** 2}))
    assert sorted(row["y"] for row in rows) == [x**2 for x in range(7)]


def test_the_error_of_the_work_comes_back_as_itself() -> None:
    def fail(unit: dict[str, Any]) -> dict[str, Any]:
        raise DataError("文件坏了", "mend it")

    with pytest.raises(DataError, match="文件坏了") as caught:
        list(map_units([{}], fail))
    assert caught.value.remedy == "mend it"
