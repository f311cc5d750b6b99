"""Fields of parsed JSON that must be there."""

from __future__ import annotations

from typing import Any, TypeVar

from llmyard.sources.records import kind_of

Kind = TypeVar("Kind")
_KINDS = {str: "a text", list: "a list", dict: "an object", int: "a number"}


class Unfit(Exception):
    """What stands in a file is not what its format says; the message tells what."""


def need(holder: Any, field: str, kind: type[Kind], where: str = "") -> Kind:
    """Returns a field of an object.

    Args:
        holder: A parsed JSON value, which may be anything.
        field: Its name.
        kind: What it must hold.
        where: What the object is, for the error.

    Raises:
        Unfit: The value is no object, or the field is missing, of another type, or a text of white space only.
    """
    of = f" of {where}" if where else ""
    if not isinstance(holder, dict):
        raise Unfit(f"{where or 'the record'} is {kind_of(holder)}, not an object")
    value = holder.get(field)
    if value is None:
        raise Unfit(f"{where or 'the record'} has no {field!r}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unfit(f"{field!r}{of} is {kind_of(value)}, not {_KINDS[kind]}")
    if isinstance(value, str) and not value.strip():
        raise Unfit(f"{field!r}{of} is empty")
    return value
