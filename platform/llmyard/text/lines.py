"""A column's lines as one flat column, and the column again without some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Lines:
    """Attributes:
    content: All lines of all texts, one after the other; a text without a line break is one line.
    owner: The row of each line.
    rows: How many texts there are.
    """

    content: Any
    owner: npt.NDArray[np.int64]
    rows: int

    @classmethod
    def of(cls, texts: pa.Array) -> Lines:
        """The lines of a string column; null rows have none."""
        parts = pc.split_pattern(texts, "\n")
        owner = pc.list_parent_indices(parts).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(pc.list_flatten(parts), owner, len(texts))

    def without(self, texts: pa.Array, drop: npt.NDArray[np.bool_]) -> Any:
        """Returns the texts these lines are of without the marked ones; other rows are exactly what they were."""
        if not drop.any():
            return texts
        changed = np.zeros(self.rows, np.bool_)
        changed[self.owner[drop]] = True
        kept = changed[self.owner] & ~drop
        sizes = np.bincount(self.owner[kept], minlength=self.rows)[changed]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        parts = pa.ListArray.from_arrays(pa.array(offsets), self.content.filter(pa.array(kept)))
        joined = pc.binary_join(parts, pa.scalar("\n", texts.type))
        return pc.replace_with_mask(texts, pa.array(changed), joined)
