"""Texts that users name by path as examples of what a corpus should, or should not, be like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from llmyard.core.errors import RequestError
from llmyard.core.files import plain_name, read_file


def texts_of(paths: Sequence[str]) -> Any:
    """Returns the texts of files as an Arrow string column.

    In a ``.jsonl`` file (or ``.jsonl.gz``, ``.jsonl.zst``) a text is the field ``text`` of a line, or the line where
    that is a string; in any other file a text is a line. Empty ones are left out.

    Raises:
        RequestError: A file cannot be read, or holds no text.
    """
    texts: list[str] = []
    for path in paths:
        before = len(texts)
        try:
            lines = read_file(path).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"cannot read the texts at {path}: {error}", "name a UTF-8 file") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                texts.append(_text(line, f"{path}:{number}") if plain_name(path).endswith(".jsonl") else line)
        if len(texts) == before:
            raise RequestError(f"{path} holds no text", "give JSON lines with `text`, or one text a line")
    return pa.array(texts, pa.large_string())


def _text(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{place} is not JSON: {error}", "give one JSON value a line") from None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise RequestError(f"{place} has no text: {line[:60]}", "give objects with a field `text`, or strings")
    return text
