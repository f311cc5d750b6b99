"""One knowledge graph out of many extractions: names that mean one thing become one entity, triples are counted.

Which names are one is decided in this order, and the result depends on no order of documents or lines:

1. A table of aliases that the user gives, or a triple of a relation that is declared to name aliases, says so.
2. Names of one type are equal after :func:`folded`. A name's type is what most of its mentions say, of equally many the
   first in alphabetical order; names of unlike types are never joined by this.
3. A name that has no type, since only triples hold it, goes to the commonest entity that is spelled so.

All different names and triples are held in memory, with the documents of each.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import nsmallest
from typing import Any

from llmyard.core.errors import DataError
from llmyard.tasks.task import Annotation, Record, Task

MAX_DOCUMENTS = 20
Names = tuple[str, str]
Triple = tuple[str, str, str]
# A name that occurs, or an entry of the table of aliases that does not.
_Node = tuple[str, str]

_HAN = "\u3400-\u9fff\uf900-\ufaff"
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_JOINING = re.compile(r"['’‘ʼ`´\".“”]")  # U.S.A. is USA, O’Brien OBrien
_KEPT = "#&@%*"  # C is not C#
# Signs that belong to a number: between its digits, and the one before it: 5 degrees are not -5.
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s](?=\d)|(?<!\S)-(?=\d)")
_SPACES_BESIDE_HAN = re.compile(rf"(?<=[{_HAN}])\s+|\s+(?=[{_HAN}])")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in a document.

    Attributes:
        document: Its id.
        entities: (name, type) of each mention.
        triples: (subject, relation, object).
    """

    document: str
    entities: tuple[Names, ...]
    triples: tuple[Triple, ...]

    @classmethod
    def of(cls, document: str, found: Annotation) -> Extraction:
        """Returns what a prediction of the task ``knowledge_graph`` says of a document."""
        return cls(document, tuple((each.text, each.type) for each in found.entities), found.triples)


@dataclass(frozen=True, slots=True)
class GraphEntity:
    """A thing that names stand for.

    Attributes:
        name: Its commonest name, of equally common ones the longest, of these the first in alphabetical order.
        type: Of most mentions; "" where no mention has one.
        aliases: Its other names as they were written, sorted.
        mentions: How often any of its names was found as an entity; one a document where triples only hold it.
        documents: In how many it is named.
    """

    name: str
    type: str
    aliases: tuple[str, ...]
    mentions: int
    documents: int


@dataclass(frozen=True, slots=True)
class GraphTriple:
    """A relation between two entities, by their names.

    Attributes:
        count: How many documents say it.
        documents: The first of their ids in alphabetical order.
    """

    subject: str
    relation: str
    object: str
    count: int
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A knowledge graph.

    Attributes:
        entities: Sorted by name; every end of a triple is one.
        triples: Sorted by subject, relation, object.
    """

    entities: tuple[GraphEntity, ...]
    triples: tuple[GraphTriple, ...]


def graph_of(
    extractions: Iterable[Extraction],
    *,
    aliases: Iterable[Names] = (),
    alias_relations: Collection[str] = (),
    max_documents: int = MAX_DOCUMENTS,
) -> Graph:
    """Returns the graph that extractions make; one that is given twice counts once.

    Args:
        extractions: Several may be of one document.
        aliases: Pairs of names of one entity, as :func:`read_aliases` gives them: of names that are written so, or else
            of the commonest one that is equal after :func:`folded`. It is counts that choose the entity's name.
        alias_relations: Relations whose triples say that subject and object are one entity, such as ``又名``. They are
            no triples of the graph.
        max_documents: So many ids are kept of the documents that say a triple.

    Raises:
        DataError: A document has no id.
    """
    gathered = _Gathered(frozenset(alias_relations))
    for each in extractions:
        gathered.add(each)
    return gathered.graph(list(aliases), max_documents)


def extractions_of(task: Task, records: Sequence[Record], answers: Sequence[Any]) -> list[Extraction]:
    """Returns what a model's answers hold; those of no valid form hold nothing.

    Args:
        task: ``knowledge_graph``, for the model's form.
        records: As asked; a document's id is the record's ``id``, or else its number: ``#0``.
        answers: To each, as :meth:`llmyard.tasks.task.Task.prediction` takes them.
    """
    found = [task.prediction(record, answer) for record, answer in zip(records, answers, strict=True)]
    return [
        Extraction.of(str(record.get("id", f"#{at}")), each)
        for at, (record, each) in enumerate(zip(records, found, strict=True))
        if each is not None
    ]


def read_aliases(lines: Iterable[str], file: str = "the table of aliases") -> list[Names]:
    """Returns the pairs of a table ``alias<TAB>canonical``, a pair a line; empty lines are passed over.

    Args:
        lines: With or without line feeds.
        file: Its name in errors.

    Raises:
        DataError: A line does not hold two names.
    """
    pairs = []
    for number, line in enumerate(lines, 1):
        names = [cell.strip() for cell in line.rstrip("\r\n").removeprefix("\ufeff").split("\t")]
        if names == [""]:
            continue
        if len(names) != 2 or not all(names):
            raise DataError(f"{file}, line {number}: {line.strip()!r:.80} is no pair of names", "write alias<TAB>name")
        pairs.append((names[0], names[1]))
    return pairs


def folded(name: str) -> str:
    """Returns what two spellings of a name have in common.

    NFKC (full width becomes half width), no invisible signs, no case, simplified characters (OpenCC's table). Quotes
    and full stops go, other punctuation is a space, spaces are one, and none beside a Chinese character; signs between
    digits stay, and so do ``#&@%*`` and symbols such as ``+``. A name of nothing but punctuation keeps it.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = _simplified("".join(sign for sign in text if unicodedata.category(sign) != "Cf"))
    kept = {found.start() for found in _BETWEEN_DIGITS.finditer(text)}
    signs = [sign if at in kept else _without_punctuation(sign) for at, sign in enumerate(text)]
    spaced = " ".join("".join(signs).split())
    return _SPACES_BESIDE_HAN.sub("", spaced) or " ".join(text.split())


def _without_punctuation(sign: str) -> str:
    if sign in _KEPT or not unicodedata.category(sign).startswith("P"):
        return "" if _JOINING.match(sign) else sign  # ` and ´ are no punctuation to Unicode
    return "" if _JOINING.match(sign) else " "


def _simplified(text: str) -> str:
    return text if text.isascii() or not re.search(f"[{_HAN}]", text) else _converter()(text)


@cache
def _converter() -> Callable[[str], str]:
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


@dataclass(slots=True)
class _Seen:
    """Where a name was found: how often with each type ("" in triples only), and in which documents."""

    types: Counter[str] = field(default_factory=Counter)
    documents: set[str] = field(default_factory=set)

    @property
    def mentions(self) -> int:
        return self.types.total()


@dataclass(frozen=True, slots=True)
class _Set:
    """Names that are one entity.

    Attributes:
        names: The one that stands for all first, the others sorted.
        type: "" where none has one.
        keys: Their folded forms.
        mentions: Of all.
    """

    names: tuple[str, ...]
    type: str
    keys: frozenset[str]
    mentions: int


class _Joined:
    """Sets that are joined (union-find; Tarjan 1975)."""

    def __init__(self) -> None:
        self._parents: dict[_Node, _Node] = {}

    def root(self, node: _Node) -> _Node:
        """Returns what stands for the node's set."""
        parents = self._parents
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = parents.setdefault(parent, parent)
            node = parents[node]
        return node

    def join(self, one: _Node, other: _Node) -> bool:
        """Joins two nodes' sets; returns whether they were two."""
        first, second = self.root(one), self.root(other)
        self._parents[first] = second
        return first != second


class _Gathered:
    """All names and triples, as they are written."""

    def __init__(self, alias_relations: frozenset[str]) -> None:
        self._alias_relations = alias_relations
        self._names: dict[str, _Seen] = defaultdict(_Seen)
        self._triples: dict[Triple, set[str]] = defaultdict(set)
        self._aliases: set[Names] = set()
        self._done: set[bytes] = set()

    def add(self, extraction: Extraction) -> None:
        """Adds what was found in a document, unless it was added before."""
        document = _written(extraction.document)
        if not document:
            raise DataError("an extraction's document has no id", "give each document one")
        entities = sorted((name, _written(kind)) for name, kind in _all_written(extraction.entities) if name)
        triples = sorted({triple for triple in _all_written(extraction.triples) if all(triple)})
        digest = hashlib.blake2b(repr((document, entities, triples)).encode(), digest_size=16).digest()
        if digest in self._done:
            return
        self._done.add(digest)
        for name, kind in entities:
            self._names[name].types[kind] += 1
            self._names[name].documents.add(document)
        named = {name for name, _ in entities}
        for subject, relation, object_ in triples:
            for name in {subject, object_} - named:
                named.add(name)
                self._names[name].types[""] += 1
                self._names[name].documents.add(document)
            if relation in self._alias_relations:
                self._aliases.add((subject, object_))
            else:
                self._triples[subject, relation, object_].add(document)

    def graph(self, aliases: Sequence[Names], max_documents: int) -> Graph:
        """Returns the graph."""
        entities, canonical = [], {}
        for each in self._sets(aliases):
            canonical.update(dict.fromkeys(each.names, each.names[0]))
            documents = set().union(*(self._names[name].documents for name in each.names))
            entities.append(GraphEntity(each.names[0], each.type, each.names[1:], each.mentions, len(documents)))
        said: dict[Triple, set[str]] = defaultdict(set)
        for (subject, relation, object_), documents in self._triples.items():
            said[canonical[subject], relation, canonical[object_]] |= documents
        triples = (
            GraphTriple(*triple, len(documents), tuple(nsmallest(max_documents, documents)))
            for triple, documents in sorted(said.items())
        )
        return Graph(tuple(sorted(entities, key=lambda each: each.name)), tuple(triples))

    def _sets(self, aliases: Sequence[Names]) -> list[_Set]:
        """Returns the entities as sets of names."""
        keys = {name: folded(name) for name in self._names}
        joined = _Joined()
        for one, other in self._aliases:
            joined.join(("name", one), ("name", other))
        spelled: dict[str, list[str]] = defaultdict(list)
        for name, key in keys.items():
            spelled[key].append(name)
        for one, other in aliases:
            joined.join(self._entry(one, spelled), self._entry(other, spelled))
        while True:
            members: dict[_Node, list[str]] = defaultdict(list)
            for name in self._names:
                members[joined.root(("name", name))].append(name)
            sets = [self._set(names, keys) for names in members.values()]
            if not (_join_equal(sets, joined) or _join_untyped(sets, joined)):
                return sets

    def _entry(self, name: str, spelled: dict[str, list[str]]) -> _Node:
        """Returns the name that an entry of the table of aliases means, or the entry itself where none occurs."""
        name = _written(name)
        if name in self._names:
            return "name", name
        key = folded(name)
        return ("name", min(spelled[key], key=self._rank)) if key in spelled else ("entry", key)

    def _rank(self, name: str) -> tuple[int, int, str]:
        return -self._names[name].mentions, -len(name), name

    def _set(self, names: list[str], keys: dict[str, str]) -> _Set:
        first = min(names, key=self._rank)
        types = sum((self._names[name].types for name in names), Counter[str]())
        mentions = types.total()
        del types[""]
        kind = min(types, key=lambda each: (-types[each], each), default="")
        others = sorted(name for name in names if name != first)
        return _Set((first, *others), kind, frozenset(keys[name] for name in names), mentions)


def _join_equal(sets: Sequence[_Set], joined: _Joined) -> bool:
    """Joins sets of one type that have a folded form in common; returns whether there were any."""
    first: dict[Names, str] = {}
    found = False
    for each in sets:
        for key in each.keys:
            other = first.setdefault((key, each.type), each.names[0])
            found |= joined.join(("name", each.names[0]), ("name", other))
    return found


def _join_untyped(sets: Sequence[_Set], joined: _Joined) -> bool:
    """Joins each set without a type to the commonest one that has a folded form in common; returns whether any was."""
    by_key: dict[str, list[_Set]] = defaultdict(list)
    for each in sets:
        for key in each.keys if each.type else ():
            by_key[key].append(each)
    found = False
    for each in sets:
        fit = [other for key in each.keys for other in by_key[key]] if not each.type else []
        if fit:
            best = min(fit, key=lambda other: (-other.mentions, -len(other.names[0]), other.names[0]))
            found |= joined.join(("name", each.names[0]), ("name", best.names[0]))
    return found


def _written(text: str) -> str:
    """Returns a text without spaces around it, and with halves of surrogate pairs, which no file takes, replaced."""
    return _HALF_PAIR.sub("\ufffd", text).strip()


def _all_written(rows: Iterable[tuple[str, ...]]) -> Iterable[Any]:
    return (tuple(map(_written, row)) for row in rows)
