"""What the shipped jobs reach: runs them (finished stages are skipped) and prints every metric beside its baseline.

    bash cluster/local bench quality [--suite first|families|applications] [--job jobs/quickstart.yaml ...]
    [--storage DIR] [--json]

Of the suites `families` pretrains every family of the book, `applications` tunes and evaluates the five applications;
each of their jobs takes up to half an hour on two cores. Jobs on files need LLMYARD_DATA and are left out, with the
reason printed, where it is not set.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmyard.core.jobfile import load_job
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run
from llmyard.stages.stage import StageResult

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SUITES = {
    "first": ("quickstart", "smallworld", "smallworld-answers-and-summaries", "books-and-poems", "translate-tatoeba"),
    "families": tuple(f"pretrain/{name}" for name in ("transformer", "transformer-xl", "bert", "gpt2", "t5", "llama")),
    "applications": (
        "translate-tatoeba",
        "smallworld",
        "smallworld-answers-and-summaries",
        *(
            f"finetune/{name}"
            for name in (
                "smallworld-dialogue", "smallworld-gpt2", "smallworld-t5", "relations-finre", "relations-semeval",
                "answers-babi", "answers-cmrc", "summaries-qmsum", "dialogue-crosswoz", "dialogue-sgd",
            )
        ),
    ),
}  # fmt: skip


def rows_of(result: StageResult, job: str) -> list[dict[str, Any]]:
    """Returns one row for each split and metric of a report."""
    if result.kind != "evaluate":
        return []
    report = json.loads(result.artifacts[0].local("report.json").read_text(encoding="utf-8"))
    name = report["checkpoint"].partition("/")[2].partition("@")[0]
    return [
        {"task": name, "data": job, "split": split, "metric": metric}
        | {"value": value, "interval": scored.get("intervals", {}).get(metric)}
        | {"baseline": scored["baseline"].get(metric), "baseline_name": scored["baseline_name"]}
        for split, scored in report["splits"].items()
        for metric, value in scored["metrics"].items()
    ]


def main() -> None:
    """Runs the jobs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=SUITES, default="first")
    parser.add_argument("--job", action="append", help="a job file, instead of a suite")
    parser.add_argument("--storage", help="keep results there; by default a folder that is removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ly-quality-") as folder:
        storage = options.storage or folder
        shipped = [JOBS / f"{name}.yaml" for name in SUITES[options.suite]]
        for path in [Path(job) for job in options.job or shipped]:
            if "LLMYARD_DATA" in path.read_text(encoding="utf-8") and not os.environ.get("LLMYARD_DATA"):
                print(f"{path.name}: left out, LLMYARD_DATA is not set", file=sys.stderr)
                continue
            results = run(load_job(path, job_adapter()), storage=storage)
            seconds[path.stem] = sum(result.seconds for result in results)
            for result in results:
                rows += rows_of(result, path.stem)
    for row in rows:
        between = "" if row["interval"] is None else "({:.3f} to {:.3f})".format(*row["interval"])
        beside = "" if row["baseline"] is None else f" {row['baseline_name']} {row['baseline']:.3f}"
        print("{task:24} {split:18} {metric:18} {value:8.3f}".format(**row) + f" {between:20}" + beside)
    for job, spent in seconds.items():
        print(f"{job}: {spent:.0f} s in stages that ran")
    if options.json:
        print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main()
