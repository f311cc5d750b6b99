"""A job file read into a config model, with every error named by place, value, choices and nearest spelling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from llmyard.core.errors import ConfigError, RequestError
from llmyard.core.positions import Path, Position, Positioned, read_scalar, read_yaml

Model = TypeVar("Model")

_MAX_SHOWN = 60


def load_job(file: str | FilePath, adapter: TypeAdapter[Model], overrides: Sequence[str] = ()) -> Model:
    """Returns the validated config of a job file.

    Args:
        file: Path of the YAML file.
        adapter: The type to validate against (a stage or the union of all stages).
        overrides: ``path.to.field=value`` items, applied before validation; list items go by index or by ``output`` /
            ``name`` (``stages.base.steps=10``).

    Raises:
        RequestError: The file cannot be read.
        ConfigError: The content is wrong; the message lists **all** errors.
    """
    path = FilePath(file)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest(path.name, [item.name for item in path.parent.glob("*.yaml")] if path.parent.is_dir() else [])
        raise RequestError(f"no job file at {path}", near or "check the path; ready files are in jobs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the job file {path}: {error}", "give a UTF-8 YAML file") from None
    return parse_job(text, str(path), adapter, overrides)


def parse_job(text: str, name: str, adapter: TypeAdapter[Model], overrides: Sequence[str] = ()) -> Model:
    """Returns the validated config of a job file's text; ``name`` stands for the file in messages."""
    try:
        found = read_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(
            f"{place}: not valid YAML: {error.problem or error.context}", "mend the syntax there"
        ) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        place = f"{name}:{len(before)}:{len(before[-1]) + 1}"
        raise ConfigError(
            f"{place}: not valid YAML: a character U+{ord(text[error.position]):04X}", "remove it"
        ) from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias holds itself", "mend the structure") from None
    problems = [
        f"{name}:{again.line}:{again.column}: {_dotted(path)}: stands twice (first at line {first.line})"
        for path, again, first in found.duplicates
    ]
    if not isinstance(found.data, dict):
        got = "nothing" if found.data is None else type(found.data).__name__
        raise ConfigError(
            f"{name}:1:1: a job file is a mapping with `kind:`, this one holds {got}", "see `llmyard init`"
        )
    overridden = {path: item for item in overrides for path in [_override(found, item)]}
    try:
        config = adapter.validate_python(found.data)
    except ValidationError as error:
        problems += [_explain(item, found, name, adapter, overridden) for item in _merged(error)]
        config = None
    if problems:
        problems.sort(key=by_line)
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        raise ConfigError("\n".join(problems), f"mend the {count}; `llmyard schema` prints every field")
    assert config is not None
    return config


def place_of(file: str | FilePath, overrides: Sequence[str], path: Path) -> str:
    """Returns how errors name a value of a job that was read: ``file:line:column: path``, or its override."""
    found = read_yaml(FilePath(file).read_text(encoding="utf-8"))
    for item in overrides:
        at = _override(found, item)
        if path[: len(at)] == at or at[: len(path)] == path:
            return f"--set {item}: {_dotted(path)}"
    position = _nearest_position(found, path, key=False)
    return f"{file}:{position.line}:{position.column}: {_dotted(path)}"


def given(file: str | FilePath, overrides: Sequence[str] = ()) -> Any:
    """Returns the plain data of a job file that was read, with overrides, as its user wrote it."""
    found = read_yaml(FilePath(file).read_text(encoding="utf-8"))
    for item in overrides:
        _override(found, item)
    return found.data


def by_line(problem: str) -> tuple[int, int]:
    """Returns line and column of a message that begins with its place, to sort by; (0, 0) of one without."""
    place = re.match(r".*?:(\d+):(\d+): ", problem)
    return (int(place[1]), int(place[2])) if place else (0, 0)


def _override(found: Positioned, item: str) -> Path:
    """Sets one ``a.b.0.c=value`` in the data, making mappings on the way; returns the path that was set."""
    where, separator, value = item.partition("=")
    if not separator or not where:
        raise ConfigError(f"--set {item}: not of the form path.to.field=value", "for example --set stages.0.steps=10")
    node: Any = found.data
    path: list[str | int] = []
    parts = where.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        key: str | int = part
        if isinstance(node, list):
            key = _index(node, part, item)
        elif not isinstance(node, dict):
            raise ConfigError(
                f"--set {item}: {_dotted(path)} is {_show(node)}, it has no field {part!r}", "name a field"
            )
        path.append(key)
        if last:
            node[key] = read_scalar(value)
        else:
            if isinstance(node, dict) and not isinstance(node.get(key), (dict, list)):
                node[key] = {}
            node = node[key]
    return tuple(path)


def _index(items: list[Any], part: str, override: str) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    named = [item.get("output", item.get("name")) if isinstance(item, dict) else None for item in items]
    if part in named:
        return named.index(part)
    choices = ", ".join(str(name) for name in named if name) or f"0 to {len(items) - 1}"
    raise ConfigError(f"--set {override}: the list has no item {part!r}", f"one of: {choices}")


def _merged(error: ValidationError) -> list[Any]:
    """All errors but for the echoes: a list that is "too short" only because its items failed."""
    items = error.errors(include_url=False)
    locations = [item["loc"] for item in items]

    def is_echo(item: Any) -> bool:
        location = item["loc"]
        inside = any(len(other) > len(location) and other[: len(location)] == location for other in locations)
        return bool(item["type"] == "too_short" and inside)

    return [item for item in items if not is_echo(item)]


def _explain(item: Any, found: Positioned, name: str, adapter: TypeAdapter[Any], overridden: dict[Path, str]) -> str:
    path, model = _walk(item["loc"], found.data, adapter)
    kind = item["type"]
    key = path if kind == "extra_forbidden" else None
    source = next((text for at, text in overridden.items() if path[: len(at)] == at or at[: len(path)] == path), None)
    if source is not None:
        place = f"--set {source}"
    else:
        tag = (*path, str(item["ctx"]["discriminator"]).strip("'")) if kind == "union_tag_invalid" else path
        position = _nearest_position(found, tag if tag in found.values else path, key is not None)
        place = f"{name}:{position.line}:{position.column}"
    return f"{place}: {_dotted(path) or 'the job'}: {_reason(item, path, model)}"


def _reason(item: Any, path: Path, model: type[BaseModel] | None) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        fields = list(model.model_fields) if model is not None else []
        near = nearest(str(path[-1]), fields)
        return f"unknown field; {near + '; ' if near else ''}accepted: {', '.join(fields)}"
    if kind == "missing":
        return "required, but not given"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        choices = re.findall(r"'([^']+)'", str(context.get("expected_tags", "")))
        tag = str(context.get("tag", ""))
        near = nearest(tag, choices)
        field = str(context.get("discriminator", "kind")).strip("'()")
        said = f"`{field}: {tag}` is unknown" if tag else f"needs `{field}:`"
        return f"{said}; {near + '; ' if near else ''}accepted: {', '.join(choices)}"
    if kind in ("literal_error", "enum"):
        choices = re.findall(r"'([^']+)'", str(context.get("expected", "")))
        near = nearest(str(item["input"]), choices)
        return f"{_show(item['input'])} is not accepted; {near + '; ' if near else ''}accepted: {', '.join(choices)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}; got {_show(item['input'])}" if kind != "value_error" else message


def _walk(location: Sequence[str | int], data: Any, adapter: TypeAdapter[Any]) -> tuple[Path, type[BaseModel] | None]:
    """Follows a pydantic location through the data, dropping the union tags that stand in it.

    Returns:
        The path in the data, and the model whose field the last part is.
    """
    path: list[str | int] = []
    annotation: Any = adapter._type
    model: type[BaseModel] | None = None
    for index, part in enumerate(location):
        members = _models(annotation)
        tagged = {_tag(member): member for member in members}
        if part in tagged and not (isinstance(data, dict) and part in data and len(members) == 1):
            annotation = tagged[part]  # a union tag: no step in the data
            continue
        if isinstance(data, dict) and isinstance(part, str):
            model = _single(annotation)
            field = model.model_fields.get(part) if model is not None else None
            annotation = field.annotation if field is not None else _item_type(annotation)
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            annotation = _item_type(annotation)
            path.append(part)
            data = data[part] if part < len(data) else None
        elif index == len(location) - 1 and isinstance(part, str) and not isinstance(data, (dict, list)):
            break
    return tuple(path), model


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _single(annotation: Any) -> type[BaseModel] | None:
    models = _models(annotation)
    return models[0] if len(models) == 1 else None


def _item_type(annotation: Any) -> Any:
    arguments = get_args(annotation)
    return (
        arguments[-1]
        if len(arguments) == 1 or (arguments and arguments[-1] is not Ellipsis)
        else (arguments or (None,))[0]
    )


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind") or model.model_fields.get("family")
    return str(field.default) if field is not None and field.default is not None else None


def _nearest_position(found: Positioned, path: Path, key: bool) -> Position:
    table = found.keys if key else found.values
    if path in table:
        return table[path]
    while path and path not in found.values:
        path = path[:-1]
    return found.values.get(path, Position(1, 1))


def nearest(word: str, choices: Sequence[str]) -> str:
    """Returns a question after the choice that is spelled most like a word; "" if none is."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
