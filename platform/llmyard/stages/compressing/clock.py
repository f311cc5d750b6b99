"""A result asked for its speed, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmyard.stages.compress_config import Timing
from llmyard.stages.held_out import HeldOut

if TYPE_CHECKING:
    from llmyard.generation.timing import Timed


@dataclass(frozen=True)
class ClockWork:
    """Whose speed is measured, and how; picklable."""

    held_out: HeldOut
    timing: Timing


class Clock:
    """Holds one result and asks it when it is told to."""

    def __init__(self, work: ClockWork) -> None:
        import torch

        torch.set_num_threads(work.timing.threads)
        self._work, self._before = work, 0
        self._engine: Any = None
        self._asked: Sequence[Any] = ()

    def load(self) -> bool:
        """Loads the model, and asks it once, so that nothing is made on first use while it is measured; returns whether
        it is one that answers.
        """
        from llmyard.generation.engine import Unanswering
        from llmyard.generation.model import engine_of

        work = self._work
        self._before = _resident()  # with all that is imported: that is no part of the model
        try:
            self._engine = engine_of(work.held_out.checkpoint, work.timing.threads)
        except Unanswering:
            return False
        self._asked = work.held_out.inputs(self._engine, work.timing.prompts)
        for streams in work.timing.streams:
            self._timed(self._asked[:streams], streams)
        return True

    def measure(self, streams: int) -> Timed:
        """Returns one round's times."""
        return self._timed(self._asked, streams)

    def memory(self) -> int:
        """Returns by how many bytes the process has grown since before the model was loaded."""
        return max(0, _resident() - self._before)

    def _timed(self, asked: Sequence[Any], streams: int) -> Timed:
        from llmyard.generation.timing import time_labelling, time_writing

        if self._engine.capabilities().generates:
            return time_writing(self._engine, asked, streams, self._work.timing.new_tokens)
        return time_labelling(self._engine, asked, streams)


def _resident() -> int:
    """Returns the bytes of this process that are in memory."""
    import psutil

    found: int = psutil.Process(os.getpid()).memory_info().rss
    return found
