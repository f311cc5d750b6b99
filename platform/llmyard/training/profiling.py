"""A trace of some steps by torch's profiler."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmyard.training.seeing import Profile

FOLDER = "profile"
_log = logging.getLogger("llmyard")


class Profiler:
    """Traces some steps of one worker and writes what it saw.

    ``trace.json.gz`` opens in Perfetto or chrome://tracing, ``operators.txt`` lists what takes time and memory, and on
    a GPU ``memory.pickle`` is torch's snapshot of every allocation (for pytorch.org/memory_viz; never read here).

    Args:
        config: Which steps.
        device: That computes.
        write: Takes a file's name and its bytes.
    """

    def __init__(self, config: Profile, device: torch.device, write: Callable[[str, bytes], None]) -> None:
        self._write, self._on_gpu, self._is_written = write, device.type == "cuda", False
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._on_gpu:
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        # One step before those that count: the profiler's own start takes time.
        plan = torch.profiler.schedule(wait=config.after_steps, warmup=1, active=config.steps, repeat=1)
        self._profile: Any = torch.profiler.profile(
            activities=kinds, schedule=plan, on_trace_ready=self._ready, profile_memory=True, record_shapes=True
        )
        if self._on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=100_000)
        self._profile.start()

    def step(self) -> None:
        """Says that a step has ended."""
        if self._profile is not None:
            self._profile.step()

    def close(self) -> None:
        """Ends it; a trace that was not complete is left out, with a warning."""
        if not self._is_written:
            _log.warning("there is no trace: the run ended before the steps that were to be traced")
        if self._profile is not None:
            profile, self._profile = self._profile, None
            profile.on_trace_ready = None
            profile.stop()

    def _ready(self, profile: Any) -> None:
        self._is_written = True
        with tempfile.TemporaryDirectory(prefix="ly-profile-") as folder:
            profile.export_chrome_trace(f"{folder}/trace.json.gz")
            tables = profile.key_averages()
            order = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
            memory = "self_device_memory_usage" if self._on_gpu else "self_cpu_memory_usage"
            text = f"by time\n{tables.table(sort_by=order, row_limit=40)}\n"
            text += f"\nby memory\n{tables.table(sort_by=memory, row_limit=40)}\n"
            Path(folder, "operators.txt").write_text(text, encoding="utf-8")
            if self._on_gpu:
                torch.cuda.memory._dump_snapshot(f"{folder}/memory.pickle")  # type: ignore[no-untyped-call]
                torch.cuda.memory._record_memory_history(enabled=None)
            for file in sorted(Path(folder).iterdir()):
                self._write(f"{FOLDER}/{file.name}", file.read_bytes())
