"""How fast `prepare` is, in what memory: at several sizes, beside the same kernels alone, and beside datatrove."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _corpora import Language, edited, write_corpus

HERE = Path(__file__).resolve().parent
QUALITY = {"gopher": {}, "repetition": {}}
VOCABULARY = 32_000
COPIES = 0.02  # of the documents are near copies of another one


def job(paths: list[str], **fields: Any) -> dict[str, Any]:
    """Returns the measured job: JSON lines to shards with quality rules, both kinds of duplicates, and BPE."""
    return {
        "kind": "prepare", "output": "bench", "sources": [{"kind": "files", "paths": paths, "format": "jsonl"}],
        "clean": ["normalize", "quality", "deduplicate"], "quality": QUALITY,
        "tokenizer": {"vocab_size": VOCABULARY, "sample_documents": 20_000}, "splits": {"validation": 0}, **fields,
    }  # fmt: skip


def run_job(fields: dict[str, Any], storage: str) -> Any:
    """Returns the result of a stage run here."""
    from llmyard.stages.config import job_adapter
    from llmyard.stages.run import run

    (result,) = run(job_adapter().validate_python(fields), storage=storage)
    return result


class Meter:
    """CPU-seconds and memory of this process and all below it, of what runs inside the block.

    Attributes:
        seconds: Wall time.
        cpu: CPU-seconds of all processes, those that ended included (up to their last half second).
        largest: Greatest private memory (USS) of one Ray worker, in bytes.
    """

    def __enter__(self) -> Meter:
        self._began, self._own, self._others = time.monotonic(), time.process_time(), dict[tuple[int, float], float]()
        self._stop = threading.Event()
        self.largest = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._began
        self.cpu = time.process_time() - self._own + sum(self._others.values())

    def _watch(self) -> None:
        turn = 0
        while not self._stop.wait(0.25):
            turn += 1
            for process in psutil.Process().children(recursive=True):
                try:
                    times = process.cpu_times()
                    self._others[process.pid, process.create_time()] = times.user + times.system
                    if turn % 4 == 0 and process.name().startswith("ray::"):
                        self.largest = max(self.largest, process.memory_full_info().uss)
                except psutil.Error:
                    continue


def corpus_of(folder: Path, language: Language, megabytes: float) -> list[str]:
    """Returns the files of a corpus in 128 MB files, of which 2 % are near copies; made where it is not there yet."""
    done = folder / f"{language}-{megabytes:g}.json"
    if not done.exists():
        place = folder / f"{language}-{megabytes:g}"
        size = write_corpus(place, language, megabytes * (1 - COPIES))
        random_ = np.random.Generator(np.random.Philox(key=9))
        wanted = size * COPIES
        with open(place / f"{language}-copies.jsonl", "w", encoding="utf-8") as file:
            for path in sorted(place.glob(f"{language}-0*.jsonl")):
                with open(path, encoding="utf-8") as lines:
                    for line in lines:
                        if wanted > 0 and random_.random() < 2 * COPIES:
                            text = edited(json.loads(line)["text"], language, random_.uniform(0, 0.02), random_)
                            written = json.dumps({"id": f"copy-{wanted}", "text": text}, ensure_ascii=False) + "\n"
                            wanted -= len(written.encode())
                            file.write(written)
        done.write_text(json.dumps(sorted(str(path) for path in place.glob("*.jsonl"))))
    return [str(path) for path in json.loads(done.read_text())]


def bytes_of(paths: list[str]) -> int:
    """Returns the size of files."""
    return sum(os.path.getsize(path) for path in paths)


def speed(language: Language, sizes: list[float], folder: Path) -> dict[str, Any]:
    """Measures JSON lines to shards, all-in, at each size (megabytes, rising), and the kernels alone at the last two:
    in as many plain processes at once as Ray has workers, since processes at once share caches and memory.

    The slope between the last two sizes leaves out what does not grow with the corpus: starting Ray, learning the
    tokenizer from its sample.
    """
    runs: list[dict[str, float]] = []
    for megabytes in sizes:
        paths = corpus_of(folder, language, megabytes)
        with tempfile.TemporaryDirectory(prefix="ly-bench-", dir=folder) as storage:
            with Meter() as meter:
                result = run_job(job(paths), storage)
            run: dict[str, float] = {
                "megabytes": bytes_of(paths) / 1e6, "cpu_seconds": meter.cpu, "wall_seconds": meter.seconds,
                "largest_process_mb": meter.largest / 1e6, "documents_read": result.metrics["documents_read"],
                "dropped_duplicate": result.metrics["dropped_duplicate"],
            }  # fmt: skip
            if megabytes in sizes[-2:]:
                tokenizer = str(result.artifacts[1].local("tokenizer.json"))
                run["plain_cpu_seconds"] = _side_by_side(tokenizer, paths)
        runs.append(run)
        print(language, json.dumps(run), file=sys.stderr, flush=True)
    small, whole = runs[-2:]
    grown = whole["megabytes"] - small["megabytes"]
    slope, plain_slope = ((whole[key] - small[key]) / grown for key in ("cpu_seconds", "plain_cpu_seconds"))
    memory = [run["largest_process_mb"] for run in runs]
    return {
        "runs": runs,
        "mb_per_s_per_core": whole["megabytes"] / whole["cpu_seconds"],
        "mb_per_s_per_core_slope": 1 / slope,
        "plain_mb_per_s_per_core_slope": 1 / plain_slope,
        "ray_overhead": slope / plain_slope - 1,
        "wall_mb_per_s_slope": grown / (whole["wall_seconds"] - small["wall_seconds"]),
        "rss_growth": max(memory) / min(memory) - 1,
        "wall_per_mb_growth": max(
            (after["wall_seconds"] - before["wall_seconds"]) / (after["megabytes"] - before["megabytes"])
            for before, after in pairwise(runs)
        ) / min(
            (after["wall_seconds"] - before["wall_seconds"]) / (after["megabytes"] - before["megabytes"])
            for before, after in pairwise(runs)
        ) - 1 if len(runs) > 2 else 0.0,
    }  # fmt: skip


def plain(tokenizer: str, paths: list[str]) -> float:
    """Returns the CPU-seconds of the same kernels in one plain process: read, clean, keys, encode, write shards."""
    began = time.process_time()
    from dataclasses import asdict

    from llmyard.core.storage import Storage
    from llmyard.sources.corpus import plan
    from llmyard.stages.config import job_adapter
    from llmyard.stages.preparing.cleaning import Clean
    from llmyard.stages.preparing.duplicates import Join, Match
    from llmyard.stages.preparing.encoding import Encode, Kept
    from llmyard.stages.preparing.scratch import Scratch

    config = job_adapter().validate_python(job(paths))
    with tempfile.TemporaryDirectory(prefix="ly-plain-", dir=Path(paths[0]).parent.parent) as folder:
        scratch = Scratch(Storage(folder), "making")
        units = plan(config.sources, config.documents_per_task)
        rows = [{"index": index, "units": [asdict(unit)]} for index, unit in enumerate(units)]
        cleaned = [Clean(config, scratch, 4)(row) for row in rows]
        match = Match(scratch, [receipt["keys"] for receipt in cleaned], 4)
        pairs = [match({"partition": each})["file"] for each in range(4)]
        joined = Join(scratch, pairs, len(rows), 4)({})
        kept = Kept(scratch, len(rows), 4, joined["files"])
        encode = Encode(kept, _Local(tokenizer), config, "shards", 1)  # type: ignore[arg-type]
        Path(folder, "shards").mkdir()
        for row in rows:
            encode(row)
    return time.process_time() - began


class _Local:
    """A tokenizer artifact of which only the file is needed."""

    def __init__(self, path: str) -> None:
        self._path = path

    def local(self, name: str) -> Path:
        """Returns the file."""
        return Path(self._path)


def compare(environment: str, language: Language, megabytes: float, folder: Path) -> dict[str, Any]:
    """Runs datatrove's own pipeline and ours on the same files, with a tokenizer of ours.

    Returns:
        Both speeds, and the share of documents that both keep or both drop.
    """
    paths = corpus_of(folder, language, megabytes)
    with tempfile.TemporaryDirectory(prefix="ly-bench-", dir=folder) as place:
        result = run_job(job(paths), f"{place}/ours")
        tokenizer = str(result.artifacts[1].local("tokenizer.json"))
        ours = _in_a_process("plain", tokenizer, *paths)
        with Meter() as theirs:
            command = [f"{environment}/bin/python", str(HERE / "_datatrove_pipeline.py"), language, tokenizer]
            done = subprocess.run([*command, f"{place}/theirs", *paths], check=True, capture_output=True, text=True)
        kept_theirs = set(json.loads(done.stdout.splitlines()[-1]))
        kept_ours = kept_ids(result.artifacts[0], paths)
    everything = {json.loads(line)["id"] for path in paths for line in Path(path).read_bytes().splitlines()}
    agreed = sum((name in kept_ours) == (name in kept_theirs) for name in everything)
    return {
        "datatrove_megabytes": bytes_of(paths) / 1e6,
        "datatrove_mb_per_s_per_core": bytes_of(paths) / 1e6 / theirs.cpu,
        "plain_mb_per_s_per_core_there": bytes_of(paths) / 1e6 / ours,
        "agreement": agreed / len(everything),
    }


def kept_ids(shards: Any, paths: list[str]) -> set[str]:
    """Returns the ids in the files of the documents that are in the shards, found by their byte offsets."""
    from llmyard.tokens.shards import ShardSet

    names = [name for shard in ShardSet.of(shards, "train").shards for name in shard.documents["id"].to_pylist()]
    opened = {"/".join(Path(path).parts[-2:]): open(path, "rb") for path in paths}  # noqa: SIM115 - closed below
    found = set()
    for name in names:
        file, _, offset = name.rpartition("#")
        opened[file].seek(int(offset))
        found.add(json.loads(opened[file].readline())["id"])
    for handle in opened.values():
        handle.close()
    return found


def _side_by_side(tokenizer: str, paths: list[str]) -> float:
    """Returns the CPU-seconds of plain processes that work on the files together, one for each of Ray's workers."""
    count = min(max(2, os.cpu_count() or 2), len(paths))
    with ThreadPoolExecutor(count) as pool:
        parts = [paths[number::count] for number in range(count)]
        return sum(pool.map(lambda part: _in_a_process("plain", tokenizer, *part), parts))


def _in_a_process(*arguments: str) -> float:
    """Returns a figure measured in a process of its own, so that nothing of it is warm."""
    output = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


if __name__ == "__main__":
    assert sys.argv[1] == "plain", "run `bench data` instead"
    print(plain(sys.argv[2], sys.argv[3:]))
