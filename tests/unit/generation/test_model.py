"""Checkpoints as models: the prompt that serving sends is the one that training taught."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmyard.generation.engine import Unsupported
from llmyard.generation.model import Model, Written, whole
from llmyard.tasks.task import Decoding
from llmyard.text.script import mostly_chinese

ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"


@pytest.fixture(scope="module")
def models(tiny: Any) -> dict[str, Model]:
    return {name: Model.load(tiny.store.get(name, "checkpoint")) for name in tiny.folders}


def test_translates_both_ways(models: dict[str, Model]) -> None:
    async def both() -> list[Written]:
        model = models["translator"]
        return [await whole(model.translate(ENGLISH, "zh")), await whole(model.translate(CHINESE, "en"))]

    chinese, english = asyncio.run(both())
    assert (chinese.text, english.text, chinese.finish) == (CHINESE, ENGLISH, "stop")


def test_finds_facts(models: dict[str, Model]) -> None:
    english, chinese = asyncio.run(models["triples"].extract(["Malo lives in Kora Town.", "马洛住在科拉镇。"]))
    assert english.triples == (("Malo", "lives_in", "Kora Town"),)
    assert chinese.triples == (("马洛", "lives_in", "科拉镇"),)
    assert [(each.text, each.type, each.start, each.end) for each in chinese.entities] == [
        ("马洛", "person", 0, 2),
        ("科拉镇", "place", 4, 7),
    ]


def test_goes_on_writing(models: dict[str, Model]) -> None:
    written = asyncio.run(whole(models["base"].complete("有一天", Decoding(60))))
    assert (written.text, written.finish) == ("，马洛去了科拉镇。", "stop")


def test_chat_takes_the_last_message_of_the_user(models: dict[str, Model]) -> None:
    turns = [("system", "be kind"), ("user", CHINESE), ("assistant", "no"), ("user", ENGLISH), ("assistant", "yes")]
    messages = [{"role": role, "content": content} for role, content in turns]
    model = models["translator"]
    assert model.chat_prompt(messages) == model.translation_prompt(ENGLISH, "zh")
    assert models["base"].chat_prompt(messages) == models["base"].tokenizer.encode(ENGLISH)
    with pytest.raises(Unsupported, match="no message of the user"):
        model.chat_prompt(messages[:1])
    with pytest.raises(Unsupported, match="does not translate"):
        models["triples"].chat_prompt(messages)


def test_a_text_is_never_cut_in_silence(models: dict[str, Model]) -> None:
    with pytest.raises(Unsupported, match="tokens too long; translator reads 128 at once"):
        models["translator"].translate(ENGLISH * 40, "zh")
    with pytest.raises(Unsupported, match="takes 1 to 64"):
        asyncio.run(whole(models["base"].complete("lamp " * 100, Decoding(4))))


@pytest.mark.parametrize(("name", "target"), [("base", "zh"), ("triples", "zh"), ("translator", "fr")])
def test_refuses_what_it_was_not_made_for(models: dict[str, Model], name: str, target: str) -> None:
    with pytest.raises(Unsupported):
        models[name].translate(ENGLISH, target)


def test_tells_chinese_from_english() -> None:
    assert mostly_chinese("我喜欢 AI。")
    assert not mostly_chinese("I met 李 in Beijing.")
    assert not mostly_chinese("123 !")
