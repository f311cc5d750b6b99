"""What is known of an artifact's shards without opening them: ``shards.parquet``, one row a shard."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmyard.core.errors import CorruptArtifact, LlmyardError

FILE = "shards.parquet"
FORMAT_VERSION = 1
_VERSION = b"llmyard.shard_index"
_TYPES = {"str": pa.string(), "int": pa.int64(), "bool": pa.bool_()}


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a shard holds.

    Attributes:
        name: Its files are ``{name}.tokens.parquet`` and ``{name}.documents.parquet``.
        split: ``train``, ``validation`` or ``test``.
        source: The source of all its documents; "" where there are several.
        tokens: Its tokens.
        documents: Its documents.
        block_tokens: Tokens in a block.
        dtype: Type of the ids.
        labels: Whether a label stands beside every token.
    """

    name: str
    split: str
    source: str
    tokens: int
    documents: int
    block_tokens: int
    dtype: str
    labels: bool

    @property
    def files(self) -> tuple[str, str]:
        """Names of its tokens' and of its documents' file."""
        return f"{self.name}.tokens.parquet", f"{self.name}.documents.parquet"


def to_parquet(shards: Iterable[ShardFacts]) -> bytes:
    """Returns the content of the index, shards in the order of their names."""
    rows = [asdict(each) for each in sorted(shards, key=lambda each: each.name)]
    columns = [pa.field(each.name, _TYPES[str(each.type)]) for each in fields(ShardFacts)]
    schema = pa.schema(columns, metadata={_VERSION: str(FORMAT_VERSION).encode()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes, path: str) -> list[ShardFacts]:
    """Returns what :func:`to_parquet` wrote.

    Args:
        data: Content of the index.
        path: Where it lies, for errors.

    Raises:
        CorruptArtifact: It cannot be read.
        LlmyardError: A newer llmyard wrote it.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        written = (table.schema.metadata or {})[_VERSION].decode()
        rows: list[dict[str, Any]] = table.to_pylist()
        if written == str(FORMAT_VERSION):
            return [ShardFacts(**row) for row in rows]
    except (pa.ArrowException, OSError, TypeError, KeyError, ValueError) as error:
        raise CorruptArtifact(f"{path} is no index of shards: {error}", "make the shards again") from None
    raise LlmyardError(
        f"{path} has format {written}, this llmyard reads {FORMAT_VERSION}", "use the llmyard that wrote it"
    )
