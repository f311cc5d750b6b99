"""What a sweep costs beside its trials, and what ending poor trials early saves.

    python tests/benchmarks/sweep.py [--part overhead,asha] [--trials N] [--seconds S] [--seeds N] [--json]

overhead: a sweep of programs that sleep, two at once; the wall time of the trials (first begun to last ended) times two
over the sum of what the programs themselves took, less one. tracking_share: what opening, naming and closing a trial's
run in MLflow takes, over what the programs took. asha: random search over a tiny pretraining, and the same proposals
under ASHA: the share of the steps after which ASHA's best trial is as good as the best of the random search.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmyard.stages.config import job_adapter
from llmyard.stages.run import run
from llmyard.sweeps.trial import Trial

PROGRAM = """
import json, sys, time
began = time.monotonic()
time.sleep(float(sys.argv[3]))
ended = time.monotonic()
json.dump({"loss": float(sys.argv[2]), "began": began, "ended": ended}, open(sys.argv[1] + "/metrics.json", "w"))
"""
PREPARE: dict[str, Any] = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "profile": "dev", "seed": 7}],
    "clean": ["normalize", "quality", "deduplicate"], "tokenizer": {"vocab_size": 1000, "split_han": True},
}  # fmt: skip
TOLERANCE = 0.01  # nats: seeds of one setting differ by more


def sleeping(trials: int, seconds: float) -> dict[str, Any]:
    """Returns a sweep of programs that sleep."""
    command = [sys.executable, "-c", PROGRAM, "{output}", "{x}", str(seconds)]
    return {
        "kind": "sweep", "output": "sleeps", "space": {"arguments.x": "uniform(0, 1)"}, "budget": {"trials": trials},
        "objective": {"metric": "loss"}, "concurrent": 2,
        "job": {"kind": "command", "output": "sleep", "command": command, "arguments": {"x": 0.0}},
    }  # fmt: skip


def overhead(trials: int, seconds: float) -> dict[str, float]:
    """Returns what scheduling adds to the trials."""
    with tempfile.TemporaryDirectory(prefix="ly-bench-", dir="/tmp") as folder:
        began = time.monotonic()
        run(job_adapter().validate_python(sleeping(trials, seconds)), storage=folder)
        whole = time.monotonic() - began
        found = _trials(Path(folder))
    own = [each.metrics["ended"] - each.metrics["began"] for each in found]
    span = max(each.metrics["ended"] for each in found) - min(each.metrics["began"] for each in found)
    return {
        "trials": float(len(found)), "overhead": 2 * span / sum(own) - 1, "seconds": whole,
        "overhead_with_start_and_end": 2 * whole / sum(own) - 1,
    }  # fmt: skip


def tracking_share(seconds: float, runs: int = 40) -> dict[str, float]:
    """Returns how much of a trial so long a tracked run takes."""
    from llmyard.core.tracking import RunSpec
    from llmyard.runtime.session import session
    from llmyard.runtime.tracking import StageRun, Tracking

    spent = []
    with tempfile.TemporaryDirectory(prefix="ly-bench-", dir="/tmp") as folder, session(), Tracking(folder) as tracking:
        for number in range(runs):
            began = time.perf_counter()
            with StageRun(tracking, RunSpec(token=f"files/x@{number}", name=f"trial-{number}")) as tracked:
                tracked.run_id()
                tracked.result({"loss": 1.0}, "files/x", "")
            spent.append(time.perf_counter() - began)
    return {"tracking_share": statistics.median(spent) / seconds, "tracking_ms": 1000 * statistics.median(spent)}


def pretraining(name: str, seed: int, trials: int, stopping: dict[str, Any] | None) -> dict[str, Any]:
    """Returns a sweep over a tiny pretraining."""
    return {
        "kind": "sweep", "output": name, "seed": seed, "budget": {"trials": trials}, "concurrent": 2,
        "objective": {"metric": "validation_loss"}, "search": {"kind": "random"}, "stopping": stopping,
        "space": {
            "optimizer.learning_rate": "loguniform(1e-4, 1e-1)", "model.layers": "int(1, 3)",
            "schedule.warmup_steps": "choice(0, 8, 16)",
        },
        "job": {
            "kind": "pretrain", "output": name, "shards": "corpus", "sequence_length": 64, "steps": 128,
            "model": {"family": "gpt2", "layers": 1, "hidden_size": 32, "heads": 4},
            "batch": {"size": 8, "micro_batch": 8}, "evaluate_every_steps": 8, "checkpoint_every_steps": 128,
            "resources": {"workers": 1},
        },
    }  # fmt: skip


def asha(seeds: Sequence[int], trials: int) -> dict[str, Any]:
    """Returns the share of random search's steps after which ASHA is as good, by seed, and their median."""
    shares, gaps, totals = [], [], []
    with tempfile.TemporaryDirectory(prefix="ly-bench-", dir="/tmp") as folder:
        for seed in seeds:
            both = []
            for stopping in (None, {"kind": "asha", "grace_steps": 8, "factor": 4}):
                name = f"{'asha' if stopping else 'random'}-{seed}"
                stages = [PREPARE, pretraining(name, seed, trials, stopping)]
                run(job_adapter().validate_python({"kind": "pipeline", "name": "b", "stages": stages}), storage=folder)
                both.append(_trials(Path(folder), name))
            everything, early = both
            wanted = min(each.metrics["validation_loss"] for each in everything)
            steps = sum(each.steps for each in everything)
            spent, reached = 0, None
            for each in early:  # in the order in which they began
                spent += each.steps
                is_as_good = each.state == "finished" and each.metrics["validation_loss"] <= wanted + TOLERANCE
                if reached is None and is_as_good:
                    reached = spent
            best = min((e.metrics["validation_loss"] for e in early if e.state == "finished"), default=float("inf"))
            gaps.append(best - wanted)
            totals.append(sum(each.steps for each in early) / steps)
            shares.append(reached / steps if reached is not None else None)
    known = [each if each is not None else float("inf") for each in shares]
    return {
        "asha_step_share": statistics.median(known), "asha_step_shares": shares, "asha_total_step_shares": totals,
        "asha_gap_nats": gaps,
    }  # fmt: skip


def _trials(folder: Path, name: str = "*") -> list[Trial]:
    (file,) = folder.glob(f"sweep/{name}/2*/trials.jsonl")
    return [Trial.from_json(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="overhead,asha")
    parser.add_argument("--trials", type=int, default=200, help="of the sweep that sleeps")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--searched", type=int, default=64, help="trials of each search")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    if "overhead" in given.part:
        figures |= overhead(given.trials, given.seconds) | tracking_share(given.seconds)
    if "asha" in given.part:
        figures |= asha(range(given.seeds), given.searched)
    print(json.dumps(figures) if given.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
