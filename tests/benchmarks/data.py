"""``prepare`` at scale: speed, against plain kernels and against datatrove; memory; duplicates found.

    bash cluster/local bench data [--megabytes 600] [--datatrove ITS_VENV] [--only dedup,defects,speed] [--json]

CPU-seconds are those of the whole machine over the run, less what it uses when idle: run it alone. datatrove lives in
an environment of its own (``pip install "datatrove[io,processing,multilingual]"``) and is left out, with the reason
printed, where none is given.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from corpora import Language, documents, edited, write_corpus

HERE = Path(__file__).resolve().parent
QUALITY = {"gopher": {}, "repetition": {}}
LANGUAGES: tuple[Language, ...] = ("en", "zh")
VOCABULARY = 32_000
DATATROVE_MEGABYTES = 20.0
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
    """CPU-seconds of the machine, wall time, and the greatest memory of one process, of what runs inside it."""

    def __init__(self) -> None:
        self._idle = _busy_share()

    def __enter__(self) -> Meter:
        self._began, self._busy = time.monotonic(), _busy()
        self._stop = threading.Event()
        self.largest = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        self.cpu = _busy() - self._busy - self._idle * self.seconds
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            for process in psutil.process_iter(["name", "cmdline"]):
                if "ray::" in " ".join(process.info["cmdline"] or ())[:40]:
                    try:
                        memory = process.memory_full_info()
                    except psutil.Error:
                        continue
                    self.largest = max(self.largest, memory.uss)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _busy_share() -> float:
    began, busy = time.monotonic(), _busy()
    time.sleep(2)
    return (_busy() - busy) / (time.monotonic() - began)


def corpus_with_copies(folder: Path, language: Language, megabytes: float) -> tuple[list[str], int]:
    """Writes a corpus of which some documents are near copies; returns its files and its bytes of JSON lines."""
    size = write_corpus(folder, language, megabytes * (1 - COPIES))
    random_ = np.random.Generator(np.random.Philox(key=9))
    copies = folder / f"{language}-copies.jsonl"
    wanted = size * COPIES
    with open(copies, "w", encoding="utf-8") as file:
        for path in sorted(folder.glob(f"{language}-0*.jsonl")):
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    if wanted <= 0:
                        break
                    if random_.random() < 0.5:
                        text = edited(json.loads(line)["text"], language, random_.uniform(0, 0.02), random_)
                        written = json.dumps({"id": f"copy-{wanted}", "text": text}, ensure_ascii=False) + "\n"
                        wanted -= len(written.encode())
                        file.write(written)
    paths = sorted(str(path) for path in folder.glob("*.jsonl"))
    return paths, sum(os.path.getsize(path) for path in paths)


def plain(paths: list[str], tokenizer: str) -> float:
    """Returns the CPU-seconds of the same kernels in one plain process: read, clean, keys, encode, write shards."""
    began = time.process_time()
    from llmyard.core.storage import Storage
    from llmyard.sources.corpus import plan
    from llmyard.stages.config import job_adapter
    from llmyard.stages.preparing.cleaning import Clean
    from llmyard.stages.preparing.duplicates import Join, Match
    from llmyard.stages.preparing.encoding import Encode, Kept
    from llmyard.stages.preparing.scratch import Scratch

    config = job_adapter().validate_python(job(paths))
    with tempfile.TemporaryDirectory(prefix="ly-plain-") as folder:
        scratch = Scratch(Storage(folder), "making")
        rows = [
            {
                "index": index,
                "units": [{"source": unit.source, "path": unit.path, "start": unit.start, "stop": unit.stop}],
            }
            for index, unit in enumerate(plan(config.sources, config.documents_per_task))
        ]
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


def speed(megabytes: float, datatrove: str | None) -> dict[str, Any]:
    """Measures JSON lines to shards, all-in, for each language."""
    results: dict[str, Any] = {}
    for language in LANGUAGES:
        with tempfile.TemporaryDirectory(prefix="ly-bench-") as folder:
            paths, size = corpus_with_copies(Path(folder, "corpus"), language, megabytes)
            half = paths[: max(1, len(paths) // 2)]
            half_size = sum(os.path.getsize(path) for path in half)
            with Meter() as small:
                run_job(job(half), f"{folder}/half")
            with Meter() as whole:
                result = run_job(job(paths), f"{folder}/whole")
            tokenizer = str(result.artifacts[1].local("tokenizer.json"))
            cpu = {
                at: _in_a_process("plain", *at_paths, tokenizer) for at, at_paths in (("half", half), ("whole", paths))
            }
            slope = (whole.cpu - small.cpu) / (size - half_size) * 1e6
            plain_slope = (cpu["whole"] - cpu["half"]) / (size - half_size) * 1e6
            found = {
                "megabytes": size / 1e6,
                "mb_per_s_per_core": size / 1e6 / whole.cpu,
                "mb_per_s_per_core_slope": 1 / slope,
                "plain_mb_per_s_per_core": size / 1e6 / cpu["whole"],
                "ray_overhead": slope / plain_slope - 1,
                "wall_seconds": whole.seconds,
                "largest_process_mb": [small.largest / 1e6, whole.largest / 1e6],
                "documents_kept": result.metrics["documents_clean"] - result.metrics["dropped_duplicate"],
            }
            if datatrove:
                sample = _beginning(paths[0], DATATROVE_MEGABYTES, Path(folder, "sample"))
                found |= compare(datatrove, [sample], tokenizer, language, folder)
                found["ratio_to_datatrove"] = found["mb_per_s_per_core"] / found["datatrove_mb_per_s_per_core"]
            results[language] = found
            print(language, json.dumps(found), file=sys.stderr)
    return results


def compare(environment: str, paths: list[str], tokenizer: str, language: Language, folder: str) -> dict[str, Any]:
    """Runs datatrove's own pipeline and ours on the same files; returns its speed and how far the kept ones agree."""
    with Meter() as theirs:
        command = [f"{environment}/bin/python", str(HERE / "datatrove_pipeline.py"), language, tokenizer]
        output = subprocess.run(
            [*command, f"{folder}/theirs", *paths], check=True, capture_output=True, text=True
        ).stdout
    kept_theirs = set(json.loads(output.splitlines()[-1]))
    size = sum(os.path.getsize(path) for path in paths)
    result = run_job(job(paths), f"{folder}/ours")
    kept_ours = kept_ids(result.artifacts[0], paths)
    everything = {json.loads(line)["id"] for path in paths for line in Path(path).read_bytes().splitlines()}
    agreed = sum((name in kept_ours) == (name in kept_theirs) for name in everything)
    return {
        "datatrove_mb_per_s_per_core": size / 1e6 / theirs.cpu,
        "agreement": agreed / len(everything),
    }


def _beginning(path: str, megabytes: float, folder: Path) -> str:
    """Writes the first lines of a file to another one of the same name: datatrove takes hours for all of it."""
    folder.mkdir()
    data = Path(path).read_bytes()[: int(megabytes * 1e6)]
    target = folder / Path(path).name
    target.write_bytes(data[: data.rindex(b"\n") + 1])
    return str(target)


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


def _in_a_process(what: str, *arguments: str) -> float:
    """Returns a figure measured in a process of its own, so that nothing of it is warm."""
    output = subprocess.run(
        [sys.executable, __file__, "--inner", what, *arguments], check=True, capture_output=True, text=True
    ).stdout
    return float(output.splitlines()[-1])


def dedup(pairs: int = 3000) -> dict[str, Any]:
    """Measures recall over pairs spread evenly over true similarity 0.8 to 1.0, and precision beside unrelated ones."""
    from llmyard.text.duplicates import components, stars
    from llmyard.text.minhash import band_keys, bands_for, shingles_of
    from llmyard.text.units import units_of

    results: dict[str, Any] = {}
    bands, rows = bands_for(0.8)
    for language in LANGUAGES:
        random_ = np.random.Generator(np.random.Philox(key=3))
        originals = documents(language, pairs, random_)
        copies = [edited(text, language, random_.uniform(0, 0.03), random_) for text in originals]
        units = units_of(_column([*originals, *copies]))
        similarity = np.array([_jaccard(shingles_of(units, at), shingles_of(units, pairs + at)) for at in range(pairs)])
        keys = band_keys(units, bands, rows)
        ranks = np.repeat(np.arange(2 * pairs), bands)
        nodes, roots = components(*stars(keys.reshape(-1), ranks))
        root = dict(zip(nodes.tolist(), roots.tolist(), strict=True))
        chosen = _evenly(similarity, 0.8, 1.0)
        hits = sum(root.get(pairs + at) == root.get(at, at) for at in chosen)
        wrong = sum(root_of % pairs != node % pairs for node, root_of in root.items())
        results[f"dedup_recall_{language}"] = hits / len(chosen)
        results[f"dedup_pairs_{language}"] = len(chosen)
        results[f"dedup_precision_{language}"] = 1 - wrong / max(1, len(root))
    results["dedup_precision"] = min(results[f"dedup_precision_{language}"] for language in LANGUAGES)
    return results


def defects(count: int = 12_000) -> dict[str, Any]:
    """Measures what becomes of smallworld's planted damage: the share of each kind that goes, and of clean texts that
    stay; near copies by their similarity; spans of personal data that are masked or rightly left.
    """
    import pyarrow as pa

    from llmyard.sources.smallworld import SmallWorld
    from llmyard.sources.smallworld.lexicon import lexicon
    from llmyard.text.clean import clean
    from llmyard.text.config import Cleaning

    world = SmallWorld("dev", seed=11, documents=count)
    planted = [world.document(at) for at in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "words.txt")
        words.write_text("\n".join(word for each in lexicon().data["placeholder_slurs"].values() for word in each))
        steps = ["encoding", "html", "normalize", "language", "boilerplate", "quality", "toxicity", "privacy"]
        config = Cleaning.model_validate({"clean": steps, "toxicity": {"lists": [str(words)], "max_density": 0}})
        rows = [[each.id, each.text, "smallworld", "", ""] for each in planted]
        names = ["id", "text", "source", "language", "url"]
        cleaned = clean(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), config)
    place = {each.id: at for at, each in enumerate(planted)}
    ranks = np.array([place[name] for name in cleaned.kept["id"].to_pylist()])
    root = _groups(cleaned, ranks)
    kept = set(ranks.tolist()) - set(root)
    language = dict(zip(ranks.tolist(), cleaned.kept["language"].to_pylist(), strict=True))
    shares: dict[str, list[float]] = {}
    for at, each in enumerate(planted):
        true = each.labels.get("true_language") or each.language
        if at in language:
            shares.setdefault("language_right", []).append(language[at] == true)
        if "similarity" in each.labels and at in set(ranks.tolist()) and place[each.labels["copy_of"]] in language:
            low = int(each.labels["similarity"] * 10) / 10
            shares.setdefault(f"near_copies_{low:.1f}_found", []).append(
                at in root or place[each.labels["copy_of"]] in root
            )
        elif each.damage == "exact_duplicate":
            shares.setdefault("exact_duplicate_found", []).append(at in root or place[each.labels["copy_of"]] in root)
        elif "look_alike_of" in each.labels:
            shares.setdefault("look_alike_kept", []).append(at in kept)
        elif each.damage in ("mojibake", "boilerplate", "slur", "word_salad"):
            shares.setdefault(f"{each.damage}_dropped", []).append(at not in kept)
        elif not each.damage and not each.group:
            shares.setdefault("clean_kept", []).append(at in kept)
    shares["mojibake_dropped_or_repaired"] = [
        at not in kept or "�" not in cleaned.kept["text"][int(np.flatnonzero(ranks == at)[0])].as_py()
        for at, each in enumerate(planted)
        if each.damage == "mojibake"
    ]
    return {f"smallworld_{key}": sum(found) / len(found) for key, found in sorted(shares.items())}


def _groups(cleaned: Any, ranks: Any) -> dict[int, int]:
    """Returns the first of its group for every document that is a copy."""
    from llmyard.text.duplicates import components, stars
    from llmyard.text.minhash import band_keys, bands_for

    keys = band_keys(cleaned.units, *bands_for(0.8))
    digests = np.frombuffer(cleaned.kept["digest"].combine_chunks().buffers()[1], "S16")
    pairs = [stars(digests, ranks), stars(keys.reshape(-1), np.repeat(ranks, keys.shape[1]))]
    nodes, roots = components(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    return dict(zip(nodes.tolist(), roots.tolist(), strict=True))


def _column(texts: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(texts, pa.large_string())


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(1, len(one | other))


def _evenly(similarity: Any, low: float, high: float, bins: int = 10) -> list[int]:
    """Returns as many pairs from each bin of similarity."""
    draw = random.Random(1)
    edges = np.linspace(low, high, bins + 1)
    groups = [np.flatnonzero((similarity >= edges[at]) & (similarity < edges[at + 1])).tolist() for at in range(bins)]
    size = min(len(group) for group in groups)
    return [each for group in groups for each in draw.sample(group, size)]


def main() -> None:
    """Runs the benchmarks and prints the table."""
    if sys.argv[1:2] == ["--inner"]:
        print({"plain": lambda *given: plain(list(given[:-1]), given[-1])}[sys.argv[2]](*sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=600)
    parser.add_argument("--datatrove", help="its virtual environment")
    parser.add_argument("--only", default="dedup,defects,speed", help="some of dedup, defects, speed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "dedup": dedup,
        "defects": defects,
        "speed": lambda: speed(options.megabytes, options.datatrove),
    }
    if not options.datatrove and "speed" in options.only:
        print("datatrove: left out, no --datatrove environment is given", file=sys.stderr)
    found: dict[str, Any] = {}
    for name in options.only.split(","):
        found |= parts[name]()
    for language in LANGUAGES:
        for key, value in found.get(language, {}).items():
            print(f"{language} {key:28} {value}")
    for key, value in found.items():
        if key not in LANGUAGES:
            print(f"{key:31} {value}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
