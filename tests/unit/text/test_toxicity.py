"""Block lists: words are found where they stand as words, and harmless longer words are not taken for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmyard.core.errors import RequestError
from llmyard.sources.smallworld import SmallWorld
from llmyard.sources.smallworld.lexicon import lexicon
from llmyard.text.automaton import Automaton
from llmyard.text.config import Toxicity
from llmyard.text.toxicity import judge_toxicity, score

LDNOOBW = Path(__file__).resolve().parents[4] / "shared/data/ldnoobw"


@pytest.fixture
def lists(tmp_path: Path) -> tuple[str, ...]:
    words = lexicon().data["placeholder_slurs"]
    (tmp_path / "en").write_text("\n".join(["# placeholders", "", *words["en"], "hard core", "ass", "cunt"]), "utf-8")
    (tmp_path / "zh").write_text("\n".join([*words["zh"], "处女", "奶"]), "utf-8")
    (tmp_path / "fine").write_text("歪瓜精选\nzorgwit museum", "utf-8")
    return (str(tmp_path / "en"), str(tmp_path / "zh"))


def hits(text: str, lists: tuple[str, ...], **config: Any) -> int:
    return int(score(pa.array([text]), Toxicity(lists=lists, **config)).hits[0].as_py())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("You zorgwit!", 1),
        ("ZORGWIT, zorgwit", 2),
        ("你这个zorgwit。", 1),
        ("you z0rgw1t", 1),
        ("you z o r g w i t, z.o.r.g.w.i.t", 2),
        ("hard-core, Hard Core", 2),
        ("真是个咕噜渣！只有歪瓜精才会这么说。", 2),
        ("ass", 1),
    ],
)
def test_words_are_found_also_in_disguise(text: str, count: int, lists: tuple[str, ...]) -> None:
    assert hits(text, lists) == count


@pytest.mark.parametrize(
    "text",
    [
        "Scunthorpe, Essex, class, assess, Bassett, Massachusetts",
        "zorgwits zorgwitty superzorgwit éass assé",
        "@ss 455 a.s.s $ 1055",
        "70 26 w17",
        "处女座和处女作，处女航",
        "牛奶，奶奶，奶酪",
        "",
    ],
)
def test_words_inside_of_harmless_words_do_not_count(text: str, lists: tuple[str, ...]) -> None:
    assert hits(text, lists) == 0


def test_more_harmless_words_can_be_named(lists: tuple[str, ...]) -> None:
    text = "歪瓜精选，zorgwit museum, zorgwit"
    assert hits(text, lists) == 3
    assert hits(text, lists, harmless=(str(Path(lists[0]).parent / "fine"),)) == 1


def test_the_density_decides_and_not_the_word(lists: tuple[str, ...]) -> None:
    config = Toxicity(lists=lists)
    long = "The museum explains what people once meant when they said that word. " * 40 + "One was zorgwit."
    texts = pa.chunked_array([["zorgwit you are", long], ["今天天气很好。", "走开，你这个闹闹鬼。"]])
    scores = score(texts, config)
    assert scores.hits.to_pylist() == [1, 1, 0, 1]
    assert scores.density.to_pylist() == pytest.approx([1000 / 3, 1000 / 483, 0, 125])
    assert judge_toxicity(scores, config).to_pylist() == ["toxic", None, None, "toxic"]
    assert judge_toxicity(scores, Toxicity(lists=lists, max_density=1000)).to_pylist() == [None] * 4


def test_smallworld_slurs_are_found_and_nothing_else(lists: tuple[str, ...]) -> None:
    world = SmallWorld("dev", seed=7)
    documents = [world.document(i) for i in range(2000)]
    config = Toxicity(lists=lists)
    scores = score(pa.array([each.text for each in documents]), config)
    assert scores.hits.to_pylist() == [len(each.labels.get("slurs", [])) for each in documents]


def test_a_missing_or_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the list"):
        hits("x", (str(tmp_path / "none"),))
    (tmp_path / "empty").write_text("# nothing\n", "utf-8")
    with pytest.raises(RequestError, match="hold no words"):
        hits("x", (str(tmp_path / "empty"),))


def test_phrases_inside_of_phrases_are_all_found() -> None:
    found = Automaton(["ABC", "bcd", "中文", "文"]).find(pa.array(["x", "abc bcd", "abcd 中文b"]))
    assert list(zip(found.row.tolist(), found.phrase.tolist(), strict=True)) == [(1, 0), (1, 1), (2, 2), (2, 3)]
    assert [(found.start[i], found.end[i]) for i in range(2)] == [(0, 3), (4, 7)]
    many = Automaton(["a"]).find(pa.array(["a " * 5000]))
    assert len(many.row) == 5000


@pytest.mark.skipif(not LDNOOBW.exists(), reason=f"{LDNOOBW} is missing")
def test_public_lists_leave_ordinary_text_alone() -> None:
    config = Toxicity(lists=(str(LDNOOBW / "en"), str(LDNOOBW / "zh")))
    world = SmallWorld("dev", seed=7)
    texts = [each.text for each in map(world.document, range(500)) if not each.damage]
    toxic = judge_toxicity(score(pa.array(texts), config), config)
    assert len(texts) - toxic.null_count <= 0.02 * len(texts)  # some made-up names are on the lists
    texts = ["She lives in Scunthorpe, Essex, and studies cocktails, Dickens and Moby Dick.", "我是处女座，喜欢牛奶。"]
    assert judge_toxicity(score(pa.array(texts), config), config).null_count == len(texts)
    assert hits("what the fuck", config.lists) == hits("你是傻逼", config.lists) == 1
