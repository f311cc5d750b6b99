"""Dialogues with slots: SGD and CrossWOZ, and the archive that CrossWOZ comes in."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.errors import DataError
from llmyard.sources.config import Records
from llmyard.sources.examples import ExampleUnit, read_examples

TASK = "dialogue"


def user(text: str, service: str = "Hotels_2", /, **slots: Any) -> dict[str, Any]:
    return {
        "speaker": "USER",
        "utterance": text,
        "frames": [{"service": service, "state": {"slot_values": slots}}],
    }


def system(text: str) -> dict[str, Any]:
    return {"speaker": "SYSTEM", "utterance": text, "frames": [{"service": "Hotels_2", "actions": []}]}


def dialogue(*turns: Any, name: str = "1_00000") -> dict[str, Any]:
    return {"dialogue_id": name, "services": ["Hotels_2"], "turns": list(turns)}


def test_sgd_gives_the_state_after_each_turn_of_the_user(read_format: Any) -> None:
    turns = [
        user("A room.", where_to=[]),
        system("Where?"),
        user("Oslo, at ten.", where_to=["Oslo"], time=["10 am", "ten"]),
        system("Fine."),
        user("And a flight.", "Flights_1", seats=["2"]),
        system("Done."),
    ]
    schema = {"service_name": "Hotels_2", "slots": []}
    (record,), bad = read_format([schema, dialogue(*turns)], "sgd", TASK)
    assert not bad
    assert (record["id"], record["group"], record["language"]) == ("1_00000", "1_00000", "en")
    assert record["messages"][:2] == [
        {"role": "user", "content": "A room."},
        {"role": "assistant", "content": "Where?"},
    ]
    hotel = {"Hotels-where_to": "Oslo", "Hotels-time": "10 am"}
    assert record["states"] == [{}, hotel, hotel | {"Flights-seats": "2"}]


def test_a_turn_that_nobody_answers_goes_with_its_state(read_format: Any) -> None:
    (record,), _ = read_format([dialogue(user("A", x=["1"]), system("B"), user("C", x=["2"]))], "sgd", TASK)
    assert len(record["messages"]) == 2
    assert record["states"] == [{"Hotels-x": "1"}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'[{"dialogue_id": "1"', "not JSON"),
        ({}, "the document is an object, not a list of dialogues"),
        (["A"], "the dialogue is a string, not an object"),
        ([{"turns": []}], "the dialogue has no 'dialogue_id'"),
        ([{"dialogue_id": "1"}], "the dialogue has no 'turns'"),
        ([dialogue(user("A"), user("B"), system("C"))], "turn 2 is of the user, after the user"),
        ([dialogue(user("A"))], "no turn of the assistant answers the user"),
        ([dialogue(user(" "), system("B"))], "turn 1, of the user, is empty"),
        ([dialogue({"speaker": "BOT", "utterance": "A"})], "a turn is of 'BOT'; known are USER, SYSTEM"),
        ([dialogue({"speaker": "USER", "utterance": None})], "'utterance' of a turn is null, not a text"),
        ([dialogue({"speaker": "USER", "utterance": "A"})], "a turn has no 'frames'"),
        (
            [dialogue({"speaker": "USER", "utterance": "A", "frames": [{"service": "X"}]})],
            "a frame of the user has no 'state'",
        ),
        ([dialogue(user("A", x="one"), system("B"))], "the slot x holds a string, not a list of texts"),
        (json.dumps([dialogue(user("A\ud83d"), system("B"))]).encode(), "half of a surrogate pair"),
    ],
)
def test_what_is_no_dialogue_of_sgd_is_quarantined(read_format: Any, content: Any, reason: str) -> None:
    records, (bad,) = read_format(content, "sgd", TASK)
    assert not records
    assert reason in bad.reason


def chinese(*turns: tuple[str, str, Any]) -> dict[str, Any]:
    """Returns a dialogue of CrossWOZ, whose replies have a state."""
    keys = {"usr": "user_state", "sys": "sys_state_init"}
    return {"goal": [], "messages": [{"role": role, "content": said, keys[role]: state} for role, said, state in turns]}


CROSSWOZ = chinese(
    ("usr", "找一家吃烤鸭的餐馆。", []),
    ("sys", "推荐全聚德。", {"餐馆": {"推荐菜": "烤鸭", "名称": "", "selectedResults": []}, "酒店": {"名称": ""}}),
    ("usr", "附近的酒店呢？", []),
    ("sys", "有一家。", {"餐馆": {"推荐菜": "烤鸭", "selectedResults": ["全聚德"]}, "酒店": {"周边餐馆": "全聚德"}}),
)


def archive(name: str = "val.json", **others: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(name, json.dumps({"11": CROSSWOZ}, ensure_ascii=False))
        for other, content in others.items():
            opened.writestr(other, content)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_crosswoz_gives_what_the_system_had_understood(read_format: Any, packed: bool) -> None:
    content: Any = archive() if packed else {"11": CROSSWOZ}
    (record,), bad = read_format(content, "crosswoz", TASK, "val.json.zip" if packed else "val.json")
    assert not bad
    assert (record["id"], record["group"], record["language"]) == ("11", "11", "zh")
    assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"] * 2
    assert record["states"] == [{"餐馆-推荐菜": "烤鸭"}, {"餐馆-推荐菜": "烤鸭", "酒店-周边餐馆": "全聚德"}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        ([CROSSWOZ], "the document is a list, not an object of dialogues"),
        ({"1": []}, "the dialogue is a list, not an object"),
        ({"1": chinese(("usr", "好", []))}, "no turn of the assistant answers the user"),
        ({"1": chinese(("usr", "好", []), ("sys", "好", None))}, "a reply has no 'sys_state_init'"),
        ({"1": chinese(("usr", "好", []), ("sys", "好", {"酒店": 3}))}, "'酒店' of a state is a number"),
        ({"1": chinese(("usr", "好", []), ("sys", "好", {"酒店": {"价格": 3}}))}, "the slot 酒店-价格 holds a number"),
        ({"1": {"messages": [{"role": "bot", "content": "好"}]}}, "a turn is of 'bot'; known are usr, sys"),
    ],
)
def test_what_is_no_dialogue_of_crosswoz_is_quarantined(read_format: Any, content: Any, reason: str) -> None:
    records, (bad,) = read_format(content, "crosswoz", TASK)
    assert not records
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive()[:-40], "the archive is damaged"),
        (b"PK\x03\x04", "the archive is damaged"),
        (b"", "the archive is damaged"),
        (archive(other=b"{}"), "the archive holds 2 files, not the one JSON document"),
        (archive().replace(archive()[60:70], b"\0" * 10), "damaged"),
        (archive(name="__MACOSX/val.json"), "the archive holds 0 files"),
    ],
)
def test_an_archive_that_is_not_one_document_is_quarantined(read_format: Any, content: bytes, reason: str) -> None:
    records, (bad,) = read_format(content, "crosswoz", TASK, "a.json.zip")
    assert not records
    assert (bad.record, reason in bad.reason) == (0, True)


def test_what_lies_beside_the_document_in_an_archive_is_passed_over(read_format: Any) -> None:
    content = archive(**{"__MACOSX/._val.json": b"x", ".DS_Store": b"x"})
    assert len(read_format(content, "crosswoz", TASK, "a.json.zip")[0]) == 1


def test_a_bomb_is_not_unpacked(read_format: Any) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("val.json", b" " * (12 << 20))
    _, (bad,) = read_format(file.getvalue(), "crosswoz", TASK, "a.json.zip")
    assert "a bomb" in bad.reason


def test_a_missing_document_is_an_error(tmp_path: Path) -> None:
    for name in ("gone.json", "gone.json.zip"):
        source = Records(format="crosswoz", train=str(tmp_path / name))
        with pytest.raises(DataError, match="no such file"):
            list(read_examples(ExampleUnit("train", str(tmp_path / name), 0, 0), source, TASK))
