"""Which files a source names: local paths, or URIs of any filesystem that pyarrow knows."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.core.files import opened, parts_of


@dataclass(frozen=True, slots=True)
class Found:
    """A file as its filesystem lists it.

    Attributes:
        path: A local path or a URI.
        size: Bytes.
        modified_ns: Time of the last change in nanoseconds, 0 where the filesystem has none.
    """

    path: str
    size: int
    modified_ns: int


def find(paths: Sequence[str]) -> list[Found]:
    """Returns the files that paths, folders and globs name, sorted by path, each once.

    ``$VARIABLES`` and ``~`` are replaced. A folder stands for all files below it but those whose name, or whose
    folder's name, begins with a dot or an underscore (``_SUCCESS``, ``.part``): what a job writes beside its data.

    Raises:
        RequestError: A variable is not set, nothing is there, or the filesystem is unknown.
    """
    found: dict[str, Found] = {}
    for given in paths:
        path = os.path.expanduser(os.path.expandvars(given))
        unset = re.search(r"\$\{?(\w+)\}?", path)
        if unset:
            raise RequestError(
                f"{given}: the environment variable {unset[1]} is not set", f"export {unset[1]}=/your/folder"
            )
        matches = _remote(path) if "://" in path else _local(path)
        if not matches:
            shown = path if "://" in path else os.path.abspath(path)
            written = f" (given as {given})" if given != shown else ""
            raise RequestError(f"no file at {shown}{written}", "check the path, or the glob's pattern")
        found.update((item.path, item) for item in matches)
    return [found[path] for path in sorted(found)]


def expand(paths: Sequence[str]) -> list[str]:
    """Returns the paths of :func:`find`."""
    return [item.path for item in find(paths)]


def _local(path: str) -> list[Found]:
    if os.path.isfile(path):  # its name may hold a glob's characters
        return [_stat(path)]
    matches = [path] if os.path.isdir(path) else sorted(glob.glob(path, recursive=True))
    files: list[str] = []
    for match in matches:
        if os.path.isfile(match):
            files.append(match)
        elif match == path:
            files += _below(match)
    return [_stat(file) for file in files]


def _below(folder: str) -> list[str]:
    files: list[str] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if _shown(name))
        paths = (os.path.join(root, name) for name in sorted(names) if _shown(name))
        files += [path for path in paths if os.path.isfile(path)]
    return files


def _shown(name: str) -> bool:
    return not name.startswith((".", "_"))


def _stat(path: str) -> Found:
    status = os.stat(path)
    return Found(path, status.st_size, status.st_mtime_ns)


def _remote(uri: str) -> list[Found]:
    from pyarrow import fs

    root, inner, query = parts_of(uri)
    filesystem, path = opened(uri)
    bucket = path[: len(path) - len(inner)].lstrip("/")

    def item(info: Any) -> Found:
        name = info.path.lstrip("/").removeprefix(bucket)
        return Found(f"{root}/{name}{query}", info.size or 0, info.mtime_ns or 0)

    try:
        (info,) = filesystem.get_file_info([path.rstrip("/")])
        if info.type == fs.FileType.File:
            return [item(info)]
        magic = re.search(r"[*\[]", inner)
        if info.type == fs.FileType.Directory or not magic:
            base, wanted = path.rstrip("/"), None
        else:
            base = path[: len(path) - len(inner)] + inner[: magic.start()].rpartition("/")[0]
            wanted = re.compile(glob_pattern(path.lstrip("/")))
        infos = filesystem.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as error:
        raise RequestError(
            f"cannot list {uri}: {error}", "check the address, the credentials and the network"
        ) from error
    files = {info.path.lstrip("/"): info for info in infos if info.type == fs.FileType.File}
    if wanted is not None:
        return [item(info) for name, info in files.items() if wanted.fullmatch(name)]
    start = len(base.strip("/"))
    return [item(info) for name, info in files.items() if all(map(_shown, name[start:].strip("/").split("/")))]


def glob_pattern(path: str) -> str:
    """Returns the regular expression of a glob: ``**`` is any number of folders; a star takes no leading dot."""
    pattern = ""
    for part in path.split("/"):
        if part == "**":
            pattern += r"(?:[^/.][^/]*/)*"
        else:
            hidden = "" if part.startswith(".") or not re.match(r"[*\[]", part) else r"(?!\.)"
            pattern += hidden + fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z").replace(".*", "[^/]*")
            pattern += "/"
    return pattern.removesuffix("/")
