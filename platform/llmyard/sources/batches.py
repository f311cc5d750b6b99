"""Batches of documents built from whole Arrow arrays, or gathered one by one where a format has no other way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.sources.config import Files, HubDataset, Limits, TaskTexts, Triples
from llmyard.sources.records import BadRecord, Batch, excerpt_of, is_unicode

BATCH_BYTES = 8 << 20
_BATCH_RECORDS = 1 << 16
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "language", "url")])
NOT_UTF8 = "the text is not UTF-8"
HALF_PAIR = "holds half of a surrogate pair, which is no character"

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of a file have in common.

    Attributes:
        path: The file, as bad records name it.
        name: What stands before the ``#`` in ids.
        source: The source's config.
        limits: What a record may be.
    """

    path: str
    name: str
    source: Files | HubDataset | TaskTexts | Triples
    limits: Limits

    def bad(self, key: int, reason: str, data: bytes | str = b"", offset: int = -1) -> BadRecord:
        """Returns the bad record with this key."""
        return BadRecord(self.path, key, reason, offset, excerpt_of(data))

    def too_long(self, size: int | None = None) -> str:
        """Returns the reason for a record over the limit."""
        length = f"{size:,} bytes long" if size is not None else "longer"
        return f"the record is {length}, over max_record_bytes = {self.limits.max_record_bytes:,}"


def nothing_but(*bad: BadRecord) -> Batch:
    """Returns a batch without documents."""
    return Batch(SCHEMA.empty_table(), list(bad))


def name_of(path: str) -> str:
    """Returns a file's name in ids: its last two parts, so that a moved data folder gives the same corpus."""
    return "/".join([part for part in path.partition("?")[0].split("/") if part][-2:])


def batch_of(
    origin: Origin,
    keys: Keys,
    texts: Any,
    languages: Any = None,
    urls: Any = None,
    *,
    offsets: Keys | None = None,
    bad: list[BadRecord] | None = None,
    damage: list[BadRecord] | None = None,
    missing: str = "",
) -> Batch:
    """Returns a batch of whole arrays; texts that are no UTF-8, missing or too long go to the bad ones.

    Args:
        origin: The file.
        keys: Number or offset of each record, unique in the file.
        texts: String or binary array; binary is checked.
        languages: Language of each; None if the source's config is all that is known.
        urls: Address of each.
        offsets: Bytes of the file at which the records begin, where known.
        bad: Records found to be bad before.
        damage: What is wrong with more than a record; it is told whatever share of the records is kept.
        missing: The reason for a text that is null or ""; without one, such texts are documents.
    """
    texts = _flat(texts)
    found = list(bad or ())
    keep = np.ones(len(texts), bool)

    def quarantine(which: npt.NDArray[np.bool_], reason: str) -> None:
        for at in np.flatnonzero(which & keep):
            data = texts[int(at)].cast(pa.binary()).as_py() or b""
            why = reason or origin.too_long(len(data))
            found.append(origin.bad(int(keys[at]), why, data, -1 if offsets is None else int(offsets[at])))
        keep[which] = False

    if missing:
        quarantine(_array(pc.fill_null(pc.equal(pc.binary_length(texts), 0), True)), missing)
    quarantine(_array(pc.fill_null(pc.greater(pc.binary_length(texts), origin.limits.max_record_bytes), False)), "")
    if not is_utf8(texts):
        quarantine(not_utf8(texts), NOT_UTF8)
    if origin.source.share < 1:
        keep &= chosen(origin.name, keys, origin.source.share)
        found = [each for each in found if chosen(origin.name, np.array([each.record]), origin.source.share)[0]]
    columns = [texts, _known(languages, origin.source.language or "", len(texts)), _known(urls, "", len(texts))]
    if not keep.all():
        mask = pa.array(keep)
        columns = [column.filter(mask) for column in columns]
        keys = keys[keep]
    ids = pc.binary_join_element_wise(origin.name, pa.array(keys).cast(pa.string()), "#")
    texts = pc.fill_null(columns[0].cast(pa.string()), "")
    names = pa.repeat(pa.scalar(origin.source.name), len(keys))
    return Batch(pa.table([ids, texts, names, columns[1], columns[2]], schema=SCHEMA), found + list(damage or ()))


def _flat(array: Any) -> Any:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array if array.type in (pa.string(), pa.binary()) else array.cast(pa.string())


def _array(values: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)


def _known(values: Any, otherwise: str, count: int) -> Any:
    """Returns languages or addresses; where there is none, or none that can be written, what is known otherwise."""
    if values is None:
        return pa.repeat(pa.scalar(otherwise, pa.string()), count)
    values = _flat(values)
    if not is_utf8(values):
        values = pc.if_else(pa.array(not_utf8(values)), pa.scalar(None, values.type), values)
    values = pc.fill_null(values.cast(pa.string()), otherwise)
    return pc.if_else(pc.equal(values, ""), otherwise, values) if otherwise else values


def is_utf8(array: Any) -> bool:
    """Returns whether all texts of a string or binary array are UTF-8."""
    try:
        array.view(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def is_utf8_block(data: bytes) -> bool:
    """Returns whether bytes are UTF-8; at some 4 GB/s, against 0.8 for making a Python string of them."""
    offsets = pa.py_buffer(np.array([0, len(data)], np.int32))
    return is_utf8(pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)]))


def not_utf8(array: Any) -> npt.NDArray[np.bool_]:
    """Returns which texts are not UTF-8; one by one, for arrays that :func:`is_utf8` refused."""

    def wrong(data: bytes | None) -> bool:
        try:
            (data or b"").decode()
        except UnicodeDecodeError:
            return True
        return False

    return np.array([wrong(data) for data in array.view(pa.binary()).to_pylist()], bool)


def chosen(name: str, keys: Keys, share: float) -> npt.NDArray[np.bool_]:
    """Returns which ids ``name#key`` are in the share: a hash of the id alone, so that no splitting changes it."""
    seed = np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
    # SplitMix64 (Steele, Lea, Flood 2014): every bit of the key reaches every bit of the hash.
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) / 2.0**53 < share)


class Gathering:
    """Documents gathered one by one into batches of about 8 MiB of text."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._clear()

    def _clear(self) -> None:
        self._keys: list[int] = []
        self._offsets: list[int] = []
        self._texts: list[str] = []
        self._languages: list[str] = []
        self._urls: list[str] = []
        self._bad: list[BadRecord] = []
        self._damage: list[BadRecord] = []
        self._bytes = 0

    def add(self, key: int, text: str, *, offset: int = -1, language: str = "", url: str = "") -> None:
        """Adds a document; one that cannot be written as UTF-8 is a bad record."""
        if not is_unicode(text):
            self.bad(key, HALF_PAIR, text, offset)
            return
        self._keys.append(key)
        self._offsets.append(offset)
        self._texts.append(text)
        self._languages.append(language if is_unicode(language) else "")
        self._urls.append(url if is_unicode(url) else "")
        self._bytes += len(text) * (1 if text.isascii() else 3) + 64

    def bad(self, key: int, reason: str, data: bytes | str = b"", offset: int = -1) -> None:
        """Adds a bad record."""
        self._bad.append(self.origin.bad(key, reason, data, offset))

    def damage(self, key: int, reason: str, data: bytes | str = b"", offset: int = -1) -> None:
        """Adds what is wrong with more than a record: the rest of the file is lost."""
        self._damage.append(self.origin.bad(key, reason, data, offset))

    def full(self) -> Iterator[Batch]:
        """Yields a batch if enough is gathered."""
        if self._bytes >= BATCH_BYTES or len(self._keys) + len(self._bad) >= _BATCH_RECORDS:
            yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        """Yields a batch of what is gathered, if anything is."""
        if not self._keys and not self._bad and not self._damage:
            return
        batch = batch_of(
            self.origin,
            np.array(self._keys, np.int64),
            pa.array(self._texts, pa.string()),
            pa.array(self._languages, pa.string()),
            pa.array(self._urls, pa.string()),
            offsets=np.array(self._offsets, np.int64),
            bad=self._bad,
            damage=self._damage,
        )
        self._clear()
        yield batch
