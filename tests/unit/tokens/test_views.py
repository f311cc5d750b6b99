"""Views: shards as samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmyard.core.errors import DataError
from llmyard.tokens.shards import ShardSet, ShardWriter
from llmyard.tokens.tables import Tables
from llmyard.tokens.views import ExampleView, PackedView

U2 = np.dtype("<u2")


def shard(folder: Path, name: str, documents: list[list[int]], labels: bool = False) -> None:
    writer = ShardWriter(folder, name, U2, 16, with_labels=labels)
    for number, ids in enumerate(documents):
        writer.add(
            ids, document=str(number), source="s", labels=[each % 3 for each in ids] if labels else None,
            target_start=number, pairs=list(range(3 * number)),
        )  # fmt: skip
    writer.close()


@pytest.mark.parametrize("length", [1, 5, 7, 16, 33])
def test_packed_sequences_overlap_by_the_token_that_is_target_and_input(tmp_path: Path, length: int) -> None:
    shard(tmp_path, "train-0", [list(range(40)), list(range(40, 67))])
    shard(tmp_path, "train-1", [list(range(100, 150))])
    view = PackedView(ShardSet(tmp_path, "train"), length)
    assert view.rows == [66 // length, 49 // length]
    for number, first in ((0, 0), (1, 100)):
        for row in range(view.rows[number]):
            start = first + row * length
            assert view(number, row).tolist() == list(range(start, start + length + 1))
            assert view.length(number, row) == length


def test_a_shard_shorter_than_a_sequence_gives_no_rows(tmp_path: Path) -> None:
    shard(tmp_path, "train-0", [[1, 2, 3]])
    shard(tmp_path, "train-1", [list(range(9))])
    assert PackedView(ShardSet(tmp_path, "train"), 8).rows == [0, 1]
    with pytest.raises(DataError, match="12 tokens in 2 shards, fewer in each than one sequence of 9"):
        PackedView(ShardSet(tmp_path, "train"), 9)


@pytest.mark.parametrize("labels", [False, True])
def test_examples_are_the_documents_with_all_that_stands_beside_them(tmp_path: Path, labels: bool) -> None:
    documents = [[1, 2, 3], list(range(20, 60)), [5]]
    shard(tmp_path, "train-0", documents, labels)
    shard(tmp_path, "train-1", documents[::-1], labels)
    view = ExampleView(ShardSet(tmp_path, "train"))
    assert view.rows == [3, 3]
    for number, order in ((0, documents), (1, documents[::-1])):
        for row, ids in enumerate(order):
            example = view(number, row)
            assert example.tokens.tolist() == ids
            assert view.length(number, row) == len(ids)
            assert example.target_start == row
            assert example.pairs.tolist() == list(range(3 * row))
            if labels:
                assert example.labels is not None
                assert example.labels.tolist() == [each % 3 for each in ids]
            else:
                assert example.labels is None


def test_a_split_without_examples_is_a_data_error(tmp_path: Path) -> None:
    shard(tmp_path, "train-0", [])
    with pytest.raises(DataError, match="holds no examples"):
        ExampleView(ShardSet(tmp_path, "train"))
    with pytest.raises(DataError, match="no shards of split 'validation'"):
        ShardSet(tmp_path, "validation")


def test_tables_are_kept_while_their_documents_have_room(tmp_path: Path) -> None:
    for number in range(4):
        shard(tmp_path, f"train-{number}", [[1, 2, 3]] * 10)
    read: list[int] = []
    tables = Tables(ShardSet(tmp_path, "train"), lambda number: read.append(number) or number, most_documents=25)
    assert [tables[number] for number in (0, 1, 0, 2, 0, 1)] == [0, 1, 0, 2, 0, 1]
    assert read == [0, 1, 2, 1]  # of three tables two have room; 1 was the one unused longest when 2 came
