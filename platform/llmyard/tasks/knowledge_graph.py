"""Knowledge-graph construction: entities and triples, as spans of the text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from llmyard.metrics.measure import Measure, f1_of, mean, precision_of
from llmyard.tasks.config import KnowledgeGraph
from llmyard.tasks.tagging import Tagging
from llmyard.tasks.task import (
    Annotation,
    BadExample,
    Decoding,
    EncodedExample,
    Entity,
    Form,
    Labels,
    Marked,
    Output,
    Record,
    Task,
    need,
)
from llmyard.tasks.writing import Writing
from llmyard.tokens.tokenizer import Encoded, Tokenizer

OUTSIDE = 0


def knowledge_graph(config: KnowledgeGraph, form: Form) -> Task:
    """Returns the task for a form of model."""
    return TaggedGraph(config) if form == "encoder" else WrittenGraph(config)


class _Graph:
    """Records: ``text``, ``entities`` [{text, type, start, end}], ``triples`` [{subject, relation, object}]."""

    name = "knowledge_graph"
    metric = "triple_f1"

    def check(self, record: Record) -> Record:
        """Returns the record if its spans lie where they say and its triples join named entities."""
        text = need(record, "text", str, self.name)
        names = set()
        for entity in need(record, "entities", list, self.name):
            if text[entity["start"] : entity["end"]] != entity["text"]:
                found = text[entity["start"] : entity["end"]]
                raise BadExample(
                    f"entity {entity['text']!r} is said to stand where {found!r} stands", "mend its offsets"
                )
            names.add(entity["text"])
        spans = sorted((entity["start"], entity["end"]) for entity in record["entities"])
        for (_, end), (start, _) in pairwise(spans):
            if start < end:
                raise BadExample(f"two entities overlap at character {start}", "keep one of them")
        for triple in need(record, "triples", list, self.name):
            for end in ("subject", "object"):
                if triple[end] not in names:
                    raise BadExample(f"{end} {triple[end]!r} of a triple is no entity of the text", "add the entity")
        return record

    def cases(self, record: Record) -> list[Record]:
        """Returns the record: it is one text."""
        return [record]

    def figures(self, predictions: Sequence[Annotation | None], records: Sequence[Record]) -> dict[str, float]:
        """There are none but the measures."""
        return {}

    def entities(self, found: Annotation | None, record: Record) -> tuple[set[Any], set[Any]]:
        """Returns the entities that were found and that are there, as they are compared."""
        raise NotImplementedError

    def measures(self, predictions: Sequence[Annotation | None], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns precision, recall and F1 of triples, F1 of entities, over all texts."""
        said, right = [_triples(each) for each in predictions], [_expected(record) for record in records]
        both = [len(one & other) for one, other in zip(said, right, strict=True)]
        named = [self.entities(each, record) for each, record in zip(predictions, records, strict=True)]
        return {
            "triple_f1": f1_of(both, [len(each) for each in said], [len(each) for each in right]),
            "triple_precision": precision_of(both, [len(each) for each in said]),
            "triple_recall": precision_of(both, [len(each) for each in right]),
            "entity_f1": f1_of(
                [len(one & other) for one, other in named],
                [len(one) for one, _ in named],
                [len(other) for _, other in named],
            ),
        }

    def bucket(self, prediction: Annotation | None, record: Record) -> str:
        """Returns what is wrong with the triples of a text."""
        if prediction is None:
            return "no valid JSON"
        said, right = _triples(prediction), _expected(record)
        if said == right:
            return "right"
        ends = {(one, two) for one, _, two in right}
        wrong = said - right
        if any((one, two) in ends for one, _, two in wrong):
            return "wrong relation"
        if any((two, one) in ends for one, _, two in wrong):
            return "subject and object exchanged"
        if wrong:
            return "triple that is not there"
        return "triple missed"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns what regular expressions for the commonest patterns find."""
        from llmyard.sources.smallworld.baselines import regex_triples

        return "regular expressions", [
            Annotation((), tuple(regex_triples(record["text"], record.get("language", "en")))) for record in test
        ]


def _triples(found: Annotation | None) -> set[tuple[str, str, str]]:
    return set(found.triples) if found is not None else set()


def _expected(record: Record) -> set[tuple[str, str, str]]:
    return {(item["subject"], item["relation"], item["object"]) for item in record["triples"]}


def names_of(records: Sequence[Record]) -> dict[str, list[str]]:
    """Returns the types of entities and the relations that occur, sorted."""
    types = {entity["type"] for record in records for entity in record["entities"]}
    relations = {triple["relation"] for record in records for triple in record["triples"]}
    return {"entity_types": sorted(types), "relations": sorted(relations)}


class TaggedGraph(_Graph, Tagging):
    """For a model that tags: every token gets a BIO tag; a relation holds between the first tokens of two mentions."""

    revision = 1

    def __init__(self, config: KnowledgeGraph) -> None:
        self._config = config

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns ``entity_types`` and ``relations``."""
        return names_of(records)

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Returns the text; there is nothing around it."""
        return [Marked(str(record["text"]))]

    def prediction(self, record: Record, answer: Any) -> Annotation:
        """Returns what was found."""
        (found,) = answer
        return Annotation(
            tuple(Entity(**entity) for entity in found["entities"]), tuple(tuple(triple) for triple in found["triples"])
        )

    def entities(self, found: Annotation | None, record: Record) -> tuple[set[Any], set[Any]]:
        """Returns spans with their types."""
        said = found.entities if found is not None else ()
        return (
            {(item.start, item.end, item.type) for item in said},
            {(item["start"], item["end"], item["type"]) for item in record["entities"]},
        )

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns ids, BIO tags and relation pairs; None where the text is too long or a span cuts a token."""
        types = {name: index for index, name in enumerate(labels["entity_types"])}
        relations = {name: index for index, name in enumerate(labels["relations"])}
        encodings = tokenizer.encode_with_spans([record["text"] for record in records])
        made = [self._encode(*item, types, relations) for item in zip(records, encodings, strict=True)]
        return [None if each is None else [each] for each in made]

    def _encode(
        self, record: Record, encoded: Encoded, types: dict[str, int], relations: dict[str, int]
    ) -> EncodedExample | None:
        if len(encoded.ids) > self._config.max_tokens:
            return None
        tags = [OUTSIDE] * len(encoded.ids)
        starts: dict[str, list[int]] = {}
        for entity in record["entities"]:
            tokens = tokens_of(record["text"], encoded, entity["start"], entity["end"])
            if not tokens:
                return None
            begin = 1 + 2 * types[entity["type"]]
            for token in tokens:
                tags[token] = begin if token == tokens[0] else begin + 1
            starts.setdefault(entity["text"], []).append(tokens[0])
        pairs: list[int] = []
        for triple in record["triples"]:
            for subject in starts[triple["subject"]]:
                for object_ in starts[triple["object"]]:
                    pairs += [relations[triple["relation"]], subject, object_]
        return EncodedExample(encoded.ids, labels=tags, pairs=tuple(pairs))


class WrittenGraph(_Graph, Writing):
    """For a model that writes: ``text <separator> {"entities": [[text, type]], "triples": [[s, r, o]]} <end>``.

    Decoding is bound to JSON of this shape where the relations and types are known (``json_schema``).
    """

    revision = 1
    output: Output = "text"

    def __init__(self, config: KnowledgeGraph) -> None:
        super().__init__(config.max_tokens, config.max_target_tokens)

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns ``entity_types`` and ``relations``, to which the JSON is bound."""
        return names_of(records)

    def decoding(self, labels: Labels) -> Decoding:
        """Returns decoding bound to JSON of the shape, with types and relations that were learned."""
        schema = graph_schema(labels.get("entity_types", ()), labels.get("relations", ()))
        return Decoding(max_new_tokens=self._target, json_schema=schema)

    def parts(self, record: Record) -> tuple[str, ...]:
        """Returns the text."""
        return (record["text"],)

    def target(self, record: Record) -> str:
        """Returns compact JSON, everything in the order of the text."""
        named = dict.fromkeys((entity["text"], entity["type"]) for entity in sorted(record["entities"], key=_start))
        triples = dict.fromkeys((each["subject"], each["relation"], each["object"]) for each in record["triples"])
        return json.dumps(
            {"entities": list(named), "triples": list(triples)}, ensure_ascii=False, separators=(",", ":")
        )

    def prediction(self, record: Record, answer: Any) -> Annotation | None:
        """Returns what the JSON says; None where it is none of the shape."""
        try:
            found = json.loads(answer)
            entities = [(str(name), str(kind)) for name, kind in found["entities"]]
            triples = [(str(one), str(relation), str(two)) for one, relation, two in found["triples"]]
        except (ValueError, TypeError, KeyError):
            return None
        text = str(record["text"])
        placed = tuple(
            Entity(name, kind, text.find(name), text.find(name) + len(name)) for name, kind in dict.fromkeys(entities)
        )
        return Annotation(placed, tuple(dict.fromkeys(triples)))

    def entities(self, found: Annotation | None, record: Record) -> tuple[set[Any], set[Any]]:
        """Returns names with their types: a writer says what, not where."""
        said = found.entities if found is not None else ()
        return (
            {(item.text, item.type) for item in said},
            {(item["text"], item["type"]) for item in record["entities"]},
        )

    def measures(self, predictions: Sequence[Annotation | None], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns what all graphs are measured by, and the share of answers that are no valid JSON."""
        return super().measures(predictions, records) | {"invalid": mean([float(each is None) for each in predictions])}


def graph_schema(types: Sequence[str], relations: Sequence[str]) -> str:
    """Returns the JSON schema of a written graph; where no names are known, any will do."""

    def rows(*columns: Any) -> dict[str, Any]:
        row = {"type": "array", "prefixItems": list(columns), "items": False, "minItems": len(columns)}
        return {"type": "array", "items": row}

    name = {"type": "string", "minLength": 1}
    named = {"enum": list(types)} if types else name
    related = {"enum": list(relations)} if relations else name
    properties = {"entities": rows(name, named), "triples": rows(name, related, name)}
    shape = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return json.dumps(shape, ensure_ascii=False)


def _start(entity: Record) -> int:
    return int(entity["start"])


def tokens_of(text: str, encoded: Encoded, start: int, end: int) -> list[int]:
    """Returns the tokens that make up characters ``start`` to ``end``; [] if a token reaches across either border.

    A space before a word belongs to its token and does not count as reaching across.
    """
    chosen = [index for index, (low, high) in enumerate(encoded.spans) if low < end and high > start]
    if not chosen:
        return []
    first, last = encoded.spans[chosen[0]], encoded.spans[chosen[-1]]
    return chosen if not text[first[0] : start].strip() and last[1] <= end else []


def entities_of(text: str, encoded: Encoded, tags: Sequence[int], types: Sequence[str]) -> list[tuple[Entity, int]]:
    """Returns the entities that BIO tags mark, each with its first token.

    A tag that goes on with another type than the one before begins a new entity.
    """
    found: list[tuple[Entity, int]] = []
    current: tuple[int, int, int] | None = None  # type, first token, last token

    def close() -> None:
        if current is not None:
            kind, first, last = current
            low, high = encoded.spans[first][0], encoded.spans[last][1]
            while low < high and text[low].isspace():
                low += 1
            if low < high:
                found.append((Entity(text[low:high], types[kind], low, high), first))

    for index, tag in enumerate(tags):
        if tag == OUTSIDE:
            close()
            current = None
            continue
        kind, inside = divmod(tag - 1, 2)
        if inside and current is not None and current[0] == kind:
            current = (kind, current[1], index)
        else:
            close()
            current = (kind, index, index)
    close()
    return found


def merge_mentions(entities: Sequence[Entity], relations: Sequence[tuple[int, str, int]]) -> Annotation:
    """Returns the annotation of relations between mentions; each triple of names once, in the order of the text."""
    triples = dict.fromkeys((entities[one].text, name, entities[two].text) for one, name, two in sorted(relations))
    return Annotation(tuple(entities), tuple(triples))
