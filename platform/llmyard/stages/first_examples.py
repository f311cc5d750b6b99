"""The first examples of a stage's files, read before anything starts: a wrong `format` is said by ``check``, and not
when the stage has had its turn.

Only what is cheap is read: some records from the beginning of a file, and of a file that is one JSON document, which is
parsed as a whole, only a small one; of a large one its first bytes have to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, get_args

from llmyard.core.errors import DataError, LlmyardError, RequestError
from llmyard.sources.config import FORMAT_TASKS, ExampleFormat, ExampleSource, ParallelText, Records, TaskTexts
from llmyard.sources.filesystems import Found, find
from llmyard.sources.records import BadRecord, Record

Place = tuple[str | int, ...]
_LOOKED_AT = 100  # records of a file: bad ones may stand among good ones, and some even before them
_FILES = 3  # of those that one field names: a folder may hold a README
_SMALL = 8 << 20  # bytes that are parsed in no time
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")
_GROW = 8  # times that packed JSON grows, usually


def refuse_misread(stage: Any, place_of: Callable[[Place], str]) -> None:
    """Looks at the first examples of all files that a stage names.

    Args:
        stage: Its config.
        place_of: Says where a field of the stage stands in the job file.

    Raises:
        RequestError: A file holds nothing that the stage could use; the place is that of the field which names it.
    """
    for place, source, task in _named(stage):
        fault = misread(source, task)
        if fault is not None:
            field, error = fault
            raise RequestError(f"{place_of((*place, *field))}: {error.what}", error.remedy)


def _named(stage: Any) -> Iterator[tuple[Place, ExampleSource, Any]]:
    """Yields where a stage names examples, and what they are for: a task, its name, or None where a checkpoint says."""
    for number, source in enumerate(getattr(stage, "sources", ()) or ()):
        if isinstance(source, TaskTexts):
            yield ("sources", number, "data"), source.data, source.task
    if getattr(stage, "data", None) is not None:
        task: Any = getattr(stage, "task", None)
        # Questions that are asked of an index come without their texts.
        is_open = task is not None and getattr(stage, "retrieval", None) is not None
        yield ("data",), stage.data, task.kind if is_open else task
    for number, other in enumerate(getattr(stage, "also", ())):
        yield ("also", number, "data"), other.data, other.task


def misread(source: ExampleSource, task: Any = None) -> tuple[Place, RequestError] | None:
    """Returns the field of a source whose files hold nothing that can be used, and what is wrong; None if all do.

    Args:
        source: Any; only files are looked at.
        task: Config of the task whose records they hold, or its name; None where that is not known.

    Raises:
        RequestError: A file is not there.
    """
    if not isinstance(source, Records | ParallelText) or source.max_bad_share >= 1:
        return None
    for field in ("paths",) if isinstance(source, ParallelText) else ("train", "validation", "test"):
        given = getattr(source, field)
        if given is None:
            continue
        files = find([given] if isinstance(given, str) else given)[:_FILES]
        faults = [_fault(file, source, task) for file in files]
        if all(faults):
            return (field,), _refusal(files[0], faults[0], source, task)
    return None


def _refusal(file: Found, fault: str, source: Records | ParallelText, task: Any) -> RequestError:
    kind, remedy = f"kind: {source.kind}", "give files with two columns, or other `columns`"
    if isinstance(source, Records):
        kind, remedy = f"format: {source.format}", "name the format that the file has"
        fitting = [each for each in get_args(ExampleFormat) if each != source.format and _is_for(each, task)]
        if read := [each for each in fitting if _reads(file, source, each, task)]:
            remedy = f"it can be read as format: {' or '.join(read)}"
    return RequestError(f"nothing at the beginning of {file.path} can be read as {kind}: {fault}", remedy)


def _is_for(format_: str, task: Any) -> bool:
    tasks = FORMAT_TASKS.get(format_)
    return tasks is None or task is None or _name(task) in tasks


def _name(task: Any) -> str:
    return task if isinstance(task, str) else str(task.kind)


def _reads(file: Found, source: Records, format_: str, task: Any) -> bool:
    """Returns whether a file would do in another format, as far as is known of it."""
    other = source.model_copy(update={"format": format_, "columns": {}, "labels": None})
    try:
        return any(True for _ in _records(file, other, task)) and not _fault(file, other, task)
    except (_TooLong, DataError):
        return False


class _TooLong(Exception):
    """A file is one document that is not parsed only to look at it."""


def _fault(file: Found, source: Records | ParallelText, task: Any) -> str:
    """Returns why none of a file's first records can be used; "" where one can, where there is none, or it is not known
    without reading a long document.
    """
    first = ""
    try:
        if isinstance(source, Records) and (wrong := _head_fault(file.path, source.format)):
            return wrong
        for record in _records(file, source, task):
            why = record.reason if isinstance(record, BadRecord) else _unfit(record, task)
            if not why:
                return ""
            first = first or why
    except LlmyardError as error:  # it cannot be opened, or the format is of other tasks
        return error.what
    except _TooLong:
        return ""
    return first


def _records(file: Found, source: Records | ParallelText, task: Any) -> Iterator[Record | BadRecord]:
    """Returns the first records of a file, and what is wrong with others.

    Raises:
        DataError: It cannot be opened.
        _TooLong: It is one long document.
    """
    from llmyard.sources.example_formats.reading import is_document, read_file
    from llmyard.sources.examples import ExampleUnit, read_examples

    if isinstance(source, ParallelText):
        return islice(read_examples(ExampleUnit("train", file.path, 0, 0), source, "translation"), _LOOKED_AT)
    grown = file.size * (_GROW if file.path.endswith(_PACKED) else 1)
    if grown > _SMALL and is_document(file.path, source.format):
        raise _TooLong
    name = _name(task) if task is not None else FORMAT_TASKS.get(source.format, ("",))[0]
    return islice(read_file(file.path, source, name), _LOOKED_AT)  # of whatever split


def _head_fault(path: str, format_: str) -> str:
    """Returns why a file is surely not the one JSON document of a format, by its first bytes; "" where it may be."""
    from llmyard.sources.example_formats.opening import is_lines
    from llmyard.sources.example_formats.reading import DOCUMENTS

    if format_ in DOCUMENTS and is_lines(path):
        return "its first line is JSON by itself and others follow, so it is JSON lines and not one document"
    return ""


def _unfit(record: Record, task: Any) -> str:
    """Returns why no model could learn a task from a record; "" where one could, or the task is not known."""
    if task is None or isinstance(task, str):
        return ""
    from llmyard.tasks.catalogue import task_of
    from llmyard.tasks.task import FORMS, BadExample

    why = ""
    for family in {form: family for family, form in FORMS.items()}.values():
        try:
            task_of(task, family).check(record)
        except BadExample as error:
            why = why or error.what
        except LlmyardError:  # no model of this form has the task
            continue
        except (KeyError, TypeError, AttributeError) as error:
            why = why or f"{type(error).__name__}: {error}"
        else:
            return ""
    return why
