"""Files that a job names: local paths, or URIs of any filesystem that pyarrow knows; compressed or not."""

from __future__ import annotations

from functools import cache
from typing import Any

from llmyard.core.errors import RequestError

CODECS = {".gz": "gzip", ".zst": "zstd"}


def codec_of(path: str) -> str:
    """Returns the compression that a file's suffix names, "" for none."""
    return next((codec for suffix, codec in CODECS.items() if path.partition("?")[0].lower().endswith(suffix)), "")


def plain_name(path: str) -> str:
    """Returns a path without its query and the suffix of its compression: ``a.jsonl`` for ``a.jsonl.gz``."""
    name = path.partition("?")[0] if "://" in path else path
    return name.rpartition(".")[0] if codec_of(name) else name


def read_file(path: str) -> bytes:
    """Returns a whole small file, decompressed by its suffix.

    Raises:
        OSError: It is not there, or cannot be read.
        RequestError: Its filesystem is unknown.
    """
    filesystem, inner = opened(path)
    with filesystem.open_input_stream(inner, compression=codec_of(path) or None) as stream:
        return bytes(stream.read())


def opened(path: str) -> tuple[Any, str]:
    """Returns the pyarrow filesystem of a path or URI, and the path in its terms.

    What follows the host or bucket of a URI is taken as it stands (no %-escapes); a ``?query`` configures the
    filesystem, as in ``s3://bucket/data/*.jsonl?endpoint_override=localhost:9000&scheme=http``.
    """
    from pyarrow import fs

    if "://" not in path:
        return fs.LocalFileSystem(), path
    root, inner, query = parts_of(path)
    filesystem, base = _filesystem(root + query)
    return filesystem, f"{base.rstrip('/')}/{inner}"


def parts_of(uri: str) -> tuple[str, str, str]:
    """Returns root (``scheme://host``), path below it, and ``?query`` of a URI."""
    scheme, _, rest = uri.partition("://")
    rest, mark, query = rest.partition("?")
    authority, _, inner = rest.partition("/")
    return f"{scheme}://{authority}", inner, mark + query


@cache
def _filesystem(root: str) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        filesystem, base = fs.FileSystem.from_uri("file:///" if root == "file://" else root)
    except (ValueError, OSError, NotImplementedError) as error:
        raise RequestError(
            f"cannot open {root}: {error}", "give a local path, or a URI that pyarrow knows: s3://, gs://, hdfs://"
        ) from None
    return filesystem, base
