"""The first round: read, clean, and leave the texts with the keys by which duplicates are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from llmyard.sources.corpus import Unit, read
from llmyard.stages.config import Prepare
from llmyard.stages.preparing.scratch import Scratch

SEGMENT = 250_000  # documents whose keys are written at once
SAMPLES = 3


class Clean:
    """Cleans a portion of the corpus (one or more units) in batches.

    Args:
        config: The stage's.
        scratch: Where to leave the results.
        partitions: Of the keys.
    """

    def __init__(self, config: Prepare, scratch: Scratch, partitions: int) -> None:
        self._config, self._scratch, self._partitions = config, scratch, partitions

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns counts, samples and the names of what was written."""
        from llmyard.text.clean import REMOVED, SCHEMA

        name = f"clean/{row['index']:06d}"
        if (receipt := self._scratch.receipt(name)) is not None:
            return receipt
        file = self._scratch.new(name, ".parquet")
        removed = self._scratch.new(f"{name}-removed", ".parquet")
        funnel: Counter[tuple[str, str, str, str]] = Counter()
        bins: Counter[tuple[str, str, int]] = Counter()
        samples: dict[str, list[Any]] = {}
        bad: list[dict[str, Any]] = []
        keys = Keys(self._config, self._scratch, f"keys/{row['index']:06d}", self._partitions)
        counts: Counter[str] = Counter()
        with (
            self._scratch.table_writer(file, SCHEMA) as writer,
            self._scratch.table_writer(removed, REMOVED) as removed_writer,
        ):
            for batch, failed in self._batches(row["units"]):
                counts["bad"] += len(failed)
                bad += [asdict(item) for item in failed[: 20 - len(bad)]]
                cleaned = self._clean(batch)
                funnel.update(cleaned.funnel)
                bins.update(cleaned.histograms)
                for reason, found in cleaned.samples.items():
                    samples[reason] = (samples.get(reason, []) + [asdict(each) for each in found])[:SAMPLES]
                counts.update(cleaned.counts)
                if len(cleaned.removed):
                    removed_writer.write_table(cleaned.removed)
                if len(cleaned.kept):
                    writer.write_table(cleaned.kept)
                    keys.add(cleaned)
        receipt = {
            "file": file,
            "removed": removed,
            "keys": keys.close(),
            "counts": dict(counts),
            "funnel": [[*key, count] for key, count in funnel.items()],
            "histograms": [[*key, count] for key, count in sorted(bins.items())],
            "samples": samples,
            "bad": bad,
        }
        return self._scratch.give(name, receipt)

    def _batches(self, units: list[dict[str, Any]]) -> Iterator[tuple[Any, list[Any]]]:
        for unit in units:
            at = Unit(**unit)
            for batch in read(at, self._config.sources[at.source], self._config.limits):
                yield batch.table, list(batch.bad)

    def _clean(self, table: Any) -> Any:
        from llmyard.text.clean import clean

        return clean(table, self._config)


class Keys:
    """Gathers the keys of a portion's documents and writes them by partition."""

    def __init__(self, config: Prepare, scratch: Scratch, name: str, partitions: int) -> None:
        self._config, self._scratch, self._name, self._partitions = config, scratch, name, partitions
        self._digests: list[Any] = []
        self._bands: list[Any] = []
        self._lines: list[tuple[Any, Any]] = []
        self._documents = self._written = 0
        self._files: dict[str, list[str]] = {"exact": [], "near": [], "lines": []}

    def add(self, cleaned: Any) -> None:
        """Adds a batch's documents."""
        import numpy as np

        if "deduplicate" not in self._config.clean:
            return
        digests = cleaned.kept["digest"].combine_chunks()
        self._digests.append(np.frombuffer(digests.buffers()[1], "S16")[digests.offset : digests.offset + len(digests)])
        if self._config.duplicates.near:
            from llmyard.text.minhash import band_keys, bands_for

            bands, rows = bands_for(self._config.duplicates.similarity, self._config.duplicates.hashes)
            self._bands.append(band_keys(cleaned.units, bands, rows, self._config.duplicates.shingle))
        if self._config.duplicates.line_documents is not None:
            from llmyard.text.common_lines import line_keys

            lines, owners = line_keys(cleaned.kept["text"], self._config.duplicates.line_bytes)
            self._lines.append((lines, owners + np.int32(self._documents)))
        self._documents += len(digests)
        if self._documents - self._written >= SEGMENT:
            self._write()

    def close(self) -> dict[str, list[str]]:
        """Writes what is left; returns the names of all files."""
        if self._documents > self._written:
            self._write()
        return self._files

    def _write(self) -> None:
        import numpy as np

        digests = np.concatenate(self._digests)
        rows = np.arange(self._written, self._documents, dtype=np.int32)
        firsts = np.frombuffer(digests.tobytes(), np.uint64)[::2]
        self._put("exact", digests, rows, firsts)
        if self._bands:
            bands = np.concatenate(self._bands)
            used = bands[:, 0] != 0
            flat = bands[used].reshape(-1)
            self._put("near", flat, np.repeat(rows[used], bands.shape[1]), flat)
        if self._lines:
            lines, owners = (np.concatenate(part) for part in zip(*self._lines, strict=True))
            self._put("lines", lines, owners, lines)
        self._digests, self._bands, self._lines, self._written = [], [], [], self._documents

    def _put(self, kind: str, keys: Any, rows: Any, mixed: Any) -> None:
        import numpy as np

        part_of = ((mixed >> np.uint64(32)) * np.uint64(self._partitions) >> np.uint64(32)).astype(np.int64)
        file = self._scratch.new(f"{self._name}-{kind}", ".keys")
        self._scratch.write_parts(file, {"keys": keys, "rows": rows}, part_of, self._partitions)
        self._files[kind].append(file)
