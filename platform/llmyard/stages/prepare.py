"""``prepare``: read, clean, drop duplicates, learn a tokenizer, encode, write shards.

Rounds over portions of the corpus, each a Ray Data job (``preparing/``); a portion that a killed run finished is not
done again, because its receipt says so. Documents never pass through the driver.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore, FileEntry
from llmyard.core.errors import DataError, RequestError
from llmyard.core.files import read_file
from llmyard.core.fingerprint import fingerprint
from llmyard.sources.corpus import Unit, listing, plan, revision
from llmyard.stages.config import Prepare
from llmyard.stages.preparing.cleaning import Clean
from llmyard.stages.preparing.duplicates import CommonLines, Excerpts, find_groups
from llmyard.stages.preparing.encoding import Encode, Kept
from llmyard.stages.preparing.report import PAGES, pages
from llmyard.stages.preparing.scratch import Scratch
from llmyard.stages.preparing.vocabulary import SAMPLE_BYTES, Count, Learn, sampled, splits_han
from llmyard.stages.stage import Made, Making
from llmyard.tokens.config import ExtendedTokenizer

REVISION = 5
PORTION_BYTES = 64 << 20  # small files are worked on together up to this size
PARTITION_BYTES = 1 << 30  # of corpus for each partition of the keys, which take about an eighth of it
MIN_PARTITIONS = 4
SAMPLES = 5
SHOWN_GROUPS = 10


def parents(config: Prepare, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the tokenizer that the job names, to be used or to be extended."""
    if isinstance(config.tokenizer, ExtendedTokenizer):
        return {"extended": store.get(config.tokenizer.extend, "tokenizer")}
    return {"tokenizer": store.get(config.tokenizer, "tokenizer")} if isinstance(config.tokenizer, str) else {}


def sources(config: Prepare, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns what else than the config decides the result: source files, word lists, generators, own functions."""
    from llmyard.text.functions import source_of

    read = [[listing(source), revision(source)] for source in config.sources]
    return [*read, [[path, _digest(path)] for path in config.files()], [source_of(path) for path in config.functions]]


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except OSError as error:
        raise RequestError(
            f"cannot read {path}: {error.strerror or error}", "check the paths of lists and texts"
        ) from error


def make(config: Prepare, making: Making) -> Made:
    """Makes the shards (and the tokenizer, an artifact of its own)."""
    from llmyard.runtime.datasets import map_units, map_with
    from llmyard.tokens import shard_index
    from llmyard.tokens.shard_index import ShardFacts

    files = {str(path): int(size) for source in config.sources for path, size, *_ in listing(source)}
    portions = portions_of(plan(config.sources, config.documents_per_task), files)
    partitions = max(MIN_PARTITIONS, sum(files.values()) // PARTITION_BYTES)
    draft = making.draft
    scratch = Scratch(draft.storage, f"{draft.folder}/_making")
    report = Report()
    rows = [{"index": index, "units": [asdict(unit) for unit in units]} for index, units in enumerate(portions)]
    total, done = 2 * len(rows) + partitions, 0

    for receipt in map_units(rows, Clean(config, scratch, partitions)):
        done += 1
        report.cleaned(receipt)
        making.progress.update(done, total, f"{report.counts['read']:,} documents read")
    report.refuse(config)

    groups: list[str] = []
    lines: list[str] = []
    if "deduplicate" in config.clean:
        keys = [_receipt(scratch, f"clean/{index:06d}")["keys"] for index in range(len(rows))]
        for receipt in find_groups(scratch, keys, partitions):
            done += not receipt
            making.progress.update(done, total, "finding duplicates")
        groups = receipt["files"]
        shown = [{"rank": rank, "members": members} for rank, members in receipt["largest"][:SHOWN_GROUPS]]
        report.deduplicated(receipt, map_units(shown, Excerpts(scratch)) if shown else ())
        if config.duplicates.line_documents is not None:
            find = CommonLines(scratch, keys, config.duplicates.line_documents)
            lines = sorted(each["file"] for each in map_units([{"partition": at} for at in range(partitions)], find))
    kept = Kept(scratch, len(rows), partitions, groups, lines, config.duplicates.line_bytes)
    tokenizer = making.parents.get("tokenizer") or _train_tokenizer(config, making, kept)

    entries: list[FileEntry] = []
    shards: list[ShardFacts] = []
    for receipt in map_with(rows, Encode, (kept, tokenizer, config, draft.folder, draft.lease.fence)):
        done += 1
        entries += [FileEntry(**entry) for entry in receipt["files"]]
        shards += [ShardFacts(**each) for each in receipt["shards"]]
        report.encoded(receipt)
        making.progress.update(min(done, total), total, f"{sum(report.tokens.values()):,} tokens")
    if not report.tokens["train"]:
        raise DataError(
            "no document is left for training",
            "loosen the quality rules or the splits; counts: " + str(dict(report.counts)),
        )
    entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(shards)))
    entries.append(draft.keep("sources.jsonl", _listing(config).encode()))
    details = {"vocab_size": tokenizer.details["vocab_size"], "corpus": _corpus(config), **report.details()}
    for page, html in pages(config.output, details, report.counts).items():
        entries.append(draft.keep(page, html.encode()))
    making.run.attach([*PAGES.values()])
    made_here = (tokenizer,) if "tokenizer" not in making.parents else ()
    order = sorted(entries, key=lambda entry: entry.path)
    return Made(report.metrics(), details, order, also=made_here, extra_parents=(tokenizer.reference,))


def portions_of(units: Sequence[Unit], sizes: Mapping[str, int]) -> list[list[Unit]]:
    """Returns the units in portions of one task each: small whole files of one source go together."""
    portions: list[list[Unit]] = []
    room = 0
    for unit in units:
        whole_file = bool(unit.path) and unit.stop == 0
        size = sizes.get(unit.path, PORTION_BYTES) if whole_file else PORTION_BYTES
        if portions and size <= room and portions[-1][0].source == unit.source:
            portions[-1].append(unit)
            room -= size
        else:
            portions.append([unit])
            room = PORTION_BYTES - size
    return portions


class Report:
    """Counts of all rounds, gathered from receipts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._funnel: Counter[tuple[str, ...]] = Counter()
        self._bins: Counter[tuple[Any, ...]] = Counter()
        self._samples: dict[str, list[Any]] = {}
        self._bad: list[dict[str, Any]] = []
        self._groups: list[Any] = []

    def cleaned(self, receipt: Mapping[str, Any]) -> None:
        """Adds what cleaning one portion gave."""
        self.counts.update(receipt["counts"])
        self._add_funnel(receipt)
        for *place, count in receipt["histograms"]:
            self._bins[tuple(place)] += count
        for reason, found in receipt["samples"].items():
            self._samples[reason] = sorted([*self._samples.get(reason, []), *found], key=str)[:SAMPLES]
        self._bad = sorted([*self._bad, *receipt["bad"]], key=lambda bad: (bad["path"], bad["offset"]))[:20]

    def deduplicated(self, receipt: Mapping[str, Any], groups: Iterable[Any]) -> None:
        """Adds what the search for duplicates gave, and the documents that stand for the largest groups."""
        self.counts["dropped_duplicate"] += receipt["dropped"]
        self.counts["duplicate_exact"] = receipt["exact"]
        self._groups = sorted(groups, key=lambda group: (-group["members"], group["id"]))

    def encoded(self, receipt: Mapping[str, Any]) -> None:
        """Adds what encoding one portion gave."""
        self.tokens.update(receipt["tokens"])
        self.counts.update(receipt["counts"])
        self._add_funnel(receipt)

    def _add_funnel(self, receipt: Mapping[str, Any]) -> None:
        for *place, count in receipt["funnel"]:
            self._funnel[tuple(place)] += count

    def refuse(self, config: Prepare) -> None:
        """Stops a job whose corpus is empty, unreadable or wholly filtered.

        Raises:
            DataError: It is.
        """
        counts, bad = self.counts, self._bad
        places = "; ".join(f"{item['path']}, byte {item['offset']}: {item['reason']}" for item in bad[:3])
        if not counts["read"]:
            first = f"; bad records: {places}" if bad else ""
            raise DataError(f"the corpus is empty: no document was read{first}", "check the sources' paths and fields")
        share = counts["bad"] / (counts["read"] + counts["bad"])
        if share > config.limits.max_bad_share:
            raise DataError(
                f"{counts['bad']} of {counts['read'] + counts['bad']} records cannot be read ({places})",
                "mend them, or the source's format; "
                f"up to {config.limits.max_bad_share:.0%} are passed over (`limits.max_bad_share`)",
            )
        if not counts["clean"]:
            reasons = ", ".join(
                f"{key.removeprefix('dropped_')}: {value}"
                for key, value in counts.items()
                if key.startswith("dropped_")
            )
            names = ", ".join(dict.fromkeys(source.name for source in config.sources))
            raise DataError(
                f"none of the {counts['read']} documents of {names} is left ({reasons})",
                "look at the files, or loosen the limits under `quality:`",
            )

    def metrics(self) -> dict[str, float]:
        """Returns the stage's key figures."""
        named = {key if "_" in key else f"documents_{key}": float(value) for key, value in self.counts.items()}
        characters = sum(
            count for (step, figure, *_), count in self._funnel.items() if (step, figure) == ("kept", "characters")
        )
        named.pop("documents_characters", None)
        return {
            **named,
            **{f"tokens_{split}": float(count) for split, count in self.tokens.items()},
            "characters_per_token": characters / sum(self.tokens.values()),
        }

    def details(self) -> dict[str, Any]:
        """Returns what the report shows."""
        return {
            "funnel": [[*place, count] for place, count in self._funnel.items()],
            "samples": self._samples,
            "bad_records": self._bad,
            "groups": self._groups,
            "histograms": [[*place, count] for place, count in sorted(self._bins.items())],
        }


def _receipt(scratch: Scratch, name: str) -> dict[str, Any]:
    receipt = scratch.receipt(name)
    assert receipt is not None, f"{name} is not finished"
    return receipt


def _train_tokenizer(config: Prepare, making: Making, kept: Kept) -> Artifact:
    from llmyard.runtime.datasets import map_units
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    assert not isinstance(config.tokenizer, str)
    print_ = fingerprint(shards=making.draft.fingerprint, revision=REVISION)
    store = making.context.store
    finished = store.find("tokenizer", config.output, print_)
    if finished is not None:
        store.settle(finished)
        return finished
    making.progress.update(kept.portions, 2 * kept.portions, "training the tokenizer")
    base = making.parents.get("extended")
    portions = sampled(kept.portions, config.tokenizer.sample_documents)
    share = -(-config.tokenizer.sample_documents // len(portions))
    count = Count(kept, share, SAMPLE_BYTES // len(portions), splits_han(config.tokenizer, base))
    counted = list(map_units([{"index": index} for index in portions], count))
    files = sorted(receipt["file"] for receipt in counted)
    (result,) = map_units([{}], Learn(kept.scratch, files, config.tokenizer, base))
    with store.begin("tokenizer", config.output, print_) as draft:
        tokenizer = Tokenizer.from_json(result["json"])
        draft.storage.write(f"{draft.folder}/{FILE}", result["json"].encode())
        return draft.commit(
            config=config.tokenizer.model_dump(mode="json"),
            parents=[base.reference] if base is not None else [],
            metrics={"vocab_size": float(tokenizer.vocab_size)},
            details={"vocab_size": tokenizer.vocab_size, "corpus": _corpus(config)},
        )


def _listing(config: Prepare) -> str:
    """Returns the list of source files as JSON lines, for lineage."""
    rows = [
        {"path": path, "size": size, "version": version}
        for source in config.sources
        for path, size, version in listing(source)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _corpus(config: Prepare) -> dict[str, Any]:
    """Returns what lineage shows of the sources."""
    files = [file for source in config.sources for file in listing(source)]
    named = [source.model_dump(mode="json") for source in config.sources]
    return {"files": len(files), "bytes": sum(int(file[1]) for file in files), "sources": named}
