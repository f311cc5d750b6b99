"""The small world: the same everywhere, its labels true, its splits apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from llmyard.core.errors import DataError
from llmyard.sources.smallworld import SPLITS, TASKS, SmallWorld
from llmyard.sources.smallworld.lexicon import lexicon, pair_is_held, read_yaml
from llmyard.sources.smallworld.meaning import Entity
from llmyard.sources.smallworld.story import FILLERS

WORLD = SmallWorld("dev", seed=7)
PRINT_DIGEST = """
import hashlib, json
from llmyard.sources.smallworld import SPLITS, TASKS, SmallWorld
world = SmallWorld("dev", seed=7)
digest = hashlib.sha256()
for i in (1999, 3, 500):
    digest.update(repr(world.document(i)).encode())
for task in TASKS:
    for split in SPLITS:
        digest.update(json.dumps(world.example(task, split, 5), ensure_ascii=False).encode())
sys_stdout = __import__("sys").stdout
sys_stdout.write(digest.hexdigest())
"""


def test_two_processes_with_other_hash_seeds_make_the_same_bytes() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_a_record_does_not_depend_on_what_was_made_before() -> None:
    alone = SmallWorld("dev", seed=7).example("summarization", "test", 41)
    for i in range(3):
        WORLD.example("summarization", "test", i)
    assert WORLD.example("summarization", "test", 41) == alone


def test_another_seed_is_another_world() -> None:
    assert SmallWorld("dev", seed=8).document(0).text != WORLD.document(0).text
    assert SmallWorld("dev", seed=8).example("translation", "train", 0) != WORLD.example("translation", "train", 0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_example_is_json_with_its_schema_in_both_languages(task: str, split: str) -> None:
    keys = {
        "translation": {"source_language", "target_language", "source", "target"},
        "knowledge_graph": {"language", "text", "entities", "triples"},
        "question_answering": {"language", "context", "question", "answers"},
        "dialogue": {"language", "messages"},
        "summarization": {"language", "text", "summary"},
    }[task]
    languages = set()
    for i in range(30):
        record = WORLD.example(task, split, i)
        assert set(record) == keys | {"id", "task", "split"}
        assert (record["task"], record["split"]) == (task, split)
        assert json.loads(json.dumps(record)) == record
        languages.add(record.get("language") or record["source_language"])
        texts = [record[k] for k in ("source", "target", "text", "context", "question", "summary") if k in record]
        texts += [m["content"] for m in record.get("messages", [])]
        for text in texts:
            assert text
            assert "{" not in text
            assert "  " not in text
            assert " ." not in text
            assert " ?" not in text
    assert languages == {"en", "zh"}


def test_labels_stand_where_they_say() -> None:
    for i in range(200):
        graph = WORLD.example("knowledge_graph", "train", i)
        names = set()
        for entity in graph["entities"]:
            assert graph["text"][entity["start"] : entity["end"]] == entity["text"]
            names.add(entity["text"])
        for triple in graph["triples"]:
            assert {triple["subject"], triple["object"]} <= names
            assert triple["relation"] in lexicon().data["relations"]
        question = WORLD.example("question_answering", "test", i)
        for answer in question["answers"]:
            assert question["context"][answer["start"] :].startswith(answer["text"])
            if len(answer["text"]) > 3:  # a number such as 六 also stands in 星期六
                assert answer["text"] not in question["question"]


def test_every_mention_of_a_name_is_labelled() -> None:
    for i in range(200):
        record = WORLD.example("knowledge_graph", "train", i)
        for name in {entity["text"] for entity in record["entities"]}:
            assert record["text"].count(name) == sum(entity["text"] == name for entity in record["entities"])


def test_both_translations_name_the_same_entities_and_numbers() -> None:
    syllables = lexicon().data["syllables"]
    for i in range(0, 300, 2):
        record = WORLD.example("translation", "train", i)
        person = record["source"].replace(",", " ").replace(".", " ").split()
        for word in person:
            if (low := word.lower()) and word[0].isupper() and len(low) >= 4:
                spelled = spelling(low, syllables)
                if spelled and low not in ("later",):
                    assert spelled in record["target"], (word, record)


def spelling(word: str, syllables: dict[str, str]) -> str:
    """The two characters of a name word, or "" when it is none."""
    for first, first_zh in syllables.items():
        if word.startswith(first) and word[len(first) :] in syllables:
            return first_zh + syllables[word[len(first) :]]
    return ""


def test_names_split_into_syllables_in_one_way_only() -> None:
    words = [word.en for word in (*lexicon().common, *lexicon().reserved)]
    assert len(words) == len(set(words)) > 4000
    assert len(set(lexicon().data["syllables"].values())) == len(lexicon().data["syllables"])


def test_test_names_never_occur_in_training() -> None:
    reserved = {word.zh for word in lexicon().reserved}
    for i in range(1, 400, 2):
        for entity in WORLD.example("knowledge_graph", "train", i)["entities"]:
            assert entity["text"][:2] not in reserved
        for entity in WORLD.example("knowledge_graph", "test_names", i)["entities"]:
            assert entity["text"][:2] in reserved


def test_held_out_combinations_occur_in_their_split_only() -> None:
    def held(split: str, i: int) -> bool:
        relations = sorted({t["relation"] for t in WORLD.example("knowledge_graph", split, i)["triples"]})
        return any(pair_is_held(a, b) for a in relations for b in relations if a < b)

    assert not any(held("train", i) for i in range(300))
    assert all(held("test_combinations", i) for i in range(100))
    things, colours = lexicon().data["things"], lexicon().data["colours"]
    pairs = {f" {colour} {things[noun][1]}" for noun in things for colour in colours if pair_is_held(noun, colour)}
    for i in range(1, 300, 2):  # odd: Chinese to English
        target = WORLD.example("translation", "train", i)["target"]
        assert not any(pair in target for pair in pairs), target


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_text(task: str) -> None:
    def texts(split: str) -> set[str]:
        records = [WORLD.example(task, split, i) for i in range(150)]
        keys = {"translation": "source", "question_answering": "context", "dialogue": "messages"}
        return {json.dumps(record[keys.get(task, "text")], ensure_ascii=False) for record in records}

    train = texts("train")
    assert len(train) > 140
    for split in SPLITS[1:]:
        assert not train & texts(split)


def test_long_stories_are_longer() -> None:
    for task, key in (("knowledge_graph", "text"), ("summarization", "text"), ("translation", "source")):
        usual = sum(len(WORLD.example(task, "test", i)[key]) for i in range(60))
        long = sum(len(WORLD.example(task, "test_long", i)[key]) for i in range(60))
        assert long > 1.3 * usual


def test_one_question_in_six_has_no_answer() -> None:
    empty = Counter(not WORLD.example("question_answering", "train", i)["answers"] for i in range(600))
    assert 0.12 < empty[True] / 600 < 0.22


def test_dialogues_alternate_and_end_with_the_assistant() -> None:
    for i in range(100):
        messages = WORLD.example("dialogue", "train", i)["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert 2 <= len(messages) <= 4


def test_both_grammars_know_every_word_of_the_lexicon() -> None:
    for file in ("english.yaml", "chinese.yaml"):
        grammar = read_yaml(file)
        assert set(grammar["relations"]) == set(lexicon().data["relations"])
        assert set(grammar["events"]) == {*lexicon().data["events"], "have", "paint"}
        assert len(grammar["fillers"]) == FILLERS


def test_wrong_requests_say_what_is_accepted() -> None:
    with pytest.raises(DataError, match="no task 'translate'"):
        WORLD.example("translate", "train", 0)
    with pytest.raises(DataError, match="no split"):
        WORLD.example("translation", "dev", 0)
    with pytest.raises(DataError, match="no profile 'huge'"):
        SmallWorld("huge")
    with pytest.raises(DataError, match="0 to 1999"):
        WORLD.document(2000)


def test_an_entity_has_a_name_in_each_language() -> None:
    entity = Entity("place", "Kora Town", "柯腊镇")
    assert (entity.name("en"), entity.name("zh")) == ("Kora Town", "柯腊镇")
