"""What each way against too little data buys on one small data set: three seeds, mean and standard deviation.

    LLMYARD_DATA=DIR bash cluster/local bench augmentation [--seeds 3] [--steps 400] [--translator NAME] [--storage DIR]
    [--json]

The data: lines of ChatterBot's corpus in English and Chinese (`chatterbot/`), told apart by their topic; a third is the
test. Every way is one switch of the same job, an encoder from random weights. Back-translation needs a checkpoint that
translates, in the storage (`jobs/translate-tatoeba.yaml` makes one); it is left out, with the reason printed, without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.seeds import mix
from llmyard.core.storage import Storage
from llmyard.sources.corpus import digest
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

LEAST = 40  # lines of a topic
MOST = 150
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "synonyms": {"augment": {"disturb": {"synonyms": 0.2}, "copies": 2}},
    "insertion, deletion, swap": {
        "augment": {"disturb": {"insertion": 0.1, "deletion": 0.1, "swap": 0.1}, "copies": 2}
    },
    "word order": {"augment": {"disturb": {"order": 0.3}, "copies": 2}},
    "typos and homophones": {"augment": {"disturb": {"typos": 0.1, "homophones": 0.1}, "copies": 2}},
    "back-translation": {"augment": {"back_translate": ""}},
    "adversarial, FGM": {"adversarial": {"kind": "fgm", "size": 0.3}},
    "adversarial, PGD": {"adversarial": {"kind": "pgd", "size": 0.3, "step": 0.15}},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "early stopping, best kept": {"patience": 3, "keep_best": True, "metric_examples": 300},
}


def examples(folder: Path) -> list[dict[str, str]]:
    """Returns all lines of topics that have enough of them, each once, with language and topic."""
    found: dict[tuple[str, str], str] = {}
    for file in sorted(folder.glob("*/*.yml")):
        language = "zh" if file.parent.name == "chinese" else "en"
        for conversation in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            for line in conversation:
                text = " ".join(str(line).split())
                if 2 <= len(text) <= 200:
                    found.setdefault((language, text), file.stem)
    counts = Counter(found.values())
    taken: Counter[str] = Counter()
    rows = []
    for (language, text), topic in sorted(found.items(), key=lambda each: digest(each[0][1])):
        if counts[topic] >= LEAST and taken[topic] < MOST:
            taken[topic] += 1
            rows.append({"language": language, "text": text, "label": topic})
    return rows


def written(rows: list[dict[str, str]], folder: Path) -> dict[str, Any]:
    """Writes the splits, a sixth for validation and a third for the test, and returns the source that reads them."""
    files = {split: folder / f"{split}.jsonl" for split in ("train", "validation", "test")}
    parts: dict[str, list[str]] = {split: [] for split in files}
    for at, row in enumerate(rows):
        draw = mix(5, at) % 6
        split = "test" if draw < 2 else "validation" if draw == 2 else "train"
        parts[split].append(json.dumps({"id": f"{split}-{at}", **row}, ensure_ascii=False))
    for split, lines in parts.items():
        files[split].write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{split}: {len(lines)} lines", file=sys.stderr)
    return {"kind": "records"} | {split: str(file) for split, file in files.items()}


def main() -> None:
    """Trains every way with every seed and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--translator", help="name of a checkpoint in the storage")
    parser.add_argument("--storage", help="keep results there; by default a folder that is removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = os.environ.get("LLMYARD_DATA")
    if not data:
        sys.exit("LLMYARD_DATA is not set: nothing to learn from")
    ways = {name: dict(switches) for name, switches in WAYS.items()}
    if options.translator is None:
        print("back-translation: left out, no --translator", file=sys.stderr)
        del ways["back-translation"]
    else:
        ways["back-translation"] = {"augment": {"back_translate": options.translator}}
    with tempfile.TemporaryDirectory(prefix="ly-augmentation-") as name:
        storage = options.storage or f"{name}/storage"
        source = written(examples(Path(data, "chatterbot")), Path(name))
        stages: list[dict[str, Any]] = [
            {
                "kind": "prepare", "output": "topics", "clean": ["normalize"],
                "sources": [{"kind": "task_texts", "name": "topics", "task": "classification", "data": source}],
                "tokenizer": {"kind": "bpe", "vocab_size": 1500, "split_han": True},
            }
        ]  # fmt: skip
        names = {}
        for number, (way, switches) in enumerate(ways.items()):
            for seed in range(options.seeds):
                output = names[way, seed] = f"topics-{number}-{seed}"
                stages += [
                    {
                        "kind": "finetune", "output": output, "task": {"kind": "classification", "max_tokens": 64},
                        "data": source, "tokenizer": "topics", "leaks": "drop", "seed": seed, "steps": options.steps,
                        "model": {"family": "bert", "layers": 2, "hidden_size": 96, "heads": 4,
                                  "feed_forward_size": 256, "dropout": 0.1},
                        "batch": {"size": 32, "micro_batch": 32}, "optimizer": {"learning_rate": 1.0e-3},
                        "schedule": {"warmup_steps": 40}, "evaluate_every_steps": 50, **switches,
                    },
                    {"kind": "evaluate", "output": f"{output}-report", "checkpoint": output},
                ]  # fmt: skip
        job = job_adapter().validate_python({"kind": "pipeline", "name": "augmentation", "stages": stages})
        run(job, storage=storage)
        store = ArtifactStore(Storage(storage))
        rows = []
        for way in ways:
            reports = [store.get(f"{names[way, seed]}-report", "report").metrics for seed in range(options.seeds)]
            row: dict[str, Any] = {"way": way}
            for metric in ("test/accuracy", "test/macro_f1"):
                values = [report[metric] for report in reports]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                row[metric] = {"mean": statistics.mean(values), "sd": spread}
            rows.append(row)
            said = "  ".join(f"{key} {row[key]['mean']:.3f} ± {row[key]['sd']:.3f}" for key in list(row)[1:])
            print(f"{way:28} {said}")
        floor = {key: value for key, value in reports[0].items() if "baseline" in key}
        print(f"without a network: {floor}")
    if options.json:
        print(json.dumps({"rows": rows, "baseline": floor}))


if __name__ == "__main__":
    main()
