"""Custom resource definitions: their defaults, their schemas, and their rules in CEL."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import charted

Schema = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """A rule in CEL.

    Attributes:
        kind: Of the resource.
        path: Of the value it is about, as in ``.spec.addresses[]``.
        rule: The expression; it speaks of ``self``.
        message: What an API server says where it is broken.
    """

    kind: str
    path: str
    rule: str
    message: str

    @property
    def is_transition(self) -> bool:
        """Whether it compares with the former value: when an object is made there is none."""
        return "oldSelf" in self.rule


@dataclass(frozen=True)
class Definitions:
    """Schemas by API version and kind."""

    schemas: dict[tuple[str, str], Schema]

    def knows(self, found: charted.Object) -> bool:
        """Returns whether an object's kind is defined here."""
        return (found["apiVersion"], found["kind"]) in self.schemas

    def schema(self, found: charted.Object) -> Schema:
        """Returns the schema of an object."""
        return self.schemas[found["apiVersion"], found["kind"]]

    def completed(self, found: charted.Object) -> charted.Object:
        """Returns an object with the defaults that an API server would fill in."""
        completed: charted.Object = _with_defaults(copy.deepcopy(found), self.schema(found))
        return completed

    def faults(self, found: charted.Object) -> list[str]:
        """Returns what is wrong with an object. Unknown fields count: an API server would drop them in silence."""
        import jsonschema  # type: ignore[import-untyped]

        completed = self.completed(found)
        validator = jsonschema.Draft202012Validator(_strict(self.schema(found)))
        said = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(completed)]
        return said + [f"{path}: {rule.message}" for rule, path in self.broken(completed)]

    def rules(self) -> Iterator[Rule]:
        """Yields all rules."""
        for (_, kind), schema in self.schemas.items():
            yield from _rules(kind, schema, "")

    def broken(self, found: charted.Object) -> Iterator[tuple[Rule, str]]:
        """Yields the rules that an object breaks when it is made, each with the path of the value."""
        for rule in _rules(found["kind"], self.schema(found), ""):
            if not rule.is_transition:
                for path, value in _values(found, rule.path.strip(".").split(".") if rule.path else [], ""):
                    if not holds(rule.rule, value):
                        yield rule, path


def holds(rule: str, value: Any) -> bool:
    """Returns whether a rule in CEL holds for a value."""
    from celpy.adapter import json_to_cel

    return bool(_program(rule).evaluate({"self": json_to_cel(value)}))


_programs: dict[str, Any] = {}


def _program(rule: str) -> Any:
    if rule not in _programs:
        import celpy

        environment = celpy.Environment()
        _programs[rule] = environment.program(environment.compile(rule))
    return _programs[rule]


def read(folder: Path, cache: Path | None = None) -> Definitions:
    """Reads all definitions below a folder; their YAML is slow to read, so a copy in JSON is kept."""
    schemas = {}
    for file in sorted(folder.rglob("*.yaml")):
        stat = file.stat()
        kept = cache / f"{file.stem}-{stat.st_size}-{stat.st_mtime_ns}.json" if cache else None
        if kept is not None and kept.exists():
            content = json.loads(kept.read_text(encoding="utf-8"))
        else:
            content = charted.loaded(file.read_text(encoding="utf-8"))
            if kept is not None:
                kept.write_text(json.dumps(content), encoding="utf-8")
        spec = content["spec"]
        for version in spec["versions"]:
            api = f"{spec['group']}/{version['name']}"
            schemas[api, spec["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    return Definitions(schemas)


def _with_defaults(value: Any, schema: Schema) -> Any:
    if isinstance(value, dict):
        for key, inner in (schema.get("properties") or {}).items():
            if key not in value and "default" in inner:
                value[key] = copy.deepcopy(inner["default"])
        for key in value:
            inner = (schema.get("properties") or {}).get(key) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                value[key] = _with_defaults(value[key], inner)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        value = [_with_defaults(each, schema["items"]) for each in value]
    return value


def _strict(schema: Schema) -> Schema:
    """Returns a schema that takes no fields that it does not name; metadata of the object itself is everybody's."""
    strict: Schema = _closed(schema)
    strict["properties"] |= {"metadata": {"type": "object"}}
    return strict


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: value for key, value in schema.items() if key not in ("properties", "default", "description")}
    for key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "not"):
        if key in out:
            out[key] = _closed(out[key])
    if "properties" in schema:
        out["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        if "type" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    return out


def _rules(kind: str, schema: Schema, path: str) -> Iterator[Rule]:
    for each in schema.get("x-kubernetes-validations") or ():
        yield Rule(kind, path, each["rule"], each.get("message", each["rule"]))
    for key, value in (schema.get("properties") or {}).items():
        if not (path == "" and key == "status"):
            yield from _rules(kind, value, f"{path}.{key}")
    if isinstance(schema.get("items"), dict):
        yield from _rules(kind, schema["items"], f"{path}.[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _rules(kind, schema["additionalProperties"], f"{path}.{{}}")


def _values(value: Any, steps: list[str], path: str) -> Iterator[tuple[str, Any]]:
    """Yields the values at a rule's path, each with its own path."""
    if not steps:
        yield path, value
        return
    step, rest = steps[0], steps[1:]
    if step == "[]" and isinstance(value, list):
        for index, each in enumerate(value):
            yield from _values(each, rest, f"{path}[{index}]")
    elif step == "{}" and isinstance(value, dict):
        for key, each in value.items():
            yield from _values(each, rest, f"{path}.{key}")
    elif isinstance(value, dict) and step in value:
        yield from _values(value[step], rest, f"{path}.{step}")
