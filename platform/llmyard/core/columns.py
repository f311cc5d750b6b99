"""Arrow string columns as plain numpy buffers, without a copy where there is one chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def buffers_of(texts: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns the UTF-8 bytes of a string column, and for each text where it begins (one more offset than texts).

    Args:
        texts: An Arrow array or chunked array of strings without nulls.

    Raises:
        ValueError: There are nulls.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = (
            texts.chunk(0) if texts.num_chunks == 1 else pa.concat_arrays(texts.chunks or [pa.array([], pa.string())])
        )
    if texts.null_count:
        raise ValueError(f"{texts.null_count} texts are null")
    wide = pa.types.is_large_string(texts.type)
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    raw = np.frombuffer(offsets, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return content, raw.astype(np.int64)


def strings_of(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Any:
    """Returns the Arrow large-string array over UTF-8 bytes and offsets, without a copy."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
