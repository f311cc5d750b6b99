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
    loaded, name = _module_of(path)
    found = getattr(loaded, name, None)
    if found is None:
        raise RequestError(
            f"cannot import the filter {path!r}: there is no {name!r} in it", "name one of its functions"
        )
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
    """Returns the text of the filter's file, all of which may decide what it does: it is part of the fingerprint.

    Raises:
        RequestError: It cannot be imported, or is not written in Python.
    """
    function_of(path)
    loaded, name = _module_of(path)
    files = {str(getattr(loaded, "__file__", None)), str(_file_of(getattr(loaded, name)))}
    texts = [Path(file).read_text(encoding="utf-8") for file in sorted(files) if file.endswith(".py")]
    if not texts:
        raise RequestError(f"{path!r} is not written in Python", "call it in a function of your own")
    return "\n".join(texts)


def _file_of(function: Any) -> str | None:
    """Returns where a function is written; None for what has no source."""
    try:
        return inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        return None


@cache
def _module_of(path: str) -> tuple[Any, str]:
    """Returns the module that a filter's path names, and the filter's name in it."""
    module, _, name = path.rpartition(":")
    try:
        if not module.endswith(".py"):
            return importlib.import_module(module), name
        spec = importlib.util.spec_from_file_location(Path(module).stem, module)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded, name
    except (ImportError, OSError) as error:
        raise RequestError(
            f"cannot import the filter {path!r}: {error}", "name it `package.module:function` or `file.py:function`"
        ) from error
    except Exception as error:  # the user's own code runs here, and may raise anything
        raise RequestError(
            f"cannot import the filter {path!r}: {type(error).__name__}: {error}", "mend the file"
        ) from error
