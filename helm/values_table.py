"""Writes the tables of values into the chart's READMEs: python helm/values_table.py.

English comes from the comments in values.yaml, Chinese from values.zh.yaml, which has a text for each of these values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART = HERE / "llmyard"
BEGIN, END = "<!-- values: made by helm/values_table.py -->", "<!-- /values -->"
HEADS = {"README.md": "| value | default | what it is |", "README.zh.md": "| 取值 | 默认 | 说明 |"}
LONGEST = 60  # of a default that is written out


@dataclass(frozen=True)
class Value:
    """One value, or a group of values with what is said of all of them.

    Attributes:
        path: Keys with dots between them.
        default: As values.yaml has it; None of a group.
        comment: What stands above it.
    """

    path: str
    default: Any
    comment: str
    is_group: bool = False


class Uncommented(Exception):
    """A value has no comment."""


def values_of(text: str) -> list[Value]:
    """Returns all values of a values.yaml in its order.

    Raises:
        Uncommented: One has no comment above it, and is in no map that has one.
    """
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, (), text.splitlines()))


def _walk(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        path = (*above, key.value)
        comment = _comment(lines, key.start_mark.line)
        inner = isinstance(value, yaml.MappingNode) and value.value
        if inner and not value.flow_style and _comment(lines, value.value[0][0].start_mark.line):
            yield Value(".".join(path), None, comment, is_group=True)
            yield from _walk(value, path, lines)
        elif comment:
            yield Value(".".join(path), yaml.safe_load(yaml.serialize(value)), comment)
        else:
            raise Uncommented(f"values.yaml:{key.start_mark.line + 1}: {'.'.join(path)} has no comment")


def _comment(lines: list[str], line: int) -> str:
    """Returns the comment right above a line."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].strip().removeprefix("#").strip())
    return " ".join(found)


def chinese() -> dict[str, str]:
    """Returns the Chinese text of each value by its path."""
    texts: dict[str, str] = yaml.safe_load((HERE / "values.zh.yaml").read_text(encoding="utf-8"))
    return texts


def table(values: list[Value], head: str, texts: dict[str, str]) -> str:
    """Returns the table in Markdown; what has no text of its own is in the group above."""
    rows = [head, "|---|---|---|"]
    for value in values:
        text = texts[value.path].replace("|", "\\|")
        if not value.is_group:
            rows.append(f"| `{value.path}` | `{_shown(value.default)}` | {text} |")
        elif text:
            rows.append(f"| **`{value.path}`** | | {text} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    shown = json.dumps(default, ensure_ascii=False)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def written(readme: Path) -> str:
    """Returns a README's text with its table made anew."""
    values = values_of((CHART / "values.yaml").read_text(encoding="utf-8"))
    texts = chinese() if readme.name == "README.zh.md" else {value.path: value.comment for value in values}
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(values, HEADS[readme.name], texts)}\n{END}{after}"


def main() -> int:
    """Writes both READMEs."""
    for name in HEADS:
        (CHART / name).write_text(written(CHART / name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
