"""Knowledge-graph construction: entities and triples as spans of the text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from llmyard.tasks.config import KnowledgeGraph
from llmyard.tasks.task import Annotation, BadExample, Decoding, EncodedExample, Entity, Labels, Record, need
from llmyard.tokens.tokenizer import Encoded, Tokenizer

OUTSIDE = 0


class KnowledgeGraphTask:
    """Records: ``text``, ``entities`` [{text, type, start, end}], ``triples`` [{subject, relation, object}].

    Every token gets a BIO tag; a relation holds between the first tokens of two mentions.
    """

    name = "knowledge_graph"
    revision = 1
    output: Literal["text", "spans"] = "spans"
    metric = "triple_f1"
    decoding = Decoding()

    def __init__(self, config: KnowledgeGraph) -> None:
        self._config = config

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

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Returns ``entity_types`` and ``relations``."""
        types = {entity["type"] for record in records for entity in record["entities"]}
        relations = {triple["relation"] for record in records for triple in record["triples"]}
        return {"entity_types": sorted(types), "relations": sorted(relations)}

    def text(self, record: Record) -> str:
        """Returns the record's text."""
        return str(record["text"])

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the text's ids; there is nothing around it."""
        return tokenizer.encode(record["text"])[: self._config.max_tokens]

    def encode(self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels) -> list[EncodedExample | None]:
        """Returns ids, BIO tags and relation pairs; None where the text is too long or a span cuts a token."""
        types = {name: index for index, name in enumerate(labels["entity_types"])}
        relations = {name: index for index, name in enumerate(labels["relations"])}
        encodings = tokenizer.encode_with_spans([record["text"] for record in records])
        return [self._encode(*item, types, relations) for item in zip(records, encodings, strict=True)]

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

    def score(self, predictions: Sequence[Annotation], records: Sequence[Record]) -> dict[str, float]:
        """Returns precision, recall and F1 of triples and of entity spans, over all documents."""
        from llmyard.metrics.triples import micro

        right = [
            {(item["subject"], item["relation"], item["object"]) for item in record["triples"]} for record in records
        ]
        said = [set(prediction.triples) for prediction in predictions]
        spans = [{(item["start"], item["end"], item["type"]) for item in record["entities"]} for record in records]
        found = [{(item.start, item.end, item.type) for item in prediction.entities} for prediction in predictions]
        triples, entities = micro(said, right), micro(found, spans)
        return {
            "triple_f1": triples.f1,
            "triple_precision": triples.precision,
            "triple_recall": triples.recall,
            "entity_f1": entities.f1,
        }

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Annotation]]:
        """Returns what regular expressions for the commonest patterns find."""
        from llmyard.sources.smallworld.baselines import regex_triples

        return "regular expressions", [
            Annotation((), tuple(regex_triples(record["text"], record.get("language", "en")))) for record in test
        ]


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
