"""The rounds that find duplicates: equal keys give pairs, pairs give groups, a group keeps its first document.

A document's rank is ``portion << 32 | row``. Every task reads one partition and writes files; the driver sees counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmyard.stages.preparing.scratch import Arrays, Scratch
from llmyard.text import duplicates

PAIRS_OF_A_TASK = 4_000_000  # so many pairs are joined in one task (about 0.5 GB); more go round by round
RANKS = {"left": "<i8", "right": "<i8"}


class Match:
    """Finds the pairs of one partition of the keys.

    Args:
        scratch: Where the keys are.
        files: For each portion the names of its key files, by kind.
        partitions: Of the ranks, for the pairs.
    """

    def __init__(self, scratch: Scratch, files: list[dict[str, list[str]]], partitions: int) -> None:
        self._scratch, self._files, self._partitions = scratch, files, partitions

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the name of the pairs' file and their number."""
        name = f"match/{row['partition']:05d}"
        if (receipt := self._scratch.receipt(name)) is not None:
            return receipt
        found = [duplicates.stars(*self._keys(kind, row["partition"])) for kind in ("exact", "near")]
        left, right = duplicates.distinct(*(np.concatenate(sides) for sides in zip(*found, strict=True)))
        file = self._scratch.new(name, ".pairs")
        part_of = part_of_rank(left, len(self._files), self._partitions)
        self._scratch.write_parts(file, {"left": left, "right": right}, part_of, self._partitions)
        same = len(np.unique(found[0][0]))
        return self._scratch.give(name, {"file": file, "pairs": len(left), "exact": same})

    def _keys(self, kind: str, partition: int) -> tuple[Any, Any]:
        return _read_keys(self._scratch, self._files, kind, partition)


def _read_keys(scratch: Scratch, files: list[dict[str, list[str]]], kind: str, partition: int) -> tuple[Any, Any]:
    """Returns the keys of one partition from all portions, and the rank each belongs to."""
    keys, ranks = [], []
    for portion, named in enumerate(files):
        for file in named[kind]:
            part = scratch.read_part(file, partition)
            keys.append(part["keys"])
            ranks.append((np.int64(portion) << 32) + part["rows"])
    if not keys:
        return np.zeros(0, "S16" if kind == "exact" else "<u8"), np.zeros(0, np.int64)
    return np.concatenate(keys), np.concatenate(ranks)


class CommonLines:
    """Finds the lines of one partition that stand in many documents.

    Args:
        scratch: Where the keys are.
        files: For each portion the names of its key files, by kind.
        documents: In how many a line may stand.
    """

    def __init__(self, scratch: Scratch, files: list[dict[str, list[str]]], documents: int) -> None:
        self._scratch, self._files, self._documents = scratch, files, documents

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the name of the file of their keys, and their number."""
        name = f"lines/{row['partition']:05d}"
        if (receipt := self._scratch.receipt(name)) is not None:
            return receipt
        common = duplicates.common(*_read_keys(self._scratch, self._files, "lines", row["partition"]), self._documents)
        file = self._scratch.new(name, ".keys")
        self._scratch.write_parts(file, {"keys": common}, np.zeros(len(common), np.int64), 1)
        return self._scratch.give(name, {"file": file, "lines": len(common)})


def part_of_rank(ranks: Any, portions: int, partitions: int) -> Any:
    """Returns the partition of each rank; a portion's ranks are all in one."""
    return (ranks >> 32) * partitions // max(portions, 1)


class Join:
    """Joins all pairs to groups in one task.

    Args:
        scratch: Where the pairs are.
        files: Their files.
        portions: Of the corpus.
        partitions: Of the ranks.
    """

    def __init__(self, scratch: Scratch, files: list[str], portions: int, partitions: int) -> None:
        self._scratch, self._files, self._portions, self._partitions = scratch, files, portions, partitions

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the name of the groups' file: pairs of a document and the first of its group."""
        if (receipt := self._scratch.receipt("join")) is not None:
            return receipt
        parts = [self._scratch.gather(self._files, part, RANKS) for part in range(self._partitions)]
        both = (np.concatenate([part[side] for part in parts]) for side in ("left", "right"))
        nodes, roots = duplicates.components(*both)
        file = self._scratch.new("join", ".groups")
        part_of = part_of_rank(nodes, self._portions, self._partitions)
        self._scratch.write_parts(file, {"left": nodes, "right": roots}, part_of, self._partitions)
        return self._scratch.give("join", {"files": [file], **group_sizes(roots)})


class Star:
    """One task of a large-star or small-star round, for pairs that are too many for :class:`Join`.

    Args:
        scratch: Where the pairs are.
        files: Files of the round before.
        turn: Number of the round; even ones are large-star.
        portions: Of the corpus.
        partitions: Of the ranks.
    """

    def __init__(self, scratch: Scratch, files: list[str], turn: int, portions: int, partitions: int) -> None:
        self._scratch, self._files, self._turn = scratch, files, turn
        self._portions, self._partitions = portions, partitions

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the file's name, the number of pairs and a checksum of them that does not depend on their order."""
        name = f"star-{self._turn:03d}/{row['partition']:05d}"
        if (receipt := self._scratch.receipt(name)) is not None:
            return receipt
        given = self._scratch.gather(self._files, row["partition"], RANKS)
        step = duplicates.small_star if self._turn % 2 else duplicates.large_star
        left, right = step(given["left"], given["right"])
        with np.errstate(over="ignore"):
            mixed = left * np.int64(-7046029254386353131) ^ right * np.int64(-4417276706812531889)
            checksum = int((mixed ^ (mixed >> 29)).sum()) & (2**53 - 1)
        sizes = group_sizes(right)
        groups = self._write(name, {"left": left, "right": right})
        file = groups
        if self._turn % 2:  # a large-star needs each pair from both its ends
            both = {"left": np.concatenate([left, right]), "right": np.concatenate([right, left])}
            file = self._write(f"{name}-both", both)
        receipt = {"file": file, "groups": groups, "pairs": len(left), "checksum": checksum, **sizes}
        return self._scratch.give(name, receipt)

    def _write(self, name: str, pairs: Arrays) -> str:
        file = self._scratch.new(name, ".pairs")
        part_of = part_of_rank(pairs["left"], self._portions, self._partitions)
        self._scratch.write_parts(file, pairs, part_of, self._partitions)
        return file


def group_sizes(roots: Any) -> dict[str, Any]:
    """Returns the number of documents to drop, and the largest groups as [first document's rank, members]."""
    firsts, counts = np.unique(roots, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:20]
    sizes = [[int(firsts[at]), int(counts[at]) + 1] for at in largest]
    return {"dropped": len(roots), "largest": sizes}


def find_groups(scratch: Scratch, keys: list[dict[str, list[str]]], partitions: int) -> Iterator[dict[str, Any]]:
    """Runs the rounds; yields a receipt after each task, the last of them the result.

    The result holds ``files`` (pairs of a document to drop and the first of its group, by rank partition), ``dropped``,
    ``exact`` and ``largest``.
    """
    from llmyard.runtime.datasets import map_units

    tasks = [{"partition": each} for each in range(partitions)]
    matched = []
    for receipt in map_units(tasks, Match(scratch, keys, partitions)):
        matched.append(receipt)
        yield {}
    exact = sum(receipt["exact"] for receipt in matched)
    files = sorted(receipt["file"] for receipt in matched)
    if sum(receipt["pairs"] for receipt in matched) <= PAIRS_OF_A_TASK:
        (joined,) = map_units([{}], Join(scratch, files, len(keys), partitions))
        yield {**joined, "exact": exact}
        return
    yield {**_by_rounds(scratch, tasks, files, len(keys), partitions), "exact": exact}


def _by_rounds(
    scratch: Scratch, tasks: list[dict[str, Any]], files: list[str], portions: int, partitions: int
) -> dict[str, Any]:
    from llmyard.runtime.datasets import map_units

    before: tuple[int, int] | None = None
    turn = 1  # a small-star first: it takes the pairs as Match leaves them
    while True:
        star = Star(scratch, files, turn, portions, partitions)
        receipts = list(map_units(tasks, star))
        files = sorted(receipt["file"] for receipt in receipts)
        if turn % 2:
            after = (sum(r["pairs"] for r in receipts), sum(r["checksum"] for r in receipts))
            if after == before:
                sizes: Counter[int] = Counter()
                for receipt in receipts:  # a group lies in several partitions, its first document in each count
                    sizes.update({rank: members - 1 for rank, members in receipt["largest"]})
                largest = [[rank, copies + 1] for rank, copies in sizes.most_common(20)]
                return {"files": [receipt["groups"] for receipt in receipts], "dropped": after[0], "largest": largest}
            before = after
        turn += 1


class Excerpts:
    """Fetches the documents that stand for the largest groups.

    Args:
        scratch: Where cleaned texts are.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns id, language and first characters of the document of a rank."""
        from dataclasses import asdict

        from llmyard.text.clean import samples_of

        portion, at = divmod(row["rank"], 1 << 32)
        receipt = self._scratch.receipt(f"clean/{portion:06d}")
        assert receipt is not None, f"portion {portion} is not cleaned"
        for table in self._scratch.tables(receipt["file"]):
            if at < len(table):
                return asdict(samples_of(table.slice(at, 1))[0]) | {"members": row["members"]}
            at -= len(table)
        raise IndexError(f"portion {portion} has no row {at}")
