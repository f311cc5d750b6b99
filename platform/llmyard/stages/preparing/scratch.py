"""What the rounds of ``prepare`` leave for each other: tables, partitioned arrays, a receipt for each piece of work.

A receipt is written last and names the files of its work; a file that no receipt names is not read. So work that was
killed is done again, and work that was done twice counts once.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import CorruptArtifact
from llmyard.core.storage import Storage, write_failed

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Scratch:
    """The folder of an unfinished version; small and plain, so that it goes to tasks.

    Attributes:
        storage: Where it lies.
        folder: Its path there.
    """

    storage: Storage
    folder: str

    def receipt(self, name: str) -> dict[str, Any] | None:
        """Returns what finished work left, None where it is not finished."""
        data = self.storage.read(f"{self.folder}/{name}.json")
        return json.loads(data) if data else None

    def give(self, name: str, receipt: dict[str, Any]) -> dict[str, Any]:
        """Marks work as finished, and returns its receipt."""
        self.storage.write(f"{self.folder}/{name}.json", json.dumps(receipt, ensure_ascii=False).encode())
        return receipt

    def new(self, name: str, suffix: str) -> str:
        """Returns a file name that no other attempt at the same work uses."""
        return f"{name}-{uuid.uuid4().hex[:8]}{suffix}"

    def table_writer(self, name: str, schema: Any) -> TableWriter:
        """Opens a Parquet file to be written row group by row group; close it before giving the receipt."""
        self.storage.makedirs(f"{self.folder}/{name}".rpartition("/")[0])
        return TableWriter(self.storage, self.storage.path(self.folder, name), schema)

    def tables(self, name: str, columns: list[str] | None = None) -> Iterator[Any]:
        """Yields a Parquet file's row groups as tables, of all or some columns."""
        import pyarrow.parquet as pq

        with self.storage.open_input(f"{self.folder}/{name}") as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns)

    def write_parts(self, name: str, columns: Arrays, part_of: npt.NDArray[np.int64], parts: int) -> None:
        """Writes arrays of equal length, divided into parts of which each can be read alone."""
        order = np.argsort(part_of, kind="stable")
        ends = np.searchsorted(part_of[order], np.arange(parts + 1))
        head = {"parts": parts, "columns": {key: values.dtype.str for key, values in columns.items()}}
        line = json.dumps(head).encode() + b"\n"
        pieces = [line, ends.astype("<i8").tobytes(), *(values[order].tobytes() for values in columns.values())]
        self.storage.write(f"{self.folder}/{name}", b"".join(pieces))

    def read_part(self, name: str, part: int) -> Arrays:
        """Returns one part of the arrays that :meth:`write_parts` wrote."""
        with self.storage.open_input(f"{self.folder}/{name}") as stream:
            line = stream.read(512).partition(b"\n")[0]
            head = json.loads(line)
            stream.seek(len(line) + 1)
            ends = np.frombuffer(stream.read(8 * (head["parts"] + 1)), "<i8")
            at, rows = len(line) + 1 + 8 * (head["parts"] + 1), int(ends[-1])
            columns: Arrays = {}
            for key, kind in head["columns"].items():
                dtype = np.dtype(kind)
                stream.seek(at + int(ends[part]) * dtype.itemsize)
                wanted = int(ends[part + 1] - ends[part]) * dtype.itemsize
                data = stream.read(wanted)
                if len(data) != wanted:
                    raise CorruptArtifact(f"{self.folder}/{name} is cut short", "run the job with --force")
                columns[key] = np.frombuffer(data, dtype)
                at += rows * dtype.itemsize
            return columns

    def gather(self, names: list[str], part: int, empty: Mapping[str, str]) -> Arrays:
        """Returns one part of many files, one after the other; ``empty`` gives the columns where there is none."""
        found = [self.read_part(name, part) for name in names]
        return {
            key: np.concatenate([columns[key] for columns in found]) if found else np.zeros(0, kind)
            for key, kind in empty.items()
        }


class TableWriter:
    """A Parquet file in the making; it is on the disk when the block ends.

    Args:
        storage: Where it lies.
        path: In the terms of the storage's filesystem.
        schema: Of its tables.

    Raises:
        LlmyardError: It cannot be written, the disk is full.
    """

    def __init__(self, storage: Storage, path: str, schema: Any) -> None:
        import pyarrow.parquet as pq

        self._path, self._is_local = path, storage.is_local
        try:
            self._writer = pq.ParquetWriter(path, schema, filesystem=storage.filesystem, compression="lz4")
        except OSError as error:
            raise write_failed(path, error) from error

    def write_table(self, table: Any) -> None:
        """Appends a table."""
        try:
            self._writer.write_table(table)
        except OSError as error:
            raise write_failed(self._path, error) from error

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._writer.close()
            if self._is_local and error is None:  # a receipt on the disk shall not name a file that is not
                with open(self._path, "rb") as file:
                    os.fsync(file.fileno())
        except OSError as failed:
            if error is None:
                raise write_failed(self._path, failed) from failed
