"""The job that `chaos train` kills: what it trains on, how far it is, and what it leaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EVERY = 5
PAUSE_MILLISECONDS = 2000  # a step takes some 70
PREPARE = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 300}],
    "tokenizer": {"vocab_size": 500}, "splits": {"validation": 0.1},
}  # fmt: skip
PRETRAIN = {
    "kind": "pretrain", "output": "base", "shards": "corpus", "sequence_length": 64,
    "model": {"family": "gpt2", "layers": 2, "hidden_size": 64, "heads": 2, "dropout": 0.1},
    "batch": {"size": 16, "micro_batch": 4}, "checkpoint_every_steps": EVERY, "precision": "float32",
    "resources": {"workers": 2, "max_failures": 100},
}  # fmt: skip
# Found by Python at its start where PYTHONPATH names its folder: the process seeds dropout, not the micro-batch.
CONTROL = """
import importlib.abc, importlib.util, os, sys

class Spoiled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "llmyard.training.progress":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            module.mix = lambda *parts: os.getpid() * 1_000_003 + parts[-1]
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Spoiled())
"""


def write_jobs(home: Path, steps: int) -> tuple[Path, Path]:
    """Writes the job that prepares and the one that trains, and what spoils a run; returns the jobs' paths."""
    prepare, pretrain = home / "prepare.yaml", home / "job.yaml"
    prepare.write_text(yaml.safe_dump(PREPARE), encoding="utf-8")
    pretrain.write_text(yaml.safe_dump(PRETRAIN | {"steps": steps}), encoding="utf-8")
    (home / "control").mkdir()
    (home / "control" / "sitecustomize.py").write_text(CONTROL, encoding="utf-8")
    return prepare, pretrain


def copy_prepared(made: Path, storage: Path) -> None:
    """Gives a storage the prepared corpus."""
    for kind in ("shards", "tokenizer"):
        shutil.copytree(made / kind, storage / kind)


class Trace:
    """The steps of a run, read from the tracker's files as they are written.

    Attributes:
        steps: (milliseconds since 1970, step) of every logged loss, in order.
    """

    def __init__(self, storage: Path) -> None:
        from llmyard.core.tracking import spool_root

        self._root, self._storage = spool_root(str(storage)), storage
        self._read: dict[Path, tuple[int, int]] = {}
        self.steps: list[tuple[int, int]] = []

    def look(self) -> int:
        """Reads on; returns the last step."""
        for path in self._root.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file():
                    self._look_into(path)
        return self.steps[-1][1] if self.steps else 0

    def _look_into(self, path: Path) -> None:
        with open(path, "rb") as file:
            there = os.fstat(file.fileno())
            # A worker that goes on cuts off what its predecessor logged beyond the checkpoint: then all is read again.
            inode, offset = self._read.get(path, (there.st_ino, 0))
            if inode != there.st_ino or there.st_size < offset:
                offset = 0
            file.seek(offset)
            newest = self.steps[-1][0] if self.steps else 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                if line.startswith(b"[") and b'"loss"' in line:
                    step, at, _ = json.loads(line)
                    if at > newest:
                        self.steps.append((at, step))
            self._read[path] = there.st_ino, offset

    def first_after(self, milliseconds: float) -> tuple[int, int] | None:
        """Returns the first step of the workers that were started after a moment.

        Those before make steps for a while longer, until they learn that their driver or node is gone: the new ones
        begin behind the first pause of seconds.
        """
        before = milliseconds
        for at, step in self.steps:
            if at > milliseconds:
                if at - before > PAUSE_MILLISECONDS:
                    return at, step
                before = at
        return None

    def marked(self) -> int:
        """Returns the step of the newest checkpoint that has its mark."""
        marks = self._storage.glob("checkpoint/base/*/_making/progress/*.json")
        return max((int(path.name.partition("-")[0]) for path in marks), default=0)

    def saving(self) -> bool:
        """Returns whether a checkpoint is being written."""
        for folder in self._storage.glob("checkpoint/base/*/_making/progress/0*"):
            if folder.is_dir() and not folder.with_suffix(".json").exists():
                return True
        return False


@dataclass(frozen=True)
class Outcome:
    """What a finished run left.

    Attributes:
        losses: Values of each step in MLflow.
        weights: SHA-256 of the model.
        leftovers: Files below the artifact's folder that it does not list.
        runs: Statuses of the MLflow runs.
    """

    losses: dict[int, list[float]]
    weights: str
    leftovers: list[str]
    runs: list[str]

    @classmethod
    def of(cls, storage: Path) -> Outcome:
        """Reads the storage of a finished run."""
        from llmyard.core.artifacts import ArtifactStore
        from llmyard.core.storage import Storage

        store = ArtifactStore(Storage(str(storage)))
        artifact = store.get("base", "checkpoint")
        folder = storage / "checkpoint" / "base"
        listed = {f"{artifact.version}/{entry.path}" for entry in artifact.files()}
        listed |= {f"{artifact.version}/{name}" for name in ("artifact.json", artifact.files_list)}
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        left = sorted(name for name in there - listed if not name.startswith("_"))
        losses: dict[int, list[float]] = {}
        with contextlib.closing(sqlite3.connect(storage / "mlflow.db")) as database:
            for step, value in database.execute("select step, value from metrics where key = 'loss' order by step"):
                losses.setdefault(step, []).append(value)
            runs = [row[0] for row in database.execute("select status from runs")]
        weights = hashlib.sha256(artifact.local("model.safetensors").read_bytes()).hexdigest()
        return cls(losses, weights, left, runs)

    def faults(self, whole: Outcome) -> Counter[str]:
        """Returns how this differs from an undisturbed run."""
        found = Counter[str]()
        found["lost"] = sum(step not in self.losses for step in whole.losses)
        found["duplicated"] = sum(len(values) > 1 for values in self.losses.values())
        found["mismatched"] = sum(self.losses.get(step, values) != values for step, values in whole.losses.items())
        found["mismatched_weights"] = int(self.weights != whole.weights)
        found["left_files"] = len(self.leftovers)
        found["open_runs"] = sum(status != "FINISHED" for status in self.runs)
        return found


def settings(home: Path, spoiled: bool) -> dict[str, Any]:
    """Returns the environment of a command."""
    if not spoiled:
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(home / "control"), os.environ.get("PYTHONPATH", "")])}
