"""The documents of a unit of work, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmyard.sources.config import DocumentSource, Files, HubDataset, Limits, SmallWorldDocuments, TaskTexts, Triples
from llmyard.sources.planning import Unit, format_of, world_of
from llmyard.sources.records import Batch

if TYPE_CHECKING:
    from llmyard.sources.batches import Origin

DEFAULT_LIMITS = Limits()
_SYNTHETIC_BATCH = 5000


def read(unit: Unit, source: DocumentSource, limits: Limits = DEFAULT_LIMITS) -> Iterator[Batch]:
    """Yields the documents of a unit, and what could not be read, in batches of some 8 MiB of text.

    Args:
        unit: What to read.
        source: The source it belongs to.
        limits: What a record or a file may be.

    Raises:
        DataError: The file is not there, or the disk or the network failed.
    """
    if isinstance(source, SmallWorldDocuments):
        yield from _synthetic(unit, source)
    elif isinstance(source, HubDataset):
        from llmyard.sources.hub import read_shard

        yield from read_shard(unit.path, unit.start, source, limits)
    elif isinstance(source, TaskTexts):
        from llmyard.sources.task_texts import read_task_texts

        yield from read_task_texts(unit, source, limits)
    elif isinstance(source, Triples):
        from llmyard.sources.verbalising import read_triples

        yield from read_triples(unit, source, limits)
    else:
        yield from _file(unit, source, limits)


def _synthetic(unit: Unit, source: SmallWorldDocuments) -> Iterator[Batch]:
    import pyarrow as pa

    from llmyard.sources.batches import SCHEMA

    world = world_of(source)
    for start in range(unit.start, unit.stop, _SYNTHETIC_BATCH):
        documents = [world.document(index) for index in range(start, min(start + _SYNTHETIC_BATCH, unit.stop))]
        rows = [[each.id, each.text, source.name, each.language, ""] for each in documents]
        yield Batch(pa.table(list(map(list, zip(*rows, strict=True))), schema=SCHEMA), [])


def _file(unit: Unit, source: Files, limits: Limits) -> Iterator[Batch]:
    from llmyard.sources.batches import Origin, name_of, nothing_but
    from llmyard.sources.streams import Unopenable

    origin = Origin(unit.path, name_of(unit.path), source, limits)
    try:
        yield from _formatted(format_of(unit.path, source), unit, origin, source)
    except Unopenable as error:
        yield nothing_but(origin.bad(0, str(error)))


def _formatted(form: str, unit: Unit, origin: Origin, source: Files) -> Iterator[Batch]:
    from llmyard.sources.fields import Fields
    from llmyard.sources.formats.csv_records import read_comma_separated
    from llmyard.sources.formats.html import read_page
    from llmyard.sources.formats.json_records import read_json
    from llmyard.sources.formats.jsonl import read_json_lines
    from llmyard.sources.formats.lines import first_byte
    from llmyard.sources.formats.parquet import read_parquet
    from llmyard.sources.formats.text import read_text
    from llmyard.sources.formats.tsv import read_tab_separated
    from llmyard.sources.formats.warc import read_archive
    from llmyard.sources.streams import Stream

    fields, start, stop = Fields.of(source), unit.start, unit.stop
    if form == "parquet":
        yield from read_parquet(unit.path, start, stop, origin, fields)
        return
    with Stream(unit.path, origin.limits, first_byte(start)) as stream:
        if form == "jsonl":
            yield from read_json_lines(stream, start, stop, origin, fields)
        elif form == "tsv":
            yield from read_tab_separated(stream, start, stop, origin, source)
        elif form == "csv":
            yield from read_comma_separated(stream, origin, fields, source.delimiter)
        elif form == "json":
            yield from read_json(stream, origin, fields)
        elif form == "html":
            yield from read_page(stream, origin)
        elif form in ("warc", "wet"):
            yield from read_archive(stream, origin, form)
        else:
            yield from read_text(stream, origin, source)
