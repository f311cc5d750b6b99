"""One graph out of many extractions: what is one entity, what is counted, and files that give the graph back."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
import rdflib
from hypothesis import given, settings
from hypothesis import strategies as st
from rdflib.namespace import RDF, RDFS, SKOS

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.formats.triples import ENTITIES, TRIPLES
from llmyard.sources.smallworld import SmallWorld
from llmyard.tasks.config import KnowledgeGraph
from llmyard.tasks.graph import (
    Extraction,
    Graph,
    GraphEntity,
    GraphTriple,
    extractions_of,
    folded,
    graph_of,
    read_aliases,
)
from llmyard.tasks.graph_files import BASE, entity_lines, read_graph, triple_lines, turtle_lines
from llmyard.tasks.knowledge_graph import TaggedGraph, WrittenGraph


def found(document: str, entities: str = "", *triples: tuple[str, str, str]) -> Extraction:
    """Returns an extraction of entities written ``name:type, name:type``."""
    named = [each.strip().rsplit(":", 1) for each in entities.split(",") if each]
    return Extraction(document, tuple((name, kind) for name, kind in named), triples)


def named(graph: Graph) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {each.name: (each.type, each.aliases) for each in graph.entities}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ｍａｌｏ", "malo"), ("Kora  Town", "kora town"), ("New-York", "new york"), ("O’Brien", "O'Brien"),
        ("U.S.A.", "USA"), ("马洛·科", "马洛・科"), ("科拉 镇", "科拉镇"), ("臺灣大學", "台湾大学"),
        ("Straße", "STRASSE"), ("《红楼梦》", "红楼梦"), ("ｶﾀ", "カタ"), ("a\u200bb", "ab"),
        ("（北京）银行", "(北京)銀行"),
    ],
)  # fmt: skip
def test_spellings_of_one_name_are_equal_when_folded(one: str, other: str) -> None:
    assert folded(one) == folded(other)
    assert folded(folded(one)) == folded(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("C", "C#"), ("C", "C++"), ("1.5", "15"), ("Jo Anne", "Joanne"), ("!!", "??"), ("张三", "张四"), ("A&B", "AB")],
)
def test_other_names_are_not(one: str, other: str) -> None:
    assert folded(one) != folded(other)


def test_spellings_are_one_entity_with_its_commonest_name() -> None:
    graph = graph_of(
        [
            found("d1", "Malo:person, Kora Town:place", ("Malo", "lives_in", "Kora Town")),
            found("d2", "ＭＡＬＯ:person, Malo:person", ("ＭＡＬＯ", "lives_in", "kora-town")),
            found("d3", "kora town:place", ("Malo", "born_in", "kora town")),
        ]
    )
    assert graph.entities == (
        # Equally common and long: the first in alphabetical order.
        GraphEntity("Kora Town", "place", ("kora town", "kora-town"), 3, 3),
        GraphEntity("Malo", "person", ("ＭＡＬＯ",), 4, 3),
    )
    assert graph.triples == (
        GraphTriple("Malo", "born_in", "Kora Town", 1, ("d3",)),
        GraphTriple("Malo", "lives_in", "Kora Town", 2, ("d1", "d2")),
    )


def test_the_type_is_that_of_most_mentions_and_unlike_types_stay_apart() -> None:
    graph = graph_of([found("d1", "苹果:公司, 苹果:公司, 苹果:水果, Apple:company, apple:fruit, APPLE:fruit")])
    assert named(graph) == {
        "苹果": ("公司", ()), "Apple": ("company", ()), "APPLE": ("fruit", ("apple",)),
    }  # fmt: skip
    tie = graph_of([found("d1", "a:y, a:x")])
    assert named(tie) == {"a": ("x", ())}


def test_a_name_without_a_type_goes_to_the_commonest_that_is_spelled_so() -> None:
    graph = graph_of(
        [
            found("d1", "Apple:company, Apple:company, apple:fruit"),
            found("d2", "", ("ＡＰＰＬＥ", "makes", "phones"), ("Phones", "need", "power")),
        ]
    )
    assert named(graph) == {
        "Apple": ("company", ("ＡＰＰＬＥ",)), "apple": ("fruit", ()), "Phones": ("", ("phones",)), "power": ("", ()),
    }  # fmt: skip
    assert {each.name: each.mentions for each in graph.entities} == {"Apple": 3, "apple": 1, "Phones": 2, "power": 1}


def test_a_table_of_aliases_joins_names_of_any_type() -> None:
    extractions = [
        found("d1", "中华人民共和国:country, 中国:country, 中国:country", ("北京", "capital_of", "中华人民共和国")),
        found("d2", "China:place", ("北京", "capital_of", "China")),
    ]
    table = read_aliases(["\ufeff中华人民共和国\t中国\n", "\n", "CHINA\t中国\r\n", "PRC\tCN", "中國\tCN\n"])
    assert table[2] == ("PRC", "CN")
    graph = graph_of(extractions, aliases=table)
    assert named(graph)["中国"] == ("country", ("China", "中华人民共和国"))
    assert graph.triples == (GraphTriple("北京", "capital_of", "中国", 2, ("d1", "d2")),)
    # Entries that stand nowhere still join what is joined to them, and add no name.
    linked = graph_of(
        [found("d", "NYC:place, Big Apple:place")], aliases=[("nyc", "New York"), ("big apple", "new york")]
    )
    assert named(linked) == {"Big Apple": ("place", ("NYC",))}


def test_a_relation_may_say_that_two_names_are_one() -> None:
    extractions = [
        found("d1", "鲁迅:person, 周树人:person", ("周树人", "又名", "鲁迅"), ("鲁迅", "born_in", "绍兴")),
        found("d2", "周樹人:person", ("周樹人", "born_in", "绍兴")),
    ]
    graph = graph_of(extractions, alias_relations=["又名"])
    assert named(graph)["周树人"] == ("person", ("周樹人", "鲁迅"))
    assert graph.triples == (GraphTriple("周树人", "born_in", "绍兴", 2, ("d1", "d2")),)
    assert any(each.relation == "又名" for each in graph_of(extractions).triples)


def test_so_many_documents_are_kept_and_all_counted() -> None:
    graph = graph_of([found(f"d{at:02d}", "", ("a", "r", "b")) for at in range(30)], max_documents=3)
    assert graph.triples == (GraphTriple("a", "r", "b", 30, ("d00", "d01", "d02")),)
    assert graph.entities[0] == GraphEntity("a", "", (), 30, 30)


def test_what_says_nothing_is_left_out() -> None:
    odd = Extraction(" d ", ((" ", "x"), ("a ", " x ")), (("a", " ", "b"), ("", "r", "b"), ("\ud800", "r", "a")))
    graph = graph_of([odd])
    assert named(graph) == {"a": ("x", ()), "\ufffd": ("", ())}
    assert graph.triples == (GraphTriple("\ufffd", "r", "a", 1, ("d",)),)
    assert graph_of([]) == Graph((), ())
    with pytest.raises(DataError, match="has no id"):
        graph_of([found(" ")])


def test_a_table_of_aliases_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.tsv, line 2: 'b' is no pair"):
        read_aliases(["a\tb", "b"], "a.tsv")
    with pytest.raises(DataError, match="line 1"):
        read_aliases(["a\t \n"])


NAMES = st.sampled_from(["Malo", "malo", "ＭＡＬＯ", "马洛", "馬洛", "马 洛", "Kora", "kora", "ko-ra", "x"])
TYPES = st.sampled_from(["person", "place"])
EXTRACTIONS = st.lists(
    st.builds(
        Extraction,
        st.sampled_from(["d1", "d2", "d3", "d4"]),
        st.lists(st.tuples(NAMES, TYPES), max_size=4).map(tuple),
        st.lists(st.tuples(NAMES, st.sampled_from(["r", "又名"]), NAMES), max_size=3).map(tuple),
    ),
    max_size=6,
)
ALIASES = st.lists(st.tuples(NAMES, NAMES), max_size=2)


@settings(max_examples=300, deadline=None)
@given(EXTRACTIONS, ALIASES, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(
    extractions: list[Extraction], aliases: list[tuple[str, str]], chance: random.Random
) -> None:
    options: Any = {"alias_relations": ["又名"], "max_documents": 2}
    graph = graph_of(extractions, aliases=aliases, **options)
    mixed = [
        Extraction(each.document, tuple(chance.sample(each.entities, len(each.entities))), each.triples[::-1])
        for each in [*extractions, *extractions]
    ]
    chance.shuffle(mixed)
    assert graph_of(mixed, aliases=[pair[::-1] for pair in aliases[::-1]], **options) == graph


@settings(max_examples=300, deadline=None)
@given(EXTRACTIONS, ALIASES)
def test_a_graph_made_again_of_its_own_names_is_the_same(
    several: list[Extraction], aliases: list[tuple[str, str]]
) -> None:
    # Two of one document may become equal with their names, and would then count once.
    extractions = list({each.document: each for each in several}.values())
    graph = graph_of(extractions, aliases=aliases, alias_relations=["又名"])
    canonical = {name: each.name for each in graph.entities for name in (each.name, *each.aliases)}
    assert len(canonical) == sum(1 + len(each.aliases) for each in graph.entities)
    assert {end for each in graph.triples for end in (each.subject, each.object)} <= {
        each.name for each in graph.entities
    }
    again = graph_of(
        Extraction(
            each.document,
            tuple((canonical[name], kind) for name, kind in each.entities),
            tuple((canonical[one], relation, canonical[two]) for one, relation, two in each.triples if relation == "r"),
        )
        for each in extractions
    )
    kept = {name: kind for name, (kind, _) in named(graph).items()}
    # What only an alias triple named is not named again.
    assert all(kept[name] == kind and not names for name, (kind, names) in named(again).items())
    assert again.triples == graph.triples


@settings(max_examples=300, deadline=None)
@given(EXTRACTIONS)
def test_unlike_types_are_joined_by_aliases_only(extractions: list[Extraction]) -> None:
    votes: dict[str, Counter[str]] = {}
    for each in {(one.document, tuple(sorted(one.entities)), tuple(sorted(set(one.triples)))) for one in extractions}:
        for name, kind in each[1]:
            votes.setdefault(name, Counter())[kind] += 1
    majority = {name: min(kinds, key=lambda kind: (-kinds[kind], kind)) for name, kinds in votes.items()}
    for entity in graph_of(extractions).entities:
        names = (entity.name, *entity.aliases)
        assert {majority[name] for name in names if name in majority} in ({entity.type}, set())
        assert len({folded(name) for name in names}) == 1


TEXTS = st.text(
    alphabet=st.one_of(st.sampled_from("\\\t\n\r\0|\"'<>#%./ \u2028\x85中文é😀"), st.characters(codec="utf-8")),
    max_size=8,
)
NAMED = TEXTS.filter(lambda text: bool(text.strip()))
ANY_EXTRACTIONS = st.lists(
    st.builds(
        Extraction,
        NAMED,
        st.lists(st.tuples(NAMED, TEXTS), max_size=3).map(tuple),
        st.lists(st.tuples(NAMED, NAMED, NAMED), max_size=3).map(tuple),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(ANY_EXTRACTIONS)
def test_tables_give_the_same_graph_back(extractions: list[Extraction]) -> None:
    graph = graph_of(extractions)
    triples, entities = list(triple_lines(graph)), list(entity_lines(graph))
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in (*triples, *entities))
    assert read_graph(triples, entities) == graph
    whole = ["".join(lines).encode().decode().split("\n")[:-1] for lines in (triples, entities)]
    assert read_graph(*whole) == graph


@settings(max_examples=150, deadline=None)
@given(ANY_EXTRACTIONS)
def test_turtle_says_to_another_reader_what_the_graph_does(extractions: list[Extraction]) -> None:
    graph = graph_of(extractions)
    read = rdflib.Graph()
    read.parse(data="".join(turtle_lines(graph, "https://example.org/g/")), format="turtle")
    labels = {node: str(label) for node, label in read.subject_objects(RDFS.label)}
    assert len(labels) == len(set(read.subjects(RDFS.label, None)))
    assert {label.language for label in read.objects(None, RDFS.label)} <= {"zh", "en"}
    things = {node for node in labels if str(node).startswith("https://example.org/g/entity/")}
    assert sorted(labels[node] for node in things) == [each.name for each in graph.entities]
    aliases = {(labels[node], str(alias)) for node, alias in read.subject_objects(SKOS.altLabel)}
    assert aliases == {(each.name, alias) for each in graph.entities for alias in each.aliases}
    types = {(labels[node], labels[kind]) for node, kind in read.subject_objects(RDF.type) if node in things}
    assert types == {(each.name, each.type) for each in graph.entities if each.type}
    facts = {
        (labels[one], labels[relation], labels[two]) for one, relation, two in read if one in things and two in things
    }
    assert facts == {(each.subject, each.relation, each.object) for each in graph.triples}
    assert all(str(node).isascii() for node in labels)


def test_the_files_look_as_documented() -> None:
    graph = graph_of(
        [found("d1", "马洛:person, 马洛:person, 馬洛:person", ("马洛", "lives_in", "Kora\tTown"))], max_documents=1
    )
    assert list(triple_lines(graph)) == [f"{TRIPLES}\n", "马洛\tlives_in\tKora\\tTown\t1\td1\n"]
    assert list(entity_lines(graph)) == [f"{ENTITIES}\n", "Kora\\tTown\t\t1\t1\t\n", "马洛\tperson\t3\t1\t馬洛\n"]
    lines = list(turtle_lines(graph))
    assert (
        f'<{BASE}entity/%E9%A9%AC%E6%B4%9B> a <{BASE}type/person> ; rdfs:label "马洛"@zh ; skos:altLabel "馬洛"@zh .\n'
        in lines
    )
    assert f'<{BASE}entity/Kora%09Town> rdfs:label "Kora\\tTown"@en .\n' in lines
    assert lines[-1] == f"<{BASE}entity/%E9%A9%AC%E6%B4%9B> <{BASE}relation/lives_in> <{BASE}entity/Kora%09Town> .\n"
    assert len(rdflib.Graph().parse(data="".join(lines), format="turtle")) == 9
    dots = graph_of([found("d", "..:x")])
    assert f'<{BASE}entity/%2E%2E> a <{BASE}type/x> ; rdfs:label ".."@en .\n' in list(turtle_lines(dots))


def test_tables_of_other_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="line 1 is 'a"):
        read_graph(["a\tb\tc"], [ENTITIES])
    with pytest.raises(DataError, match="triples of format 2"):
        read_graph(["# llmyard triples 2: x"], [ENTITIES])
    with pytest.raises(DataError, match="line 1 is ''"):
        read_graph([], [ENTITIES])
    with pytest.raises(DataError, match=r"line 2: .* is no row"):
        read_graph([TRIPLES, "a\tb\tc\tmany\td"], [ENTITIES])
    for base in ("graph/", "http://example.org/g", "http://a b/", ""):
        with pytest.raises(RequestError, match="no base of IRIs"):
            list(turtle_lines(Graph((), ()), base))


@pytest.mark.parametrize("form", ["tagged", "written"])
def test_answers_of_a_model_make_the_graph_of_the_records(form: str) -> None:
    world = SmallWorld()
    records = [world.example("knowledge_graph", "test", at) for at in range(40)]
    task: Any = (TaggedGraph if form == "tagged" else WrittenGraph)(KnowledgeGraph())
    answers: list[Any] = []
    for record in records:
        triples = [[each["subject"], each["relation"], each["object"]] for each in record["triples"]]
        if form == "tagged":
            answers.append([{"entities": record["entities"], "triples": triples}])
        else:
            answers.append(task.target(record))
    graph = graph_of(extractions_of(task, records, answers))
    said = {tuple(each.values()) for record in records for each in record["triples"]}
    assert {(each.subject, each.relation, each.object) for each in graph.triples} == said
    types = {each["text"]: each["type"] for record in records for each in record["entities"]}
    assert {each.name: each.type for each in graph.entities} == types
    assert graph.triples[0].documents[0].startswith("knowledge_graph-test-")
    if form == "written":
        broken = graph_of(extractions_of(task, [{"text": "Malo lives."}] * 2, ["no JSON", json.dumps(
            {"entities": [["Malo", "person"]], "triples": [["Malo", "is", "alive"]]}
        )]))  # fmt: skip
        assert broken.triples == (GraphTriple("Malo", "is", "alive", 1, ("#1",)),)
