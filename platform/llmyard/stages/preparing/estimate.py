"""What ``prepare`` will give and take, from a sample: the first documents of each source, cleaned here."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.stages.config import Prepare

SAMPLE_DOCUMENTS = 2000
# Measured on shipped corpora with vocabularies of 8,000 to 32,000 ids; what the report of a finished run says is exact.
CHARACTERS_A_TOKEN = {"en": 4.2, "zh": 1.4}
OTHER_CHARACTERS_A_TOKEN = 3.0
# Beside cleaning: keys, duplicates, encoding and shards, in CPU-seconds a megabyte of kept text.
OTHER_SECONDS_A_MEGABYTE = 0.05
WORKER_BYTES = 900_000_000  # libraries, tables and a portion under way; it does not grow with the corpus


@dataclass(frozen=True, slots=True)
class Estimate:
    """Attributes:
    documents: Read.
    kept_share: Of the documents, before duplicates are dropped.
    tokens: Of all splits.
    cpu_seconds: Of all workers.
    worker_bytes: Memory of one worker.
    """

    documents: int
    kept_share: float
    tokens: int
    cpu_seconds: float
    worker_bytes: int


def estimate(config: Prepare) -> Estimate:
    """Returns what a run would give and take; reads and cleans a sample of each source in this process.

    Raises:
        RequestError: A source's sample has no document, or too many records that cannot be read.
    """
    from llmyard.sources.corpus import listing, plan, read
    from llmyard.text.clean import clean

    documents = kept = tokens = seconds = 0.0
    last = next(reversed([step for step in ("read", *config.clean) if step != "deduplicate"]))
    units = plan(config.sources, config.documents_per_task)
    for index, source in enumerate(config.sources):
        own = [unit for unit in units if unit.source == index]
        whole = float(sum(int(size) for _, size, *_ in listing(source)))
        sampled: Counter[str] = Counter()
        spent = 0.0
        places: list[str] = []
        began = time.process_time()
        for batch in (batch for unit in islice(own, 8) for batch in read(unit, source, config.limits)):
            reading = (time.process_time() - began) / max(1, len(batch.table))
            clean(batch.table.slice(0, 20), config)  # compiled before it is timed
            table = batch.table.slice(0, SAMPLE_DOCUMENTS)
            began = time.process_time()
            cleaned = clean(table, config)
            spent += time.process_time() - began + reading * len(table)
            sampled["bad"] += len(batch.bad)
            places += [f"{item.path}, byte {item.offset}: {item.reason}" for item in batch.bad[: 3 - len(places)]]
            sampled.update(
                read=len(table), kept=len(cleaned.kept), bytes=_bytes(table), kept_bytes=_bytes(cleaned.kept)
            )
            for (step, figure, _, language), count in cleaned.funnel.items():
                if (step, figure) == (last, "characters"):
                    sampled[f"characters {language}"] += count
            if sampled["read"] >= SAMPLE_DOCUMENTS:
                break
            began = time.process_time()
        _refuse(config, index, sampled, places)
        scale = (own[-1].stop if not whole else whole / sampled["bytes"] * sampled["read"]) / sampled["read"]
        documents += sampled["read"] * scale
        kept += sampled["kept"] * scale
        seconds += (spent + OTHER_SECONDS_A_MEGABYTE * sampled["kept_bytes"] / 1e6) * scale
        for key, count in sampled.items():
            if key.startswith("characters "):
                tokens += scale * count / CHARACTERS_A_TOKEN.get(key[11:], OTHER_CHARACTERS_A_TOKEN)
    return Estimate(round(documents), kept / max(documents, 1), round(tokens), seconds, WORKER_BYTES)


def _refuse(config: Prepare, index: int, sampled: Counter[str], places: list[str]) -> None:
    source = config.sources[index]
    name = f"source {getattr(source, 'name', source.kind)!r} (sources[{index}])"
    first = f": {'; '.join(places)}" if places else ""
    if not sampled["read"]:
        raise RequestError(f"{name} has no document{first}", "check its paths, format and fields")
    share = sampled["bad"] / (sampled["read"] + sampled["bad"])
    if share > config.limits.max_bad_share:
        raise RequestError(
            f"{sampled['bad']} of the first {sampled['read'] + sampled['bad']} records of {name} cannot be read{first}",
            "mend them, or the source's format; "
            f"up to {config.limits.max_bad_share:.0%} are passed over (`limits.max_bad_share`)",
        )


def _bytes(table: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(table["text"])).as_py() or 0)
