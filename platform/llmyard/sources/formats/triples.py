"""Tables of a knowledge graph as tab-separated lines: a first line that names the version, then escaped cells.

``\\\\`` stands for a backslash, ``\\t`` for a tab, ``\\n`` and ``\\r`` for line feed and carriage return, ``\\0`` for
NUL, and ``\\p`` for the ``|`` that separates the items of a list. Files without the first line are not escaped.
"""

from __future__ import annotations

import re
from typing import Any

TRIPLES = "# llmyard triples 1: subject, relation, object, count, documents"
ENTITIES = "# llmyard entities 1: name, type, mentions, documents, aliases"
SEPARATOR = "|"
_ANY_VERSION = re.compile(r"# llmyard (triples|entities) (\d+)")
_SIGNS = {"\\": "\\", "\t": "t", "\n": "n", "\r": "r", "\0": "0", SEPARATOR: "p"}
_BACK = {sign: character for character, sign in _SIGNS.items()}
_SPECIAL = re.compile("[" + re.escape("".join(_SIGNS)) + "]")


def escaped(text: str) -> str:
    """Returns a text as it stands in a cell."""
    return _SPECIAL.sub(lambda found: "\\" + _SIGNS[found[0]], text)


def unescaped(cell: str) -> str:
    """Returns the text of a cell; an unknown escape stays as it is."""
    return re.sub(r"\\(.)", lambda found: _BACK.get(found[1], found[0]), cell) if "\\" in cell else cell


def unescaped_column(cells: Any) -> Any:
    """Returns the texts of a string array of cells, without nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.any(pc.match_substring(cells, "\\")).as_py():
        return cells
    # Between two escaped backslashes every other one begins an escape.
    parts = pc.split_pattern(cells, "\\\\")
    texts = pc.list_flatten(parts)
    for character, sign in _SIGNS.items():
        if character != "\\":
            texts = pc.replace_substring(texts, f"\\{sign}", character)
    return pc.binary_join(pa.ListArray.from_arrays(parts.offsets, texts), "\\")


def version_of(line: str) -> str | None:
    """Returns what is wrong with the first line of a table; "" for one that is known, None where it is no such line."""
    if line in (TRIPLES, ENTITIES):
        return ""
    found = _ANY_VERSION.match(line)
    return None if found is None else f"{found[1]} of format {found[2]}, which this version does not know: it reads 1"
