"""Data sets of the Hugging Face hub, or local folders in their layout, streamed as Arrow tables.

No code of a data set is ever run: only its data files are read, by the ``datasets`` library's own readers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.config import HubDataset, HubExamples, Limits
from llmyard.sources.filesystems import find
from llmyard.sources.records import Batch

ROWS = 1000

OnHub = HubDataset | HubExamples
# What the readers raise where the data are damaged.
DAMAGE = (pa.ArrowException, ValueError)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_of(source: OnHub) -> str | None:
    """Returns the local folder that a source names; None if it is a data set of the hub."""
    if not source.dataset.startswith(("/", "~", "$")):
        return None
    return os.path.expanduser(os.path.expandvars(source.dataset))


def commit_of(source: OnHub) -> str:
    """Returns the commit on the hub that a source's revision stands for; "" for a local folder.

    Raises:
        RequestError: The hub cannot be reached, or does not have it.
    """
    if folder_of(source) is not None:
        return ""
    if source.revision and _COMMIT.fullmatch(source.revision):
        return source.revision
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(source.dataset, revision=source.revision).sha
    except Exception as error:  # the library raises its own, httpx's and the operating system's
        raise RequestError(
            f"cannot find {source.dataset}@{source.revision or 'main'} on the hub: {str(error).splitlines()[0]}",
            "check the name, the network and HF_TOKEN; or give a 40-digit commit, or a local folder",
        ) from None
    return commit or ""


def listing_of(source: OnHub) -> list[list[str | int]]:
    """Returns path, size and time of a local folder's files; name, 0 and commit of a data set of the hub."""
    folder = folder_of(source)
    if folder is None:
        return [[source.dataset, 0, commit_of(source)]]
    return [[item.path, item.size, item.modified_ns] for item in find([folder])]


def shards_of(source: OnHub, split: str) -> tuple[str, int]:
    """Returns the name of the data set with its commit, and in how many parts a split can be read.

    Raises:
        RequestError: There is no such data set, configuration or split.
    """
    commit = commit_of(source)
    name = source.dataset if folder_of(source) is not None else f"{source.dataset}@{commit}"
    return name, int(_streamed(source, split, commit).num_shards)


def _streamed(source: OnHub, split: str, commit: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            folder_of(source) or source.dataset,
            source.config,
            split=split,
            revision=commit or None,
            streaming=True,
        )
    except Exception as error:  # the library raises its own, httpx's and the operating system's
        raise RequestError(
            f"cannot open the split {split} of {source.dataset}: {str(error).splitlines()[0]}",
            "check dataset, config, split and revision of the source",
        ) from error


def part_of(path: str, shard: int, source: OnHub, split: str) -> Any:
    """Returns one part of a split as the library streams it; ``path`` is what :func:`shards_of` gave.

    Raises:
        RequestError: There is no such data set, configuration or split.
    """
    stream = _streamed(source, split, "" if folder_of(source) is not None else path.rsplit("@", 1)[1])
    return stream.shard(stream.num_shards, shard)


def name_in(path: str, source: OnHub) -> str:
    """Returns a data set's name in ids."""
    from llmyard.sources.batches import name_of

    return name_of(path if folder_of(source) is not None else path.rsplit("@", 1)[0])


def damage_of(error: Exception, shard: int, row: int) -> str:
    """Returns the reason for what cannot be read from a row on."""
    return f"part {shard} cannot be read from row {row} or a little later on: {error}"


def unreachable(error: OSError, path: str, shard: int) -> DataError:
    """Returns the error for a part that cannot be fetched."""
    return DataError(f"cannot read part {shard} of {path}: {error}", "check the network, and run the job again")


def read_shard(path: str, shard: int, source: HubDataset, limits: Limits) -> Iterator[Batch]:
    """Yields the documents of one part; ids hold the data set's name, split, part and the row's number in it."""
    from llmyard.sources.batches import Origin, nothing_but
    from llmyard.sources.fields import Fields

    part = part_of(path, shard, source, source.split)
    origin = Origin(path, f"{name_in(path, source)}/{source.split}/{shard}", source, limits)
    fields = Fields.of(source)
    row = 0
    try:
        for table in part.with_format("arrow").iter(ROWS):
            _, problem = fields.columns_of(table.schema)
            if problem:
                yield nothing_but(origin.bad(row, problem))
                return
            yield from fields.batches(origin, row, table)
            row += len(table)
    except DAMAGE as error:
        yield nothing_but(origin.bad(row, damage_of(error, shard, row)))
    except OSError as error:
        raise unreachable(error, path, shard) from error
