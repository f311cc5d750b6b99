"""The catalogue as tables: rows for a terminal, Markdown for a README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from llmyard.advice.catalogue import catalogue
from llmyard.advice.recommend import short
from llmyard.advice.texts import say
from llmyard.core.language import UserLanguage

Row = dict[str, str]


def model_rows(language: UserLanguage) -> list[Row]:
    """Returns the models, with keys such as ``name`` and ``licence``."""
    speak = say.in_language(language)
    return [
        {
            "name": each.name,
            "languages": _joined(each.languages),
            "family": each.family,
            "parameters": short(each.parameters),
            "context": f"{each.context:,}",
            "licence": each.licence,
            "use": speak(f"use {each.use}", family=each.family),
            "note": "" if each.note is None else getattr(each.note, language),
        }
        for each in catalogue().models
    ]


def dataset_rows(language: UserLanguage) -> list[Row]:
    """Returns the data sets."""
    speak = say.in_language(language)
    return [
        {
            "name": each.name,
            "tasks": ", ".join(speak(f"task {task}") for task in each.tasks),
            "languages": _joined(each.languages),
            "examples": f"{each.examples:,}",
            "licence": each.licence,
            "data": _flow(each.data),
            "note": "" if each.note is None else getattr(each.note, language),
        }
        for each in catalogue().datasets
    ]


def markdown(language: UserLanguage) -> str:
    """Returns both tables for a README."""
    speak = say.in_language(language)
    parts = []
    for title, rows in (("list models", model_rows(language)), ("list datasets", dataset_rows(language))):
        keys = list(rows[0])
        lines = [
            f"**{speak(title)}**", "",
            "| " + " | ".join(speak(f"column {key}") for key in keys) + " |",
            "|" + "---|" * len(keys),
            *("| " + " | ".join(f"`{row[key]}`" if key == "data" else row[key] for key in keys) + " |" for row in rows),
        ]  # fmt: skip
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def rewrite(file: Path) -> None:
    """Puts the tables of today between the marks of a README: ``<!-- catalogue en -->`` to ``<!-- end -->``."""
    file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """Returns a README's text with the tables of today between its marks."""
    for language in get_args(UserLanguage):
        begin = f"<!-- catalogue {language} -->\n"
        before, mark, rest = text.partition(begin)
        _, end, after = rest.partition("<!-- end -->")
        text = f"{before}{mark}{markdown(language)}{end}{after}" if mark and end else text
    return text


def _joined(languages: tuple[str, ...]) -> str:
    return ", ".join(languages)


def _flow(data: Any) -> str:
    """Returns plain data as YAML on one line."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(_flow(each) for each in data) + "]"
    return data if isinstance(data, str) else json.dumps(data)
