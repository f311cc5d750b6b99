"""YAML read with the position of every key and value, so that an error can name file:line:column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value or key stands; 1-based, as editors count."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Positioned:
    """Plain data, and where each part of it came from.

    Attributes:
        data: Mappings, lists and scalars.
        values: Path to the position of the value there.
        keys: Path to the position of the key that leads there.
        duplicates: Keys that stand twice in one mapping, with both positions.
    """

    data: Any
    values: dict[Path, Position]
    keys: dict[Path, Position]
    duplicates: list[tuple[Path, Position, Position]]


# What PyYAML's constructors let out: a 13th month, an integer of 5,000 digits, `!!int` with nothing behind it.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the two surprises removed that bite in job files: ``no`` is text, ``3e-4`` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"
    ),
    list("-+0123456789."),
)


def read_yaml(text: str) -> Positioned:
    """Returns the data of one YAML document with its positions.

    Raises:
        yaml.MarkedYAMLError: The text is not YAML; the error carries the mark.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        found = Positioned(None, {}, {}, [])
        data = _build(root, (), loader, found) if root is not None else None
        return Positioned(data, found.values, found.keys, found.duplicates)
    finally:
        loader.dispose()


def read_scalar(text: str) -> Any:
    """Returns the value that ``text`` has in a job file: a number, a truth value, a list, or the text itself."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, *_UNREADABLE):
        return text


def _build(node: yaml.Node, path: Path, loader: _Loader, found: Positioned) -> Any:
    found.values[path] = _position(node)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            below = (*path, key)
            if key in mapping:
                found.duplicates.append((below, _position(key_node), found.keys[below]))
            found.keys[below] = _position(key_node)
            mapping[key] = _build(value_node, below, loader, found)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), loader, found) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node, deep=True)
    except _UNREADABLE as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def _position(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)
