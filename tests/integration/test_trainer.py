"""Workers that fail: errors of llmyard's own are final, all else is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmyard.core.errors import TrainingError
from llmyard.runtime.trainer import Board, run_workers
from llmyard.training.config import Resources
from llmyard.training.watchdog import HUNG

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]


def run(work: Any, folder: Path, max_failures: int) -> None:
    resources = Resources(workers=2, max_failures=max_failures)
    run_workers(work, str(folder), resources, folder.name, Board.start(resources), lambda: None)


def attempts(folder: Path) -> int:
    return len(list(folder.glob("attempt-*")))


def test_an_error_that_would_come_again_ends_the_run_at_once(tmp_path: Path) -> None:
    def work(config: dict[str, Any]) -> None:
        import uuid
        from pathlib import Path

        import torch
        import torch.distributed as dist

        from llmyard.core.errors import TrainingError

        if dist.get_rank() == 1:
            Path(config["argument"], f"attempt-{uuid.uuid4().hex}").touch()
            raise TrainingError("step 3: loss nan: not finite", "lower optimizer.learning_rate")
        dist.all_reduce(torch.ones(4))  # waits for the other, which will never come

    with pytest.raises(TrainingError, match="loss nan") as caught:
        run(work, tmp_path, max_failures=3)
    assert type(caught.value) is TrainingError
    assert caught.value.remedy == "lower optimizer.learning_rate"
    assert attempts(tmp_path) == 1


def test_any_other_failure_is_tried_again(tmp_path: Path) -> None:
    def work(config: dict[str, Any]) -> None:
        import uuid
        from pathlib import Path

        import torch.distributed as dist

        folder = Path(config["argument"])
        if dist.get_rank() == 0:
            (folder / f"attempt-{uuid.uuid4().hex}").touch()
            if len(list(folder.glob("attempt-*"))) == 1:
                raise RuntimeError("a machine went away")
        dist.barrier()

    run(work, tmp_path, max_failures=1)
    assert attempts(tmp_path) == 2


def test_workers_of_which_one_hangs_write_down_where_and_are_started_again(tmp_path: Path) -> None:
    def work(config: dict[str, Any]) -> None:
        import time
        from pathlib import Path

        import torch
        import torch.distributed as dist

        from llmyard.training.watchdog import Watchdog

        def hangs() -> None:
            time.sleep(600)

        file = Path(config["argument"], f"rank-{dist.get_rank()}.log")
        has_hung = file.exists()
        with open(file, "a", encoding="utf-8") as log, Watchdog(2.0, log) as watchdog:
            for step in range(30):
                if step == 3 and not has_hung and dist.get_rank() == 1:
                    hangs()
                dist.all_reduce(torch.ones(4))
                watchdog.beat()
                time.sleep(0.1)

    run(work, tmp_path, max_failures=3)
    stacks = (tmp_path / "rank-1.log").read_text(encoding="utf-8")
    assert HUNG in stacks
    assert "in hangs" in stacks
