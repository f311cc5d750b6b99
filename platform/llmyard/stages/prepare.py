"""``prepare``: read, normalise, filter, drop exact duplicates, train a tokenizer, encode, write shards.

Four rounds over files, each a Ray Data job; a unit that a killed run finished is not done again, because its receipt
says so. Documents never pass through the driver.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore, FileEntry
from llmyard.core.errors import DataError
from llmyard.core.fingerprint import fingerprint
from llmyard.core.storage import Storage
from llmyard.sources.corpus import BadRecord, Unit, as_row, digest, listing, plan, read, revision
from llmyard.stages.config import Prepare
from llmyard.stages.stage import Made, Making

REVISION = 2
KEY_PARTITIONS = 16
MAX_BAD_SHARE = 0.01


def parents(config: Prepare, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the given tokenizer, if the job names one."""
    return {"tokenizer": store.get(config.tokenizer, "tokenizer")} if isinstance(config.tokenizer, str) else {}


def sources(config: Prepare, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of all source files, and the revision of generated sources."""
    return [[listing(source), revision(source)] for source in config.sources]


def make(config: Prepare, making: Making) -> Made:
    """Makes the shards (and the tokenizer, an artifact of its own)."""
    from llmyard.runtime.datasets import map_units

    units = plan(config.sources, config.documents_per_task)
    work = Work(
        config, making.draft.storage, f"{making.draft.folder}/_making", making.draft.folder, making.draft.lease.fence
    )
    rows = [{"index": index, **as_row(unit)} for index, unit in enumerate(units)]
    total = 2 * len(rows) + KEY_PARTITIONS
    done = 0

    totals: Counter[str] = Counter()
    samples: dict[str, list[str]] = {}
    bad: list[dict[str, Any]] = []
    for result in map_units(rows, work.clean):
        done += 1
        totals.update(result["counts"])
        for reason, ids in result["samples"].items():
            samples[reason] = (samples.get(reason, []) + ids)[:5]
        bad += result["bad"]
        making.progress.update(done, total, f"{totals['read']:,} documents read")
    _refuse(totals, bad, config)

    if "deduplicate" in config.clean:
        for result in map_units([{"partition": each} for each in range(KEY_PARTITIONS)], work.deduplicate):
            done += 1
            totals["dropped_duplicate"] += result["dropped"]
            making.progress.update(done, total, f"{totals['dropped_duplicate']:,} duplicates")
    tokenizer = making.parents.get("tokenizer") or _train_tokenizer(config, making, work, len(rows))

    entries: list[FileEntry] = []
    tokens: Counter[str] = Counter()
    encode = Encode(work, tokenizer)
    for result in map_units(rows, encode):
        done += 1
        entries += [FileEntry(**entry) for entry in result["files"]]
        tokens.update(result["tokens"])
        making.progress.update(min(done, total), total, f"{sum(tokens.values()):,} tokens")
    if not tokens["train"]:
        raise DataError(
            "no document is left for training", "loosen the quality rules or the splits; counts: " + str(dict(totals))
        )
    entries.append(_keep_listing(config, making))
    characters = max(1, totals["characters"])
    metrics = {
        **{f"documents_{key}" if not key.startswith("dropped") else key: float(value) for key, value in totals.items()},
        **{f"tokens_{split}": float(count) for split, count in tokens.items()},
        "characters_per_token": characters / sum(tokens.values()),
    }
    metrics.pop("documents_characters", None)
    details = {
        "vocab_size": tokenizer.details["vocab_size"],
        "dropped_samples": samples,
        "bad_records": bad[:20],
        "corpus": _corpus(config),
    }
    made_here = (tokenizer,) if "tokenizer" not in making.parents else ()
    order = sorted(entries, key=lambda entry: entry.path)
    return Made(metrics, details, order, also=made_here, extra_parents=(tokenizer.reference,))


class Work:
    """The rounds' work on one unit; sent to Ray tasks, so it holds plain settings only."""

    def __init__(self, config: Prepare, storage: Storage, scratch: str, folder: str, fence: int) -> None:
        self.config, self.storage, self.scratch, self.folder, self.fence = config, storage, scratch, folder, fence

    def clean(self, row: dict[str, Any]) -> dict[str, Any]:
        """Reads and cleans one unit; writes its documents and the keys of its texts by partition."""
        import numpy as np
        import pyarrow as pa

        from llmyard.text.clean import clean

        index = row.pop("index")
        if (receipt := self._receipt(f"clean/{index:06d}")) is not None:
            return receipt
        unit = Unit(**row)
        columns: dict[str, list[str]] = {"id": [], "text": [], "source": [], "language": []}
        bad: list[dict[str, Any]] = []
        for item in read(unit, self.config.sources[unit.source]):
            if isinstance(item, BadRecord):
                bad.append(asdict(item))
                continue
            for name, values in columns.items():
                values.append(getattr(item, name))
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        cleaned = clean(table, self.config.clean, self.config.quality)
        kept = cleaned.kept
        keys = np.frombuffer(b"".join(digest(text) for text in kept["text"].to_pylist()), np.uint8).reshape(-1, 16)
        digests = pa.Array.from_buffers(pa.binary(16), len(kept), [None, pa.py_buffer(keys.tobytes())])
        kept = kept.append_column("digest", digests)
        self._write(kept, f"clean/{index:06d}.parquet")
        ranks = np.arange(len(kept), dtype=np.int64) + (index << 32)
        partition = keys[:, 0] % KEY_PARTITIONS if len(kept) else np.zeros(0, np.uint8)
        for each in range(KEY_PARTITIONS):
            chosen = np.flatnonzero(partition == each)
            part = pa.table({"digest": digests.take(pa.array(chosen)), "rank": pa.array(ranks[chosen])})
            self._write(part, f"keys/{each:03d}/{index:06d}.parquet")
        characters = int(sum(len(text) for text in kept["text"].to_pylist()))
        counts = {"read": len(table), "bad": len(bad), "clean": len(kept), "characters": characters}
        counts |= {f"dropped_{reason}": count for reason, count in cleaned.dropped.items()}
        return self._give(f"clean/{index:06d}", {"counts": counts, "samples": cleaned.samples, "bad": bad[:20]})

    def deduplicate(self, row: dict[str, Any]) -> dict[str, Any]:
        """Finds the repeated texts of one key partition; the first document of each text is kept."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        name = f"drop/{row['partition']:03d}"
        if (receipt := self._receipt(name)) is not None:
            return receipt
        folder = self.storage.path(self.scratch, f"keys/{row['partition']:03d}")
        keys = pq.read_table(folder, filesystem=self.storage.filesystem)
        first = keys.group_by("digest").aggregate([("rank", "min")])["rank_min"]
        dropped = keys["rank"].filter(pc.invert(pc.is_in(keys["rank"], value_set=first.combine_chunks())))
        self._write(pa.table({"rank": dropped}), f"{name}.parquet")
        return self._give(name, {"dropped": len(dropped)})

    def kept(self, index: int) -> Any:
        """Returns one unit's table after deduplication."""
        import numpy as np
        import pyarrow.parquet as pq

        table = pq.read_table(
            self.storage.path(self.scratch, f"clean/{index:06d}.parquet"), filesystem=self.storage.filesystem
        )
        if "deduplicate" not in self.config.clean:
            return table
        keep = np.ones(len(table), bool)
        low, high = index << 32, (index + 1) << 32
        for each in range(KEY_PARTITIONS):
            path = self.storage.path(self.scratch, f"drop/{each:03d}.parquet")
            ranks = pq.read_table(path, filesystem=self.storage.filesystem)["rank"].to_numpy()
            keep[ranks[(ranks >= low) & (ranks < high)] - low] = False
        return table.filter(keep)

    def sample(self, row: dict[str, Any]) -> dict[str, Any]:
        """Trains the tokenizer on the first documents of every unit; returns its JSON."""
        from llmyard.tokens.tokenizer import Tokenizer

        if (receipt := self._receipt("tokenizer")) is not None:
            return receipt
        assert not isinstance(self.config.tokenizer, str)
        share = -(-self.config.tokenizer.sample_documents // row["units"])
        texts = (text for index in range(row["units"]) for text in self.kept(index)["text"][:share].to_pylist())
        return self._give("tokenizer", {"json": Tokenizer.train(texts, self.config.tokenizer).to_json()})

    def _write(self, table: Any, path: str) -> None:
        import io

        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="lz4")
        self.storage.write(f"{self.scratch}/{path}", buffer.getvalue())

    def _receipt(self, name: str) -> dict[str, Any] | None:
        data = self.storage.read(f"{self.scratch}/{name}.json")
        return json.loads(data) if data else None

    def _give(self, name: str, receipt: dict[str, Any]) -> dict[str, Any]:
        self.storage.write(f"{self.scratch}/{name}.json", json.dumps(receipt).encode())
        return receipt


class Encode:
    """Encodes one unit's documents and writes a shard for each split."""

    def __init__(self, work: Work, tokenizer: Artifact) -> None:
        self.work, self.tokenizer = work, tokenizer

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        from llmyard.tokens.shards import ShardWriter, token_dtype
        from llmyard.tokens.tokenizer import FILE, Tokenizer

        work, index = self.work, row["index"]
        if (receipt := work._receipt(f"encode/{index:06d}")) is not None:
            return receipt
        tokenizer = Tokenizer.load(self.tokenizer.local(FILE))
        table = work.kept(index)
        splits = self._splits(
            np.array([int.from_bytes(key[8:], "big") for key in table["digest"].to_pylist()], np.uint64)
        )
        ids = tokenizer.encode_batch(table["text"].to_pylist())
        names, sources = table["id"].to_pylist(), table["source"].to_pylist()
        files: list[FileEntry] = []
        tokens: dict[str, int] = {}
        for split in sorted(set(splits)):
            name = f"{split}-{index:06d}-f{work.fence}"
            with folder_for(work.storage, work.folder) as target:
                writer = ShardWriter(target.path, name, token_dtype(tokenizer.vocab_size), work.config.block_tokens)
                for at, chosen in enumerate(splits):
                    if chosen == split:
                        writer.add([*ids[at], tokenizer.end_id], document=names[at], source=sources[at])
                files += writer.close()
                tokens[split] = writer.tokens
        return work._give(f"encode/{index:06d}", {"files": [asdict(entry) for entry in files], "tokens": tokens})

    def _splits(self, keys: Any) -> list[str]:
        shares = self.work.config.splits
        place = keys.astype("float64") / 2.0**64
        return [
            "validation"
            if value < shares.validation
            else "test"
            if value < shares.validation + shares.test
            else "train"
            for value in place
        ]


class folder_for:
    """A local folder to write files into that end up in ``folder`` of the storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder
        self.path = Path()

    def __enter__(self) -> folder_for:
        self.path = self.storage.local(self.folder) if self.storage.is_local else Path(tempfile.mkdtemp(prefix="ly-"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.storage.is_local:
            return
        try:
            if kind is None:
                for file in self.path.iterdir():
                    self.storage.write(f"{self.folder}/{file.name}", file.read_bytes())
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


def _train_tokenizer(config: Prepare, making: Making, work: Work, units: int) -> Artifact:
    from llmyard.runtime.datasets import map_units
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    assert not isinstance(config.tokenizer, str)
    print_ = fingerprint(shards=making.draft.fingerprint, revision=REVISION)
    store = making.context.store
    finished = store.find("tokenizer", config.output, print_)
    if finished is not None:
        return finished
    making.progress.update(len(range(units)), 2 * units, "training the tokenizer")
    (result,) = map_units([{"units": units}], work.sample)
    with store.begin("tokenizer", config.output, print_) as draft:
        tokenizer = Tokenizer.from_json(result["json"])
        draft.storage.write(f"{draft.folder}/{FILE}", result["json"].encode())
        return draft.commit(
            config=config.tokenizer.model_dump(mode="json"),
            parents=[],
            metrics={"vocab_size": float(tokenizer.vocab_size)},
            details={"vocab_size": tokenizer.vocab_size, "corpus": _corpus(config)},
        )


def _refuse(totals: Counter[str], bad: list[dict[str, Any]], config: Prepare) -> None:
    if not totals["read"]:
        first = f"; the first bad record: {bad[0]['path']}: {bad[0]['reason']}" if bad else ""
        raise DataError(f"the corpus is empty: no document was read{first}", "check the sources' paths and fields")
    share = totals["bad"] / (totals["read"] + totals["bad"])
    if share > MAX_BAD_SHARE:
        places = "; ".join(f"{item['path']}: {item['reason']}" for item in bad[:3])
        raise DataError(
            f"{totals['bad']} of {totals['read'] + totals['bad']} records cannot be read ({places})",
            f"mend them, or the source's format; up to {MAX_BAD_SHARE:.0%} are passed over",
        )
    if not totals["clean"]:
        reasons = {key: value for key, value in totals.items() if key.startswith("dropped")}
        raise DataError(f"every document was filtered: {reasons}", "loosen the limits under `quality:`")


def _keep_listing(config: Prepare, making: Making) -> FileEntry:
    """Writes the list of source files into the artifact, for lineage."""
    import hashlib

    rows = [
        {"path": path, "size": size, "modified_ns": time}
        for source in config.sources
        for path, size, time in listing(source)
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    making.draft.storage.write(f"{making.draft.folder}/sources.jsonl", data)
    return FileEntry("sources.jsonl", len(data), hashlib.sha256(data).hexdigest())


def _corpus(config: Prepare) -> dict[str, Any]:
    """Returns what lineage shows of the sources."""
    files = [file for source in config.sources for file in listing(source)]
    named = [source.model_dump(mode="json") for source in config.sources]
    return {"files": len(files), "bytes": sum(int(file[1]) for file in files), "sources": named}
