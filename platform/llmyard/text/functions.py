"""A user's own filter: one Python function, named by its import path or its file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmyard.core.errors import RequestError

Filter = Callable[[Any], Any]


@cache
def function_of(path: str) -> Filter:
    """Returns the filter that ``package.module:name`` or ``file.py:name`` names.

    It gets an Arrow table (id, text, source, language, url) and returns one reason, or null, for each document, as
    anything that ``pa.array`` takes.

    Raises:
        RequestError: It cannot be imported, or gives back something else.
    """
    module, _, name = path.rpartition(":")
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            assert spec is not None
            assert spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
        else:
            loaded = importlib.import_module(module)
        found = getattr(loaded, name)
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise RequestError(
            f"cannot import the filter {path!r}: {error}", "name it `package.module:function` or `file.py:function`"
        ) from error
    if not callable(found):
        raise RequestError(f"{path!r} is a {type(found).__name__}, not a function", "name a function of one argument")

    def reasons(table: Any) -> Any:
        given = found(table)
        try:
            column = given if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(given, pa.string())
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
            raise RequestError(
                f"{path!r} gave {type(given).__name__}: {error}", "return a reason or None each"
            ) from None
        if len(column) != len(table):
            raise RequestError(f"{path!r} gave {len(column)} reasons for {len(table)} documents", "return one each")
        return column

    return reasons


def source_of(path: str) -> str:
    """Returns the function's source text, which decides what a stage makes."""
    function = inspect.getclosurevars(function_of(path)).nonlocals["found"]
    return inspect.getsource(function)
