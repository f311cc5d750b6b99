"""The job that `chaos data` kills: its corpus, where it stands, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

PHASES = ("clean", "match", "tokenizer", "encode", "commit")
GENERATED, PER_TASK, LINES, FILES = 1200, 100, 150, 4
PORTIONS, PARTITIONS = GENERATED // PER_TASK + FILES, 4
STEPS = {"clean": PORTIONS, "match": PARTITIONS + 1, "tokenizer": 2, "encode": PORTIONS, "commit": 3}
_FENCE = re.compile(r"-f\d+\.")
_HALF = re.compile(r"\.?((?:\d+|join|tokenizer))-[0-9a-f]{8}\.(?:parquet|pairs|groups)")
_SHARD = re.compile(r"[a-z]+-(\d{6})-\d+-f\d+\.tokens\.parquet")


def write_job(home: Path) -> Path:
    """Writes the corpus' files and the job, and returns the job's path."""
    chance = random.Random(1)
    words = [[chr(0x4E00 + chance.randrange(3000)) for _ in range(800)]]
    words.append(["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(800)])
    texts: list[str] = []
    sources: list[dict[str, Any]] = [{"kind": "smallworld", "documents": GENERATED, "seed": 7}]
    for number in range(FILES):
        path = home / f"texts-{number}.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for _ in range(LINES):
                parts = chance.choices(words[number % 2], k=60)
                text = "".join(parts) + "。" if number % 2 == 0 else " ".join(parts) + "."
                if texts and chance.random() < 0.3:  # a copy of an earlier text, also of another file's, or nearly one
                    text = chance.choice(texts) + ("" if chance.random() < 0.5 else "x")
                texts.append(text)
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        sources.append({"kind": "files", "name": path.stem, "paths": [str(path)], "format": "jsonl"})
    job = {
        "kind": "prepare", "output": "corpus", "sources": sources, "documents_per_task": PER_TASK,
        "clean": ["normalize", "quality", "deduplicate"], "splits": {"validation": 0.1},
        "tokenizer": {"vocab_size": 1000, "split_han": True}, "block_tokens": 256,
    }  # fmt: skip
    (home / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    return home / "job.yaml"


@dataclass(frozen=True)
class Harvest:
    """What a storage holds in the end.

    Attributes:
        files: SHA-256 of each file of the artifacts, by its name without the owner's number.
        documents: How often each document's id stands in the shards.
        metrics: Of the shards.
        leftovers: Files that no artifact lists.
        versions: Folders of versions, committed or not.
    """

    files: dict[str, str]
    documents: Counter[str]
    metrics: dict[str, float]
    leftovers: list[str]
    versions: int


def harvest(storage: Path) -> Harvest:
    """Returns what a finished job left, every file read."""
    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage
    from llmyard.tokens import shard_index

    store = ArtifactStore(Storage(str(storage)))
    files, documents, left, versions, metrics = {}, Counter[str](), list[str](), 0, {}
    for kind in ("shards", "tokenizer"):
        artifact = store.get("corpus", kind)
        listed = {f"{artifact.version}/artifact.json", f"{artifact.version}/{artifact.files_list}"}
        for entry in artifact.files():
            path = artifact.local() / entry.path
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert digest == entry.sha256, f"{path} is not as listed"
            if entry.path == shard_index.FILE:  # it names the shards with their fences
                facts = shard_index.from_parquet(path.read_bytes(), str(path))
                rows = [replace(each, name=_FENCE.sub(".", f"{each.name}.")) for each in facts]
                digest = hashlib.sha256(repr(rows).encode()).hexdigest()
            files[f"{kind}/{_FENCE.sub('.', entry.path)}"] = digest
            listed.add(f"{artifact.version}/{entry.path}")
            if entry.path.endswith(".documents.parquet"):
                documents.update(pq.read_table(path)["id"].to_pylist())
        there = [path.relative_to(storage / kind / "corpus") for path in (storage / kind / "corpus").rglob("*")]
        left += [
            f"{kind}/{path}"
            for path in there
            if str(path) not in listed and (storage / kind / "corpus" / path).is_file()
        ]
        versions += sum(len(path.parts) == 1 and path.name != "_making" for path in there)
        metrics |= artifact.metrics if kind == "shards" else {}
    return Harvest(files, documents, metrics, left, versions)


@dataclass(frozen=True)
class Sight:
    """An unfinished version as its folder shows it.

    Attributes:
        receipts: Inode of each receipt: a rewritten one has another.
        half: Units that left files but no receipt.
        moment: (phase, steps done in it); -1 before the first, 5 after the last.
    """

    receipts: dict[str, int]
    half: frozenset[str]
    moment: tuple[int, int]


def look(storage: Path) -> Sight:
    """Returns where the job stands."""
    versions = [item.path for item in _scan(storage / "shards/corpus") if item.name != "_making"]
    if not versions:
        return Sight({}, frozenset(), (-1, 0))
    folder = versions[0]
    receipts: dict[str, int] = {}
    half = set()
    for part in ("clean", "match", "count", "", "encode"):
        for item in _scan(f"{folder}/_making/{part}"):
            if item.name.endswith(".json") and item.name != "notes.json":
                receipts[f"{part}/{item.name[:-5]}".lstrip("/")] = item.inode()
            elif found := _HALF.match(item.name):
                half.add(f"{part}/{found[1]}".lstrip("/"))
    names = [item.name for item in _scan(folder)]
    half |= {f"encode/{found[1]}" for name in names if (found := _SHARD.fullmatch(name))}
    done = Counter(name.partition("/")[0] for name in receipts)
    learned = any((Path(item.path) / "artifact.json").exists() for item in _scan(storage / "tokenizer/corpus"))
    if "artifact.json" in names:
        moment = (4, 2) if "_making" in names else (5, 0)
    elif done["clean"] < PORTIONS:
        moment = (0, done["clean"])
    elif not done["join"]:
        moment = (1, done["match"])
    elif not learned:
        moment = (2, done["tokenizer"])
    elif done["encode"] < PORTIONS:
        moment = (3, done["encode"])
    else:
        moment = (4, int(any(name.startswith("files-f") for name in names)))
    half = set() if moment >= (4, 2) else half - set(receipts)  # the receipts are being removed
    return Sight(receipts, frozenset(half), moment)


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []
