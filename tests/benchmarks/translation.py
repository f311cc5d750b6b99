"""The shipped translation job beside a plain torch script, at equal CPU-seconds, on the same sentences.

    bash cluster/local bench translation [--job jobs/translate-tatoeba.yaml] [--storage DIR] [--json]

CPU-seconds of the job are those of every process of its fine-tuning stage, Ray's own and the encoding of the examples
among them; the script is given as many for its training. The script (`_plain_translation.py`) imports nothing of
llmyard: another tokenizer, model and loop of the same size. Both are scored by sacrebleu.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from llmyard.core.jobfile import load_job
from llmyard.sources.examples import plan_examples
from llmyard.sources.leaks import input_key
from llmyard.stages.config import Evaluate, Finetune, Pipeline, job_adapter
from llmyard.stages.examples import checked
from llmyard.stages.run import run
from llmyard.tasks.catalogue import task_of

HERE = Path(__file__).resolve().parent


class CpuSeconds:
    """CPU-seconds of this process's children and theirs, looked at twice a second."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> CpuSeconds:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    spent = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = spent.user + spent.system
                except psutil.Error:
                    continue

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return sum(self._seen.values())


def export(stage: Finetune, folder: Path) -> None:
    """Writes the training and the test sentences, without those training sentences that held-out ones ask too."""
    assert stage.model is not None
    task = task_of(stage.task, stage.model.family)
    found = {
        split: [
            each for unit in plan_examples(stage.data, split) for each in checked(stage.data, task, asdict(unit))[0]
        ]
        for split in ("train", "validation", "test")
    }
    held_out = {input_key(record) for split in ("validation", "test") for record in found[split]}
    found["train"] = [record for record in found["train"] if input_key(record) not in held_out]
    for split in ("train", "test"):
        lines = [
            json.dumps({"source": each["source"], "target": each["target"], "language": each["target_language"]})
            for each in found[split]
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Runs both and prints their scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, default=HERE.parents[1] / "jobs" / "translate-tatoeba.yaml")
    parser.add_argument("--storage", help="keep results there; by default a folder that is removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    job = load_job(options.job, job_adapter())
    assert isinstance(job, Pipeline)
    (tuning,) = [each for each in job.stages if isinstance(each, Finetune)]
    with tempfile.TemporaryDirectory(prefix="ly-translation-") as name:
        folder = Path(name)
        storage = options.storage or str(folder / "storage")
        before = [each for each in job.stages if not isinstance(each, Finetune | Evaluate)]
        run(job.model_copy(update={"stages": before}), storage=storage)
        with CpuSeconds() as cpu:
            run(tuning, storage=storage, force=True)
        report = run(job, storage=storage)[-1]
        export(tuning, folder)
        print(f"the job spent {cpu.spent:.0f} CPU-seconds; the plain script gets as many", file=sys.stderr)
        plain = subprocess.run(
            [sys.executable, str(HERE / "_plain_translation.py"), str(folder), str(cpu.spent)],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    scored = json.loads(report.artifacts[0].local("report.json").read_text(encoding="utf-8"))["splits"]["test"]
    script = json.loads(plain.stdout)
    rows: dict[str, dict[str, Any]] = {
        metric: {
            "llmyard": scored["metrics"][metric],
            "interval": scored["intervals"][metric],
            "plain": script[metric],
            "nearest neighbour": scored["baseline"][metric],
        }
        for metric in ("bleu_en", "bleu_zh", "chrf_en", "chrf_zh")
    }
    for metric, row in rows.items():
        low, high = row["interval"]
        print(
            f"{metric:8} llmyard {row['llmyard']:6.2f} ({low:.2f} to {high:.2f})  plain {row['plain']:6.2f}  "
            f"nearest neighbour {row['nearest neighbour']:6.2f}"
        )
    if options.json:
        print(json.dumps({"cpu_seconds": cpu.spent, "plain_steps": script["steps"], "rows": rows}))


if __name__ == "__main__":
    main()
