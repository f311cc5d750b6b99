"""A knowledge graph as files: two tab-separated tables that are read back, and RDF Turtle.

``triples.tsv`` holds subject, relation, object, count and documents, ``entities.tsv`` name, type, mentions, documents
and aliases; what the cells escape is said in :mod:`llmyard.sources.formats.triples`. The source ``kind: triples`` of
``prepare`` reads the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.formats.triples import ENTITIES, SEPARATOR, TRIPLES, escaped, unescaped, version_of
from llmyard.tasks.graph import Graph, GraphEntity, GraphTriple
from llmyard.text.script import language_by_script

BASE = "urn:llmyard:graph:"
_PREFIXES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "skos": "http://www.w3.org/2004/02/skos/core#",
}
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|^`\\]*[/#:]")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_ESCAPED = re.compile(r"[\x00-\x1f\"\\\x7f]")


def triple_lines(graph: Graph) -> Iterator[str]:
    """Yields the lines of ``triples.tsv``."""
    yield f"{TRIPLES}\n"
    for each in graph.triples:
        yield _line([each.subject, each.relation, each.object, str(each.count)], each.documents)


def entity_lines(graph: Graph) -> Iterator[str]:
    """Yields the lines of ``entities.tsv``."""
    yield f"{ENTITIES}\n"
    for each in graph.entities:
        yield _line([each.name, each.type, str(each.mentions), str(each.documents)], each.aliases)


def read_graph(triples: Iterable[str], entities: Iterable[str]) -> Graph:
    """Returns the graph of two tables.

    Args:
        triples: Lines of ``triples.tsv``.
        entities: Lines of ``entities.tsv``.

    Raises:
        DataError: A table is none of this version, or a line is no row of it.
    """
    things = _rows(entities, ENTITIES, 2)
    facts = _rows(triples, TRIPLES, 3)
    return Graph(
        tuple(GraphEntity(name, kind, items, *numbers) for (name, kind), numbers, items in things),
        tuple(GraphTriple(one, relation, two, count, items) for (one, relation, two), (count,), items in facts),
    )


def turtle_lines(graph: Graph, base: str = BASE) -> Iterator[str]:
    """Yields the graph as RDF 1.1 Turtle, a statement a line.

    Entities, types and relations are ``<base>entity/…``, ``<base>type/…`` and ``<base>relation/…``, percent-encoded.
    An entity has ``rdf:type`` (where it has a type), ``rdfs:label`` and a ``skos:altLabel`` for each alias; types are
    ``rdfs:Class``, relations ``rdf:Property``, with labels too. Labels are ``@zh`` or ``@en`` by their letters. Counts
    and documents are in the tables only.

    Args:
        graph: Any.
        base: An absolute IRI that ends in ``/``, ``#`` or ``:``.

    Raises:
        RequestError: The base is none.
    """
    if not _ABSOLUTE.fullmatch(base):
        raise RequestError(f"{base!r} is no base of IRIs", "give an absolute one such as https://example.org/graph/")
    for prefix, iri in _PREFIXES.items():
        yield f"@prefix {prefix}: <{iri}> .\n"
    for kind in sorted({each.type for each in graph.entities if each.type}):
        yield f"{_iri(base, 'type', kind)} a rdfs:Class ; rdfs:label {_literal(kind)} .\n"
    for relation in sorted({each.relation for each in graph.triples}):
        yield f"{_iri(base, 'relation', relation)} a rdf:Property ; rdfs:label {_literal(relation)} .\n"
    for entity in graph.entities:
        said = [f"a {_iri(base, 'type', entity.type)}"] if entity.type else []
        said += [f"rdfs:label {_literal(entity.name)}"]
        said += [f"skos:altLabel {_literal(alias)}" for alias in entity.aliases]
        yield f"{_iri(base, 'entity', entity.name)} {' ; '.join(said)} .\n"
    for each in graph.triples:
        ends = [_iri(base, "entity", end) for end in (each.subject, each.object)]
        yield f"{ends[0]} {_iri(base, 'relation', each.relation)} {ends[1]} .\n"


def _line(cells: Sequence[str], items: Sequence[str]) -> str:
    return "\t".join([*map(escaped, cells), SEPARATOR.join(map(escaped, items))]) + "\n"


def _rows(
    lines: Iterable[str], head: str, names: int
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]]:
    """Yields the texts, the numbers and the list of each row.

    Args:
        lines: With or without line feeds.
        head: The first one.
        names: How many texts a row begins with.
    """
    width, stripped = len(head.split(",")), (line.rstrip("\r\n") for line in lines)
    first = next(stripped, "")
    if first != head:
        raise DataError(f"line 1 is {version_of(first) or first!r:.100}", f"the table's first line is {head!r}")
    for number, line in enumerate(stripped, 2):
        cells = line.split("\t")
        numbers = cells[names:-1]
        if len(cells) != width or not all(each.isdecimal() and each.isascii() for each in numbers):
            raise DataError(
                f"line {number}: {line!r:.100} is no row of the table", f"its columns: {head.split(':')[1]}"
            )
        items = cells[-1].split(SEPARATOR) if cells[-1] else []
        yield tuple(map(unescaped, cells[:names])), tuple(map(int, numbers)), tuple(map(unescaped, items))


def _iri(base: str, kind: str, name: str) -> str:
    path = quote(name, safe="")
    # A segment of dots would lead out of the path.
    return f"<{base}{kind}/{path.replace('.', '%2E') if not path.strip('.') else path}>"


def _literal(text: str) -> str:
    said = _ESCAPED.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04X}"), text)
    return f'"{said}"@{language_by_script(text)}'
