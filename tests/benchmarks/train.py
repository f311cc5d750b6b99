"""Steps a second of `pretrain` beside a plain torch loop and beside transformers' Trainer, and what waits for what.

    bash cluster/local bench train [--pairs 3] [--workers 1,2] [--steps 200] [--accelerate FOLDER] [--json]

All train one GPT-2 shape on the same tokens with the same batch, metrics every step and a checkpoint every 100, one
after the other in turns; a ratio is the median over the turns. The Trainer needs accelerate: ``pip install --target
FOLDER --no-deps accelerate``; it is left out, with the reason printed, where no folder is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SETTINGS = {
    "length": 128, "batch": 16, "vocabulary": 4000, "width": 128, "layers": 4, "heads": 4, "dropout": 0.1,
    "save_every": 100,
}  # fmt: skip
WARM = 20  # steps that are not counted


def prepared(folder: Path) -> Path:
    """Prepares a corpus in a storage and writes its tokens, for the others, to a file; returns that."""
    from _data_speed import run_job

    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage
    from llmyard.tokens.shards import ShardSet
    from llmyard.tokens.views import PackedView

    storage = folder / "storage"
    run_job(
        {"kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 6000}],
         "tokenizer": {"vocab_size": SETTINGS["vocabulary"]}},
        str(storage),
    )  # fmt: skip
    shards = ShardSet.of(ArtifactStore(Storage(str(storage))).get("corpus", "shards"), "train")
    view = PackedView(shards, 1024)
    rows = [view(shard, row, 0) for shard, count in enumerate(view.rows) for row in range(count)]
    np.save(folder / "tokens.npy", np.concatenate([np.asarray(row[:-1], np.uint16) for row in rows]))
    return folder / "tokens.npy"


def rate_of(steps: list[tuple[int, float]]) -> float:
    """Returns steps a second from (step, seconds) behind the warm-up."""
    counted = [each for each in steps if each[0] >= WARM]
    return (counted[-1][0] - counted[0][0]) / (counted[-1][1] - counted[0][1])


def run_script(name: str, settings: dict[str, Any], tokens: Path, folder: Path, path: str = "") -> float:
    """Runs a script in as many processes as there are workers; returns its steps a second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True)
    common = {"WORLD_SIZE": str(settings["workers"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": str(settings["threads"]), "PYTHONPATH": path}
    command = [sys.executable, str(HERE / name), json.dumps(settings), str(tokens), str(folder)]
    started = [
        subprocess.Popen(
            command, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.DEVNULL
        )
        for rank in range(settings["workers"])
    ]
    assert started[0].wait() == 0, name
    for process in started[1:]:
        with contextlib.suppress(subprocess.TimeoutExpired):  # gloo may hang when the first has gone before it
            process.wait(timeout=10)
        process.kill()
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return rate_of([(line["step"], line["time"]) for line in lines if "loss" in line])


def run_llmyard(settings: dict[str, Any], storage: Path, name: str) -> tuple[float, dict[str, float]]:
    """Runs the job; returns its steps a second and its metrics."""
    from _data_speed import run_job

    job = {
        "kind": "pretrain", "output": name, "shards": "corpus", "sequence_length": settings["length"],
        "steps": settings["steps"], "checkpoint_every_steps": settings["save_every"],
        "model": {"family": "gpt2", "layers": settings["layers"], "hidden_size": settings["width"],
                  "heads": settings["heads"], "dropout": settings["dropout"]},
        "batch": {"size": settings["batch"], "micro_batch": settings["batch"] // settings["workers"]},
        "resources": {"workers": settings["workers"], "cpus_per_worker": settings["threads"]},
    }  # fmt: skip
    result = run_job(job, str(storage))
    artifact = result.artifacts[0]
    with contextlib.closing(sqlite3.connect(storage / "mlflow.db")) as database:
        rows = database.execute(
            "select m.step, m.timestamp from metrics m join tags t on m.run_uuid = t.run_uuid "
            "where m.key = 'loss' and t.value = ? order by m.step", (artifact.reference,),
        ).fetchall()  # fmt: skip
    return rate_of([(step, at / 1000) for step, at in rows]), artifact.metrics


def report_block_ms() -> float:
    """Returns the 99th percentile of how long logging a step's metrics blocks the loop, in milliseconds."""
    from llmyard.core.spool import Spool

    with tempfile.TemporaryDirectory(prefix="ly-bench-") as folder:
        spool = Spool(Path(folder) / "spool")
        metrics = dict.fromkeys(("loss", "gradient_norm", "learning_rate", "rate", "wait"), 1.5)
        times = []
        for step in range(5000):
            began = time.perf_counter()
            spool.append(step, metrics)
            times.append(time.perf_counter() - began)
        spool.close()
    return float(np.percentile(times, 99)) * 1000


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="turns")
    parser.add_argument("--workers", default="1,2", help="numbers of workers; their threads are 2 in all")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--accelerate", default="", help="folder that accelerate was installed to")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    if not given.accelerate:
        print("transformers' Trainer: left out, no --accelerate folder is given")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ly-bench-") as temporary:
        folder = Path(temporary)
        tokens = prepared(folder)
        for workers in (int(each) for each in given.workers.split(",")):
            settings = {**SETTINGS, "steps": given.steps, "workers": workers, "threads": max(1, 2 // workers)}
            rates: dict[str, list[float]] = {"plain": [], "llmyard": [], "trainer": []}
            waits = []
            for turn in range(given.pairs):
                place = folder / f"{workers}-{turn}"
                rates["plain"].append(run_script("_plain_loop.py", settings, tokens, place / "plain"))
                rate, metrics = run_llmyard(settings, folder / "storage", f"m{workers}-{turn}")
                rates["llmyard"].append(rate)
                waits.append(metrics["data_wait_share"])
                if given.accelerate:
                    trainer = run_script("_hf_trainer.py", settings, tokens, place / "hf", given.accelerate)
                    rates["trainer"].append(trainer)
                print(f"{workers} workers:", {name: f"{each[-1]:.3f}" for name, each in rates.items() if each})
            ratios = {
                name: [ours / other for ours, other in zip(rates["llmyard"], each, strict=True)]
                for name, each in rates.items() if name != "llmyard" and each
            }  # fmt: skip
            figures[f"workers_{workers}"] = {
                "steps_per_second": {name: statistics.median(each) for name, each in rates.items() if each},
                "rate_vs_plain": statistics.median(ratios["plain"]),
                "rate_vs_plain_spread": [min(ratios["plain"]), max(ratios["plain"])],
                "rate_vs_hf_trainer": statistics.median(ratios["trainer"]) if "trainer" in ratios else None,
                "input_wait": max(waits),
            }
    each = [figures[name] for name in figures]
    figures["rate_vs_plain"] = min(one["rate_vs_plain"] for one in each)
    figures["rate_vs_hf_trainer"] = min((one["rate_vs_hf_trainer"] or 0.0 for one in each), default=0.0)
    figures["input_wait"] = max(one["input_wait"] for one in each)
    figures["report_block_ms"] = report_block_ms()
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if given.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
