"""Documents read from their sources, a unit of work at a time."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.config import DocumentSource, Files, SmallWorldDocuments


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one task: a range of synthetic documents, or one file.

    Attributes:
        source: Index of the source in the job.
        path: The file; "" for synthetic documents.
        start: First document.
        stop: One past the last document; 0 for a whole file.
    """

    source: int
    path: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus; ``language`` is "" where the source does not know it."""

    id: str
    text: str
    source: str
    language: str


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that could not be read: where, and why."""

    path: str
    record: int
    reason: str


def expand(paths: Sequence[str]) -> list[str]:
    """Returns the files that paths, folders and globs name, sorted; ``$VARIABLES`` are replaced.

    Raises:
        RequestError: A variable is not set, or nothing is there.
    """
    found: list[str] = []
    for given in paths:
        path = os.path.expanduser(os.path.expandvars(given))
        unset = re.search(r"\$\{?(\w+)\}?", path)
        if unset:
            raise RequestError(
                f"{given}: the environment variable {unset[1]} is not set", f"export {unset[1]}=/your/folder"
            )
        if os.path.isfile(path):  # its name may hold a glob's characters
            found.append(path)
            continue
        if os.path.isdir(path):
            path = os.path.join(glob.escape(path), "*")
        matches = sorted(item for item in glob.glob(path, recursive=True) if os.path.isfile(item))
        if not matches:
            raise RequestError(
                f"no file at {os.path.abspath(path)} (given as {given})", "check the path, or the glob's pattern"
            )
        found += matches
    return sorted(set(found))


def listing(source: DocumentSource | Any) -> list[list[str | int]]:
    """Returns path, size and modification time of a source's files: part of the fingerprint; [] for synthetic ones."""
    paths: list[str] = []
    for field in ("paths", "train", "validation", "test"):
        value = getattr(source, field, ())
        if isinstance(value, str):
            paths += expand([value])
        elif isinstance(value, tuple):
            paths += expand(value)
    return [[path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths]


@cache
def _smallworld_digest() -> str:
    package = Path(__file__).with_name("smallworld")
    files = sorted(path for path in package.iterdir() if path.suffix in (".py", ".yaml"))
    return digest("\0".join(f"{path.name}\0{path.read_text(encoding='utf-8')}" for path in files)).hex()


def revision(source: Any) -> str:
    """Returns what else than files decides a source's content: a digest of the generator, "" for files."""
    return _smallworld_digest() if source.kind == "smallworld" else ""


def plan(sources: Sequence[DocumentSource], documents_per_task: int) -> list[Unit]:
    """Returns the units of work of all sources, in a fixed order."""
    units: list[Unit] = []
    for index, source in enumerate(sources):
        if isinstance(source, Files):
            units += [Unit(index, path, 0, 0) for path in expand(source.paths)]
        else:
            count = world_of(source).documents
            starts = range(0, count, documents_per_task)
            units += [Unit(index, "", start, min(start + documents_per_task, count)) for start in starts]
    return units


def world_of(source: SmallWorldDocuments) -> Any:
    """Returns the world that a synthetic source describes."""
    from llmyard.sources.smallworld import SmallWorld

    return SmallWorld(profile=source.profile, seed=source.seed, documents=source.documents)


def read(unit: Unit, source: DocumentSource) -> Iterator[Document | BadRecord]:
    """Yields the documents of a unit, and what could not be read.

    Raises:
        DataError: A whole file cannot be read.
    """
    if isinstance(source, Files):
        yield from _read_file(unit.path, source)
        return
    world = world_of(source)
    for index in range(unit.start, unit.stop):
        document = world.document(index)
        yield Document(document.id, document.text, "smallworld", document.language)


def _read_file(path: str, source: Files) -> Iterator[Document | BadRecord]:
    # Ids name the file by its last two parts, so that a moved data folder gives the same corpus.
    name = "/".join(Path(path).parts[-2:])
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the file and its rights") from error
    if source.format == "text":
        try:
            text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            yield BadRecord(path, error.start, f"not UTF-8 at byte {error.start}")
            return
        pieces = [text] if source.document == "file" else _paragraphs(text, source.document_characters)
        for index, piece in enumerate(pieces):
            yield Document(f"{name}#{index}", piece, source.name, "")
        return
    if source.format == "tsv":
        yield from _tab_separated(path, name, data, source)
        return
    for index, record in _records(data) if source.format == "json" else json_lines(data.split(b"\n")):
        found = next((record[key] for key in source.text_fields if isinstance(record, dict) and record.get(key)), None)
        if isinstance(found, list) and all(isinstance(part, str) for part in found):
            found = "\n".join(found)
        if isinstance(found, str) and not is_unicode(found):
            yield BadRecord(path, index, "holds half of a surrogate pair, which is no character")
        elif isinstance(found, str):
            yield Document(f"{name}#{index}", found, source.name, "")
        elif isinstance(record, BadRecord):
            yield BadRecord(path, index, record.reason)
        else:
            yield BadRecord(path, index, f"no text in any of the fields {', '.join(source.text_fields)}")


def _tab_separated(path: str, name: str, data: bytes, source: Files) -> Iterator[Document | BadRecord]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            cells = line.decode().split("\t")
        except UnicodeDecodeError as error:
            yield BadRecord(path, number, f"line {number}: {_not_json(error)}")
            continue
        if len(cells) <= max(source.columns):
            yield BadRecord(path, number, f"line {number} has {len(cells)} columns, no column {max(source.columns)}")
            continue
        text = "\n".join(cells[column] for column in source.columns)
        yield Document(f"{name}#{number}", text, source.name, "")


def _records(data: bytes) -> Iterator[tuple[int, Any]]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        yield 0, BadRecord("", getattr(error, "lineno", 0), _not_json(error))
        return
    yield from enumerate(parsed if isinstance(parsed, list) else [parsed])


def json_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yields (line number, its value, or a BadRecord without path) of JSON lines, which only a line feed divides."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, BadRecord("", number, f"line {number}: {_not_json(error)}")


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return "not JSON that can be read: " + ("nested too deeply" if isinstance(error, RecursionError) else str(error))


def is_unicode(text: str) -> bool:
    """Returns whether a text can be written: JSON may spell half of a surrogate pair, which no encoding takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _paragraphs(text: str, limit: int) -> Iterator[str]:
    """Joins paragraphs into documents of about ``limit`` characters."""
    gathered: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text):
        if size + len(paragraph) > limit and gathered:
            yield "\n\n".join(gathered)
            gathered, size = [], 0
        gathered.append(paragraph)
        size += len(paragraph)
    if gathered:
        yield "\n\n".join(gathered)


def digest(text: str) -> bytes:
    """Returns 128 bits that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def as_row(unit: Unit) -> dict[str, Any]:
    """Returns a unit as plain data, to be sent to a task."""
    return asdict(unit)
