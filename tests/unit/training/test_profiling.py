"""Some steps are traced, those before and after are not."""

from __future__ import annotations

import gzip
import json

import torch

from llmyard.training.profiling import Profiler
from llmyard.training.seeing import Profile


def test_a_trace_and_a_table_of_the_steps_asked_for() -> None:
    written: dict[str, bytes] = {}
    profiler = Profiler(Profile(after_steps=2, steps=2), torch.device("cpu"), written.__setitem__)
    layer = torch.nn.Linear(64, 64)
    for _ in range(8):
        layer(torch.ones(8, 64)).sum().backward()
        profiler.step()
    profiler.close()
    assert set(written) == {"profile/trace.json.gz", "profile/operators.txt"}
    events = json.loads(gzip.decompress(written["profile/trace.json.gz"]))["traceEvents"]
    assert sum(str(event.get("name", "")).startswith("ProfilerStep") for event in events) >= 2
    assert sum(event.get("name") == "aten::linear" for event in events) == 2
    table = written["profile/operators.txt"].decode()
    assert "by time" in table
    assert "by memory" in table
    assert "aten::linear" in table


def test_a_run_that_ends_before_leaves_nothing() -> None:
    written: dict[str, bytes] = {}
    profiler = Profiler(Profile(after_steps=5, steps=3), torch.device("cpu"), written.__setitem__)
    for _ in range(7):
        profiler.step()
    profiler.close()
    assert not written
