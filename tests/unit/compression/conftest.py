"""One thread, and models that are trained once."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for small_models


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small matrices are slower on several
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained() -> Callable[[str], Any]:
    """Returns a trained model of a family; a copy each time."""
    from small_models import trained_once

    return lambda name: copy.deepcopy(trained_once(name))
