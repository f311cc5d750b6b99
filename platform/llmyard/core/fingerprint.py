"""The fingerprint of a stage: equal fingerprints mean the same result, so the stage need not run again."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Returns JSON with one spelling a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(**parts: Any) -> str:
    """Returns the SHA-256 (hex) over named JSON parts, for example config, revision, sources, parents."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
