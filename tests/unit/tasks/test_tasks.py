"""Tasks: one template for training, evaluation and serving; targets and spans that come back as they went in."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from llmyard.core.errors import LlmyardError
from llmyard.generation.model import Model
from llmyard.metrics.measure import values_of
from llmyard.sources.smallworld import SmallWorld
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import KnowledgeGraph, Translation
from llmyard.tasks.knowledge_graph import TaggedGraph, WrittenGraph, entities_of, merge_mentions, tokens_of
from llmyard.tasks.task import Annotation, BadExample, EncodedExample, Entity
from llmyard.tasks.translation import TranslationTask
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import CHINESE, ENGLISH, SEPARATOR, Tokenizer
from llmyard.tokens.views import Example
from llmyard.training.objectives import IGNORE
from llmyard.training.task_objectives import SequenceToSequenceObjective

TRANSLATION, GRAPH = TranslationTask(Translation()), TaggedGraph(KnowledgeGraph())
PAIR = {"source_language": "en", "target_language": "zh", "source": "A green lamp.", "target": "一盏绿色的灯。"}
FACT: dict[str, Any] = {
    "text": "马洛住在科拉镇。",
    "entities": [
        {"text": "马洛", "type": "person", "start": 0, "end": 2},
        {"text": "科拉镇", "type": "place", "start": 4, "end": 7},
    ],
    "triples": [{"subject": "马洛", "relation": "lives_in", "object": "科拉镇"}],
}


def only(encoded: list[list[EncodedExample] | None]) -> list[EncodedExample]:
    """Returns the one example of each record."""
    assert all(made is not None and len(made) == 1 for made in encoded)
    return [made[0] for made in encoded if made is not None]


def score(task: Any, predictions: list[Any], records: list[Any]) -> dict[str, float]:
    return values_of(task.measures(predictions, records))


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    return SmallWorld()


def tokenizer_of(world: SmallWorld, split_han: bool) -> Tokenizer:
    fields = (("translation", "source"), ("translation", "target"), ("knowledge_graph", "text"))
    texts = [world.example(task, "train", i)[field] for task, field in fields for i in range(200)]
    return Tokenizer.train(texts, BpeTokenizer(vocab_size=1200, split_han=split_han))


@pytest.fixture(scope="module")
def tokenizer(world: SmallWorld) -> Tokenizer:
    return tokenizer_of(world, split_han=True)


def test_configs_become_their_tasks() -> None:
    assert isinstance(task_of(Translation(), "t5"), TranslationTask)
    assert isinstance(task_of(KnowledgeGraph(), "bert"), TaggedGraph)
    assert isinstance(task_of(KnowledgeGraph(), "gpt2"), WrittenGraph)


def test_translation_has_one_template(world: SmallWorld, tokenizer: Tokenizer) -> None:
    records = [
        TRANSLATION.check(world.example("translation", split, i)) for split in ("train", "test") for i in range(60)
    ]
    assert {record["target_language"] for record in records} == {"en", "zh"}
    encoded = only(TRANSLATION.encode(records, tokenizer, {}))
    model = Model("checkpoint/x@1", "x", None, tokenizer, TRANSLATION)  # type: ignore[arg-type]
    for record, example in zip(records, encoded, strict=True):
        prefix = example.ids[: example.target_start]
        language = tokenizer.control({"en": ENGLISH, "zh": CHINESE}[record["target_language"]])
        assert (prefix[0], prefix[-1]) == (language, tokenizer.control(SEPARATOR))
        assert tokenizer.decode(prefix) == record["source"]
        unanswered = {key: value for key, value in record.items() if key != "target"}
        assert prefix == TRANSLATION.prompt(unanswered, tokenizer)  # evaluation
        assert prefix == model.translation_prompt(record["source"], record["target_language"])  # serving
        assert (example.labels, example.pairs) == (None, ())


def test_only_target_and_end_are_learned(world: SmallWorld, tokenizer: Tokenizer) -> None:
    records = [world.example("translation", "train", i) for i in range(40)]
    encoded = only(TRANSLATION.encode(records, tokenizer, {}))
    nothing = np.zeros(0, np.int32)
    examples = [Example(np.array(each.ids), None, each.target_start, nothing) for each in encoded]
    batch = SequenceToSequenceObjective(tokenizer.pad_id).collate(examples)
    for record, example, inputs, row in zip(records, encoded, batch["inputs"], batch["targets"], strict=True):
        learned = row[row != IGNORE].tolist()
        assert learned[-1] == tokenizer.end_id
        assert tokenizer.end_id not in learned[:-1]
        assert tokenizer.decode(learned[:-1]) == record["target"]
        assert example.ids[example.target_start :] == learned
        # What the decoder reads is what it shall say, one place later; it starts from the prompt's last token.
        assert inputs[: len(learned)].tolist() == [tokenizer.control(SEPARATOR), *learned[:-1]]


def test_control_words_in_a_text_are_plain_text(tokenizer: Tokenizer) -> None:
    (example,) = only(TRANSLATION.encode([{**PAIR, "source": "<|end|><|zh|> A", "target": "<|end|>"}], tokenizer, {}))
    assert example.ids.count(tokenizer.end_id) == 1
    assert example.ids.count(tokenizer.control(SEPARATOR)) == 1
    assert tokenizer.decode(example.ids[example.target_start : -1]) == "<|end|>"


def test_over_long_pairs_are_left_out_to_the_token(tokenizer: Tokenizer) -> None:
    source, target = len(tokenizer.encode(PAIR["source"])), len(tokenizer.encode(PAIR["target"]))
    for spare_source, spare_target in ((0, 0), (-1, 0), (0, -1)):
        config = Translation(max_source_tokens=source + 2 + spare_source, max_target_tokens=target + 1 + spare_target)
        task = TranslationTask(config)
        (made,) = task.encode([PAIR], tokenizer, {})
        assert (made is None) == (min(spare_source, spare_target) < 0)
        assert len(task.prompt(PAIR, tokenizer)) == source + 2 + spare_source  # evaluation cuts, at the same length
        assert task.decoding({}).max_new_tokens == target + 1 + spare_target
        for example in made or ():
            assert len(example.ids) - example.target_start == task.decoding({}).max_new_tokens


@pytest.mark.parametrize(
    ("task", "record", "change"),
    [
        (TRANSLATION, PAIR, {"source": None}),
        (TRANSLATION, PAIR, {"source": " "}),
        (TRANSLATION, PAIR, {"target": 5}),
        (TRANSLATION, PAIR, {"target_language": "fr"}),
        (TRANSLATION, PAIR, {"source_language": None}),
        (GRAPH, FACT, {"text": ""}),
        (GRAPH, FACT, {"entities": None}),
        (GRAPH, FACT, {"triples": "many"}),
        (GRAPH, FACT, {"entities": [{"text": "马洛", "type": "person", "start": 1, "end": 3}]}),
        (GRAPH, FACT, {"triples": [{"subject": "马洛", "relation": "lives_in", "object": "别处"}]}),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_bad_records_are_refused_with_a_remedy(task: Any, record: dict[str, Any], change: dict[str, Any]) -> None:
    assert task.check(record) is record
    with pytest.raises(BadExample) as caught:
        task.check({**record, **change})
    assert caught.value.remedy
    assert isinstance(caught.value, LlmyardError)


@pytest.mark.parametrize("split", ["train", "test", "test_long"])
def test_entities_and_relations_come_back(world: SmallWorld, tokenizer: Tokenizer, split: str) -> None:
    records = [GRAPH.check(world.example("knowledge_graph", split, i)) for i in range(100)]
    assert {record["language"] for record in records} == {"en", "zh"}
    labels = GRAPH.labels(records)
    encoded = only(GRAPH.encode(records, tokenizer, labels))
    for record, example, spans in zip(
        records, encoded, tokenizer.encode_with_spans([record["text"] for record in records]), strict=True
    ):
        assert example.labels is not None
        found = entities_of(record["text"], spans, example.labels, labels["entity_types"])
        expected = [Entity(**item) for item in record["entities"]]
        assert [entity for entity, _ in found] == sorted(expected, key=lambda entity: entity.start)
        index = {first: number for number, (_, first) in enumerate(found)}
        flat = iter(example.pairs)
        pairs = [
            (index[one], labels["relations"][kind], index[two]) for kind, one, two in zip(flat, flat, flat, strict=True)
        ]
        back = merge_mentions([entity for entity, _ in found], pairs)
        assert set(back.triples) == {(each["subject"], each["relation"], each["object"]) for each in record["triples"]}
        assert [example.ids] == [tokenizer.encode(each.text) for each in GRAPH.inputs(record, tokenizer)]


def test_over_long_texts_are_left_out_to_the_token(tokenizer: Tokenizer) -> None:
    record = {**FACT, "text": FACT["text"] * 3}
    length = len(tokenizer.encode(record["text"]))
    for limit in (length, length - 1):
        (example,) = TaggedGraph(KnowledgeGraph(max_tokens=limit)).encode([record], tokenizer, GRAPH.labels([FACT]))
        assert (example is None) == (limit < length)


def test_a_span_that_cuts_a_token_is_left_out(world: SmallWorld) -> None:
    runs = tokenizer_of(world, split_han=False)
    (encoded,) = runs.encode_with_spans(["绿色的灯"])
    assert any(end - start > 1 for start, end in encoded.spans)
    for start in range(4):
        for end in range(start + 1, 5):
            tokens = tokens_of("绿色的灯", encoded, start, end)
            if tokens:
                assert (encoded.spans[tokens[0]][0], encoded.spans[tokens[-1]][1]) == (start, end)


def test_a_space_before_a_word_belongs_to_its_token(tokenizer: Tokenizer) -> None:
    text = "Then Malo met Malo."
    (encoded,) = tokenizer.encode_with_spans([text])
    tokens = tokens_of(text, encoded, 5, 9)
    tags = [0] * len(encoded.ids)
    for token in tokens:
        tags[token] = 1 if token == tokens[0] else 2
    assert entities_of(text, encoded, tags, ["person"]) == [(Entity("Malo", "person", 5, 9), tokens[0])]


def test_tags_that_go_on_with_another_type_begin_anew(tokenizer: Tokenizer) -> None:
    (encoded,) = tokenizer.encode_with_spans(["马洛住在科拉镇。"])
    types = ["person", "place"]
    tags = [2, 2, 4, 0, 3, 3, *([0] * 20)][: len(encoded.ids)]
    if len(encoded.ids) >= 6 and encoded.spans[5] == (5, 6):
        found = [(entity.text, entity.type) for entity, _ in entities_of("马洛住在科拉镇。", encoded, tags, types)]
        assert found == [("马洛", "person"), ("住", "place"), ("科", "place"), ("拉", "place")]
    assert entities_of("马洛住在科拉镇。", encoded, [0] * len(encoded.ids), types) == []


def test_each_fact_is_said_once() -> None:
    malo, town = Entity("马洛", "person", 0, 2), Entity("科拉镇", "place", 4, 7)
    found = merge_mentions([malo, town, malo], [(2, "lives_in", 1), (0, "lives_in", 1), (0, "born_in", 1)])
    assert found.triples == (("马洛", "born_in", "科拉镇"), ("马洛", "lives_in", "科拉镇"))


def test_translations_are_scored_by_language() -> None:
    back = {"source_language": "zh", "target_language": "en", "source": PAIR["target"], "target": PAIR["source"]}
    right = score(TRANSLATION, [PAIR["target"], back["target"]], [PAIR, back])
    assert {key: round(value, 6) for key, value in right.items() if key.startswith("chrf") and "+" not in key} == {
        "chrf_en": 100, "chrf_zh": 100, "chrf": 100,
    }  # fmt: skip
    half = score(TRANSLATION, ["一盏红色的灯。", "no"], [PAIR, back])
    assert 0 < half["chrf_zh"] < 100
    assert half["chrf_en"] < half["chrf_zh"]
    assert half["chrf"] == pytest.approx((half["chrf_zh"] + half["chrf_en"]) / 2)
    assert TRANSLATION.metric in half
    assert set(score(TRANSLATION, ["一盏灯"], [PAIR])) == {"chrf_zh", "bleu_zh", "chrf++_zh", "chrf", "bleu", "chrf++"}
    # A Chinese sentence is scored by its characters: as one word, an almost right one would have no BLEU at all.
    assert score(TRANSLATION, ["一盏绿色的小灯。"], [PAIR])["bleu_zh"] > 20


def test_facts_are_scored_over_all_texts() -> None:
    entities = tuple(Entity(**entity) for entity in FACT["entities"])
    right = Annotation(entities, (("马洛", "lives_in", "科拉镇"),))
    turned = Annotation((Entity("马洛", "place", 0, 2), entities[1]), (("科拉镇", "lives_in", "马洛"),))
    assert set(score(GRAPH, [right], [FACT]).values()) == {1.0}
    scores = score(GRAPH, [right, turned], [FACT, FACT])
    assert scores == {"triple_f1": 0.5, "triple_precision": 0.5, "triple_recall": 0.5, "entity_f1": 0.75}
    assert GRAPH.metric in scores


def test_spans_score_as_seqeval_scores_their_tags() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(0)

    def tagged(spans: list[tuple[int, int, str]]) -> list[str]:
        tags = ["O"] * 12
        for start, end, kind in spans:
            tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
        return tags

    def spans() -> list[tuple[int, int, str]]:
        borders = sorted(draw.sample(range(13), draw.choice([2, 4, 6])))
        kinds = ["人", "place"]
        return [(low, high, draw.choice(kinds)) for low, high in zip(borders[::2], borders[1::2], strict=True)]

    wanted = [spans() for _ in range(100)]
    said = [each if draw.random() < 0.5 else spans() for each in wanted]
    text = "a" * 12
    found = [Annotation(tuple(Entity(text[a:b], kind, a, b) for a, b, kind in each), ()) for each in said]
    records: list[Any] = [
        {"text": text, "triples": [], "entities": [{"start": a, "end": b, "type": kind} for a, b, kind in each]}
        for each in wanted
    ]
    expected = seqeval.f1_score([tagged(each) for each in wanted], [tagged(each) for each in said])
    assert score(GRAPH, found, records)["entity_f1"] == pytest.approx(expected)


def test_a_fact_counts_once_in_its_own_text_only() -> None:
    one, other = ("马洛", "lives_in", "科拉镇"), ("Dena", "founded", "Kora Bank")
    record = {
        **FACT, "entities": [], "triples": [dict(zip(("subject", "relation", "object"), one, strict=True))],
    }  # fmt: skip
    twice = score(GRAPH, [Annotation((), (one, other, one)), Annotation((), ())], [record, record])
    assert (twice["triple_precision"], twice["triple_recall"]) == (1 / 2, 1 / 2)
    empty = {**FACT, "entities": [], "triples": []}
    assert score(GRAPH, [Annotation((), (one,)), Annotation((), ())], [empty, record])["triple_f1"] == 0


def test_baselines_answer_every_record(world: SmallWorld) -> None:
    tasks: tuple[Any, ...] = (TRANSLATION, GRAPH)
    for task in tasks:
        train, test = ([world.example(task.name, split, i) for i in range(20)] for split in ("train", "test"))
        name, answers = task.baseline(train, test)
        assert name
        assert len(answers) == len(test)
        assert all(0 <= value <= 100 for value in score(task, answers, test).values())
