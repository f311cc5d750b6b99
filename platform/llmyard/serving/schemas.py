"""JSON schemas that requests bring: bounded before they are followed, and looked at again in what was written."""

from __future__ import annotations

import json
from typing import Any

from llmyard.core.errors import LlmyardError
from llmyard.generation.model import Written
from llmyard.serving.openai_protocol import JsonFormat, SchemaFormat, TextFormat
from llmyard.serving.refusals import Refused

MAX_BYTES, MAX_DEPTH = 32_768, 32
# A string without an end of its own is what a small model writes on and on in: until its tokens are used up, and the
# JSON is cut.
MAX_STRING = 2_000
_ENDED = ("maxLength", "enum", "const", "pattern", "format")
_DATA = ("enum", "const", "default", "examples")
_VALUE = {"$ref": "#/$defs/value"}
_ANY_OBJECT = {
    "type": "object",
    "additionalProperties": _VALUE,
    "$defs": {
        "value": {
            "anyOf": [
                {"type": ["number", "boolean", "null"]},
                {"type": "string"},
                {"type": "array", "items": _VALUE},
                {"type": "object", "additionalProperties": _VALUE},
            ]
        }
    },
}


def schema_of(asked: TextFormat | JsonFormat | SchemaFormat | None) -> str | None:
    """Returns the schema that an answer is to follow, strings in it bounded; None where it is free.

    Raises:
        Refused: It is too large, too deep, or no schema.
    """
    from jsonschema import Draft202012Validator, SchemaError

    if asked is None or isinstance(asked, TextFormat):
        return None
    schema = _ANY_OBJECT if isinstance(asked, JsonFormat) else asked.json_schema.schema_
    text = json.dumps(schema, ensure_ascii=False)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise Refused(400, f"the JSON schema has {size} bytes; at most {MAX_BYTES}", code="invalid_schema")
    if _depth(schema) > MAX_DEPTH:
        raise Refused(400, f"the JSON schema is deeper than {MAX_DEPTH}", code="invalid_schema")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise Refused(400, f"that is no JSON schema: {error.message:.200}", code="invalid_schema") from None
    return json.dumps(_bounded(schema), ensure_ascii=False)


def check_follows(written: Written, schema: str | None) -> None:
    """Raises LlmyardError for an answer that ended and does not follow its schema: a fault of ours, never told as an
    answer. One that was cut says so in its finish.
    """
    from jsonschema import Draft202012Validator, ValidationError

    if schema is None or written.finish != "stop":
        return
    try:
        Draft202012Validator(json.loads(schema)).validate(json.loads(written.text))
    except (ValueError, ValidationError) as error:
        raise LlmyardError(f"an answer does not follow its schema: {error!s:.200}", "report this") from None


def _depth(schema: Any) -> int:
    if isinstance(schema, dict):
        return 1 + max(map(_depth, schema.values()), default=0)
    return 1 + max(map(_depth, schema), default=0) if isinstance(schema, list) else 0


def _bounded(schema: Any) -> Any:
    """Returns a schema whose strings have an end."""
    if isinstance(schema, list):
        return [_bounded(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: value if name in _DATA else _bounded(value) for name, value in schema.items()}
    if schema.get("type") == "string" and not any(name in schema for name in _ENDED):
        found["maxLength"] = MAX_STRING
    return found
