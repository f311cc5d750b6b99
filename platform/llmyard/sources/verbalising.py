"""Triples said in sentences: a template for each relation and language, on whole Arrow arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.sources.batches import Origin, batch_of, name_of, nothing_but
from llmyard.sources.config import SLOTS, Limits, Triples
from llmyard.sources.formats.lines import BYTE_ORDER_MARK, first_byte, line_blocks
from llmyard.sources.formats.triples import ENTITIES, unescaped_column, version_of
from llmyard.sources.formats.tsv import Rows
from llmyard.sources.planning import Unit
from llmyard.sources.records import BadRecord, Batch
from llmyard.sources.streams import Stream, Unopenable

REVISION = 1  # grows when the same lines and templates give other sentences
# What says a triple whose relation has no template. An identifier such as lives_in is read as words.
OTHERWISE = {"en": "The {relation} of {subject} is {object}.", "zh": "{subject}的{relation}是{object}。"}
LANGUAGES = ("en", "zh")
_BETWEEN = {"en": " ", "zh": ""}
_ROWS = 1 << 16  # at once, and held of one subject: a template may be 2,000 characters long
_HAN, _LETTER = r"[\x{4e00}-\x{9fff}]", r"\p{L}"

Mask = npt.NDArray[np.bool_]
Triple = tuple[Any, Any, Any]


class Verbaliser:
    """Says triples.

    Args:
        templates: By relation and language, one sentence or several with ``{subject}``, ``{object}``, ``{relation}``.
        language: Of all sentences; None where the letters decide.
    """

    def __init__(self, templates: Mapping[str, Mapping[Any, str | Sequence[str]]], language: str | None = None) -> None:
        self._language = language
        self._names = pa.array(list(templates), pa.string())
        self._pieces = [_pieces(OTHERWISE[each]) for each in LANGUAGES]
        # (language, relation) -> first of its templates, and how many; the last column is of any other relation.
        self._first = np.repeat(np.arange(len(LANGUAGES))[:, None], len(templates) + 1, axis=1)
        self._count = np.ones_like(self._first)
        for column, by_language in enumerate(templates.values()):
            for row, each in enumerate(LANGUAGES):
                given = by_language.get(each, ())
                sentences = (given,) if isinstance(given, str) else given
                if sentences:
                    self._first[row, column], self._count[row, column] = len(self._pieces), len(sentences)
                    self._pieces += map(_pieces, sentences)

    def chinese(self, subjects: Any, objects: Any) -> Mask:
        """Returns which triples are said in Chinese: by the subject's letters, or the object's where it has none.

        As :func:`llmyard.text.script.mostly_chinese`: a third of the letters at least.
        """
        if self._language is not None:
            return np.full(len(subjects), self._language == "zh")
        letters = pc.count_substring_regex(subjects, _LETTER)
        texts = pc.if_else(pc.equal(letters, 0), objects, subjects)
        han, letters = (np.asarray(pc.count_substring_regex(texts, kind)) for kind in (_HAN, _LETTER))
        return np.asarray(3 * han >= np.maximum(letters, 1))

    def sentences(self, triple: Triple, chinese: Mask) -> Any:
        """Returns a sentence for each triple.

        Args:
            triple: String arrays of subjects, relations and objects.
            chinese: Whether each is said in Chinese.
        """
        chosen = self._chosen(triple, chinese)
        order = np.argsort(chosen, kind="stable")
        subjects, relations, objects = (column.take(pa.array(order)) for column in triple)
        columns = {"subject": subjects, "relation": relations, "object": objects}
        kinds, starts = np.unique(chosen[order], return_index=True)
        bounds = [*starts.tolist(), len(order)]
        said = [pa.array([], pa.string())]
        for kind, start, stop in zip(kinds.tolist(), bounds[:-1], bounds[1:], strict=True):
            slots = {name: column.slice(start, stop - start) for name, column in columns.items()}
            if kind < len(LANGUAGES):
                slots["relation"] = pc.replace_substring(slots["relation"], "_", " ")
            pieces = [slots.get(piece, piece) if is_slot else piece for piece, is_slot in self._pieces[kind]]
            said.append(pc.binary_join_element_wise(*pieces, ""))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_arrays(said).take(pa.array(back))

    def _chosen(self, triple: Triple, chinese: Mask) -> npt.NDArray[np.int64]:
        """Returns the number of each triple's template."""
        known = np.asarray(pc.fill_null(pc.index_in(triple[1], self._names), len(self._names)), np.int64)
        language = chinese.astype(np.int64)
        chosen, counts = self._first[language, known], self._count[language, known]
        several = counts > 1
        if several.any():
            from llmyard.text.digests import digests

            mask = pa.array(several)
            whole = pc.binary_join_element_wise(*(column.filter(mask) for column in triple), "\t")
            hashes = np.frombuffer(digests(whole).buffers()[1], np.uint64)[::2]
            chosen[several] += (hashes % counts[several].astype(np.uint64)).astype(np.int64)
        return np.asarray(chosen, np.int64)


def _pieces(template: str) -> list[tuple[str, bool]]:
    """Returns what a sentence is joined of, and whether each piece is the name of a slot."""
    parts = re.split(r"\{(\w+)\}", template)
    return [(part, at % 2 == 1) for at, part in enumerate(parts) if part or at % 2]


def read_triples(unit: Unit, source: Triples, limits: Limits) -> Iterator[Batch]:
    """Yields documents of sentences, and the lines that are no triples; ids hold the offset of the first line.

    Lines about one subject that two units share make a document in each of them.
    """
    origin = Origin(unit.path, name_of(unit.path), source, limits)
    try:
        version = _version(unit.path, limits)
        if version:
            yield nothing_but(origin.bad(0, f"the file holds {version}"))
            return
        with Stream(unit.path, limits, first_byte(unit.start)) as stream:
            yield from _documents(stream, unit, origin, source, version is not None)
    except Unopenable as error:
        yield nothing_but(origin.bad(0, str(error)))


def _version(path: str, limits: Limits) -> str | None:
    """Returns what is wrong with the version that a file names; None of a plain file."""
    with Stream(path, limits) as stream:
        first = stream.read(200).removeprefix(BYTE_ORDER_MARK).partition(b"\n")[0]
    head = first.decode("utf-8", "replace").rstrip("\r")
    if head == ENTITIES:
        return "a graph's entities, not its triples: name graph-SPLIT.tsv alone"
    return version_of(head)


def _documents(stream: Stream, unit: Unit, origin: Origin, source: Triples, is_escaped: bool) -> Iterator[Batch]:
    verbaliser, joining = Verbaliser(source.templates, source.language), _Joining(origin, source)
    is_first = is_escaped and unit.start == 0
    for lines in line_blocks(stream, unit.start, unit.stop, origin.limits.max_record_bytes):
        rows = Rows(lines, origin)
        if is_first and len(rows.keys):
            rows.drop_first()
            is_first = False
        columns = _columns(rows, is_escaped)
        bad, damage = rows.bad, rows.damage
        for start in range(0, max(1, len(rows.keys)), _ROWS):
            subjects, relations, objects = (column.slice(start, _ROWS) for column in columns)
            chinese = verbaliser.chinese(subjects, objects)
            said = verbaliser.sentences((subjects, relations, objects), chinese)
            keys = pa.array(rows.keys[start : start + _ROWS])
            table = pa.table([subjects, pa.array(chinese), said, keys], names=_Joining.COLUMNS)
            yield joining.add(table, bad, damage)
            bad, damage = [], []
    yield joining.rest()


def _columns(rows: Rows, is_escaped: bool) -> list[Any]:
    """Returns subjects, relations and objects; lines that lack one are left out."""
    rows.leave_shorter(len(SLOTS), "a triple has 3")
    columns = [pc.list_element(rows.cells, at) for at in range(len(SLOTS))]
    if is_escaped:
        columns = [unescaped_column(column) for column in columns]
    columns = [pc.utf8_trim_whitespace(column) for column in columns]
    empty = np.stack([np.asarray(pc.equal(pc.binary_length(column), 0), bool) for column in columns])
    rows.leave(empty.any(0), lambda at: f"the {SLOTS[int(empty[:, at].argmax())]} of the triple is empty")
    keep = pa.array(~empty.any(0))
    return [column.filter(keep) for column in columns]


class _Joining:
    """Joins neighbouring sentences about one subject; holds the last subject's until another one follows."""

    COLUMNS = ("subject", "chinese", "sentence", "key")

    def __init__(self, origin: Origin, source: Triples) -> None:
        self._origin, self._source = origin, source
        types = (pa.string(), pa.bool_(), pa.string(), pa.int64())
        self._held = pa.schema(list(zip(self.COLUMNS, types, strict=True))).empty_table()

    def add(self, table: Any, bad: list[BadRecord], damage: list[BadRecord]) -> Batch:
        """Returns the documents that are whole now."""
        table = pa.concat_tables([self._held, table]).combine_chunks()
        last = len(table)
        if self._source.group and last:
            last = int(np.flatnonzero(self._first_of_subject(table))[-1])
            if len(table) - last > _ROWS:
                last = len(table)  # more than any memory should hold of one subject
        self._held = table.slice(last)
        return self._batch(table.slice(0, last), bad, damage)

    def rest(self) -> Batch:
        """Returns the documents of what is held."""
        return self._batch(self._held, [], [])

    def _first_of_subject(self, table: Any) -> Mask:
        first = np.ones(len(table), bool)
        if self._source.group and len(table) > 1:
            changes = [
                np.asarray(pc.not_equal(column.slice(1), column.slice(0, len(table) - 1)), bool)
                for column in (_whole(table["subject"]), _whole(table["chinese"]))
            ]
            first[1:] = changes[0] | changes[1]
        return first

    def _batch(self, table: Any, bad: list[BadRecord], damage: list[BadRecord]) -> Batch:
        table = table.combine_chunks()
        sentences = _whole(table["sentence"])
        starts = np.flatnonzero(self._first_of_document(table, sentences))
        lists = pa.ListArray.from_arrays(pa.array(np.append(starts, len(table)), pa.int32()), sentences)
        chinese = np.asarray(_whole(table["chinese"]), bool)[starts]
        between, languages = (
            pa.array(np.where(chinese, each["zh"], each["en"]), pa.string())
            for each in (_BETWEEN, dict(zip(LANGUAGES, LANGUAGES, strict=True)))
        )
        keys = np.asarray(_whole(table["key"]), np.int64)[starts]
        texts = pc.binary_join(lists, between)
        return batch_of(self._origin, keys, texts, languages, offsets=keys, bad=bad, damage=damage)

    def _first_of_document(self, table: Any, sentences: Any) -> Mask:
        """Returns which sentences begin a document: a subject's first, and those before which there is enough."""
        first = self._first_of_subject(table)
        if not self._source.group or not len(table):
            return first
        sizes = np.asarray(pc.utf8_length(sentences), np.int64)
        before = np.cumsum(sizes) - sizes
        subject = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
        part = (before - before[subject]) // self._source.document_characters
        first[1:] |= part[1:] != part[:-1]
        return first


def _whole(column: Any) -> Any:
    """Returns a column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])
