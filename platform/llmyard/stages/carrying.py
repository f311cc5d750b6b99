"""What a job takes along to a cluster, and what it names that only this machine has.

Nothing here lists fields by name: a config's own types say which of its texts are paths, so that a new field that holds
one is found too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel

from llmyard.core.config import FilePath, SourcePath, located
from llmyard.core.errors import RequestError
from llmyard.core.fingerprint import fingerprint
from llmyard.core.jobfile import by_line, given, place_of
from llmyard.evaluation.config import Endpoint
from llmyard.sources.config import HubDataset
from llmyard.stages.command_config import Command
from llmyard.stages.config import AnyJob, Pipeline
from llmyard.stages.naming import HUB, Init
from llmyard.text.config import FunctionPath

Place = tuple[str | int, ...]
FUNCTIONS, PROGRAMS = "llmyard_carried", "files"
"""Folders of the parcel. The first is imported from, under names that no other module has; the second is not."""
_SUFFIXES = (".py", ".sh")
_MOST_BYTES = 50 << 20  # Ray takes 100 MB in one request, and keeps it in the head's memory
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
# Of texts that may also name something else, a data set of the hub or a checkpoint: those that name a folder.
_PLAIN = {"data set": re.compile(r"[/~$.]"), "model": re.compile(rf"{HUB}[/~$.]")}
_HERE = ("HOME", "PWD")  # variables that every machine has, with values of its own


@dataclass(frozen=True)
class Parcel:
    """What goes to the cluster for one job.

    Attributes:
        name: Of the job.
        files: By their paths in the driver's working directory.
        job_file: The job's own among them, as its user wrote it, so that messages name its lines.
        overrides: The user's, and those that lead to what is carried.
        digest: Equal for equal work: of the job as it is resolved, the files and the storage.
        asked_for: Environment variables that the job file names.
    """

    name: str
    files: Mapping[str, bytes]
    job_file: str
    overrides: tuple[str, ...]
    digest: str
    asked_for: tuple[str, ...]


def pack(
    file: Path,
    overrides: Sequence[str],
    job: AnyJob,
    storage: str,
    *,
    is_shared: bool = False,
    forwarded: Mapping[str, str] | None = None,
    carries: bool = True,
) -> Parcel:
    """Returns what a job takes along: its file, and the Python files and programs that it names.

    Args:
        file: The job file.
        overrides: Of the user.
        job: What both say, validated.
        storage: Where its artifacts go.
        is_shared: Whether the cluster sees this machine's paths.
        forwarded: The environment variables that go along.
        carries: Whether code can go along; else it is refused like data.

    Raises:
        RequestError: It names data on this machine (all of them are listed), or what is carried cannot be read.
    """
    packing = _Packing(file, tuple(overrides), is_shared, forwarded or {}, carries)
    for place, text, sort in _named(job):
        packing.take(place, text, sort)
    for place, config in configs(job):
        if isinstance(config, Command):
            packing.program(place, config)
        if isinstance(config, Endpoint) and not is_shared and urlsplit(config.url).hostname in _LOOPBACK:
            packing.refused.append(((*place, "url"), config.url))
    packing.refuse()
    files = packing.files | {file.name: file.read_bytes()}
    size = sum(map(len, files.values()))
    if size > _MOST_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise RequestError(
            f"the job's own code takes {size / 1e6:.0f} MB, at most {_MOST_BYTES / 1e6:.0f} are carried; the largest "
            f"file is {largest}",
            "install the package in the cluster's image",
        )
    overrides = (*overrides, *packing.changes)
    contents = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != file.name}
    resolved = json.loads(json.dumps(given(file, overrides), default=str))
    asked_for = [config.key_env for _, config in configs(job) if isinstance(config, Endpoint)]
    return Parcel(
        name=job.name if isinstance(job, Pipeline) else job.output,
        files=files,
        job_file=file.name,
        overrides=overrides,
        digest=fingerprint(job=resolved, files=contents, storage=storage),
        asked_for=tuple(dict.fromkeys(asked_for)),
    )


@dataclass
class _Packing:
    file: Path
    overrides: tuple[str, ...]
    is_shared: bool
    forwarded: Mapping[str, str]
    carries: bool
    files: dict[str, bytes] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    refused: list[tuple[Place, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._written = given(self.file, self.overrides)

    def take(self, place: Place, text: str, sort: str) -> None:
        """Takes a text of the job that names a path: as it was written, for variables are the cluster's."""
        written = self._at(place, text)
        if sort == "function":
            self._function(place, written)
        elif sort == "path" or _PLAIN[sort].match(written):
            self._data(place, written)

    def program(self, place: Place, config: Command) -> None:
        """Takes along the programs that a command names, and looks at what else it reads."""
        command = [self._at((*place, "command", at), part) for at, part in enumerate(config.command)]
        carried: dict[str, str] = {}
        for at, text in enumerate(config.reads):
            here = (*place, "reads", at)
            written = self._at(here, text)
            if not _is_local(written) or written.startswith(("$", "~")):
                self._data(here, written)
            elif written.endswith(_SUFFIXES) or written in command:
                carried[written] = self._program(here, written)
                # As a variable, which is replaced where the file is read: a path of one session would make the
                # fingerprint another one in the next.
                self._change(here, f"$PWD/{carried[written]}")
            else:
                self._data(here, written)
        for at, part in enumerate(command):
            here = (*place, "command", at)
            if part not in carried and part.endswith(_SUFFIXES) and os.path.isfile(part):
                carried[part] = self._program(here, part)
            if part in carried and at == 0:
                interpreter = "python3" if part.endswith(".py") else "bash"
                self.unreadable.append(
                    f"{self._place(here)}: {part} is carried without its right to be executed: name what reads it, "
                    f"[{interpreter}, {part}, …]"
                )
            if part in carried:
                self._change(here, carried[part])

    def refuse(self) -> None:
        """Raises RequestError if the job names what is on this machine, or what cannot be carried."""
        lines = [f"{self._place(place)}: {text} is on this machine" for place, text in self.refused]
        problems = sorted(lines + self.unreadable, key=by_line)
        if problems:
            data = "copy it to a storage that the cluster reads, such as s3://, and name that"
            if self.carries:
                shared = "; --shared-paths if the cluster sees the same paths"
                raise RequestError("\n".join(problems), data + shared if lines else "mend it")
            code = "install code in the image, or `llmyard submit` the job, which carries it"
            remedies = [data] * bool(lines) + [code] * bool(self.unreadable)
            raise RequestError("\n".join(problems), "; ".join(remedies))

    def _data(self, place: Place, written: str) -> None:
        head, path = (HUB, written.removeprefix(HUB)) if written.startswith(HUB) else ("", written)
        variable = _VARIABLE.match(path)
        if variable is not None and variable[1] not in _HERE:
            value = self.forwarded.get(variable[1])
            if value is not None and not self.is_shared and _is_local(value):
                self.refused.append((place, written))
            return  # else it is a variable of the cluster, or one that leads to a place that all see
        if not _is_local(path):
            return
        if not self.is_shared:
            self.refused.append((place, written))
            return
        absolute = head + located(path)
        if absolute != written:
            self._change(place, absolute)

    def _function(self, place: Place, written: str) -> None:
        module, _, name = written.rpartition(":")
        if not module.endswith(".py"):
            found = _package_of(module)
            if found is None:
                self.unreadable.append(f"{self._place(place)}: there is no module {module.partition('.')[0]!r} here")
            elif found and not self.carries:
                self._refuse_code(place, written)
            self.files |= found or {}
            return
        if not self.carries:
            self._refuse_code(place, written)
            return
        data = self._read(place, module)
        stem = re.sub(r"\W", "_", Path(module).stem) + "_" + hashlib.sha256(data).hexdigest()[:8]
        self.files[f"{FUNCTIONS}/{stem}.py"] = data
        # By import, not by file: where the file lies is another place in each session, and on each node.
        self._change(place, f"{FUNCTIONS}.{stem}:{name}")

    def _refuse_code(self, place: Place, written: str) -> None:
        self.unreadable.append(f"{self._place(place)}: {written} is code on this machine, and not in the image")

    def _program(self, place: Place, written: str) -> str:
        if not self.carries:
            self._refuse_code(place, written)
            return written
        data = self._read(place, written)
        below = os.path.relpath(located(written))
        if below.startswith(".."):
            below = f"{hashlib.sha256(located(written).encode()).hexdigest()[:8]}/{Path(written).name}"
        name = f"{PROGRAMS}/{Path(below).as_posix()}"
        self.files[name] = data
        return name

    def _read(self, place: Place, path: str) -> bytes:
        try:
            return Path(located(path)).read_bytes()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.unreadable.append(f"{self._place(place)}: {path} cannot be read: {why}")
            return b""

    def _change(self, place: Place, value: str) -> None:
        self.changes.append(f"{'.'.join(map(str, place))}={json.dumps(value, ensure_ascii=False)}")

    def _place(self, place: Place) -> str:
        return place_of(self.file, self.overrides, place)

    def _at(self, place: Place, otherwise: str) -> str:
        node = self._written
        try:
            for part in place:
                node = node[part]
        except (KeyError, IndexError, TypeError):
            return otherwise
        return node if isinstance(node, str) else otherwise


def _is_local(path: str) -> bool:
    return "://" not in path or path.startswith("file://")


def configs(config: BaseModel, at: Place = ()) -> Iterator[tuple[Place, BaseModel]]:
    """Yields a config and all that stand in it, with their places."""
    yield at, config
    for name in type(config).model_fields:
        yield from _below(getattr(config, name), (*at, name))


def _below(value: Any, at: Place) -> Iterator[tuple[Place, BaseModel]]:
    if isinstance(value, BaseModel):
        yield from configs(value, at)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _below(item, (*at, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _below(item, (*at, key))


def _named(job: AnyJob) -> Iterator[tuple[Place, str, str]]:
    """Yields the texts of a job that may name paths: place, text, and which sort (path, data set, model, function)."""
    for place, config in configs(job):
        if isinstance(config, Command):
            continue  # its programs are looked at together with what it reads
        for name, sort in _paths_of(type(config)).items():
            for below, text in _texts(getattr(config, name), (*place, name)):
                yield below, text, sort


def _texts(value: Any, at: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, (*at, index))


@cache
def _paths_of(kind: type[BaseModel]) -> dict[str, str]:
    """Returns the fields of a config that hold paths, and which sort."""
    sorts = _sorts()
    found = {}
    for name, info in kind.model_fields.items():
        for validator in _validators(info.annotation, info.metadata):
            if validator in sorts:
                found[name] = sorts[validator]
    return found


@cache
def _sorts() -> dict[Callable[..., Any], str]:
    """Returns what each validator of a path makes of the text that it stands for."""
    dataset = HubDataset.model_fields["dataset"]
    found: dict[Callable[..., Any], str] = {}
    for sort, marked in (("path", SourcePath), ("path", FilePath), ("model", Init), ("function", FunctionPath)):
        found |= dict.fromkeys(_validators(marked), sort)
    return found | dict.fromkeys(_validators(dataset.annotation, dataset.metadata), "data set")


def _validators(annotation: Any, marks: Sequence[Any] = ()) -> set[Callable[..., Any]]:
    found = {mark.func for mark in marks if isinstance(mark, AfterValidator)}
    found |= {mark.func for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, AfterValidator)}
    for inner in get_args(annotation):
        found |= _validators(inner)
    return found


def _package_of(module: str) -> dict[str, bytes] | None:
    """Returns the files of the package that a module is of, none of one that is installed: the cluster's image is to
    have it too; None if there is no such package.
    """
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        roots = [Path(each) for each in spec.submodule_search_locations]
    else:
        roots = [Path(spec.origin)] if spec.has_location and spec.origin else []
    installed = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    found: dict[str, bytes] = {}
    for root in roots:
        if any(root.is_relative_to(each) for each in installed):
            continue
        files = [root] if root.is_file() else sorted(each for each in root.rglob("*") if each.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                found[file.relative_to(root.parent).as_posix()] = file.read_bytes()
    return found
