"""Boilerplate: book frames, notices, menus and repeated lines go, and the text between them stays to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.smallworld import SmallWorld
from llmyard.text.boilerplate import outside_frames, strip_boilerplate
from llmyard.text.clean import clean
from llmyard.text.config import Boilerplate, Cleaning

GUTENBERG = Path(__file__).resolve().parents[4] / "shared/data/gutenberg_en"
CHINESE = "安娜于一九八四年搬到河镇，在那里开了一家小面包店。"
ENGLISH = "Anna moved to Riverton in 1984 and opened a small bakery there."


def one(text: str, **config: Any) -> str:
    return str(strip_boilerplate(pa.array([text]), Boilerplate.model_validate(config)).texts[0].as_py())


@pytest.mark.parametrize(
    "line",
    [
        "Copyright Small World News. All rights reserved.",
        "© 2020 Riverton Press",
        "We use cookies to improve this site.",
        "Read our privacy policy.",
        "Privacy Policy | Terms of Use",
        "Subscribe to our newsletter.",
        "Share this page with your friends.",
        "Click here to see more stories.",
        "Skip to content",
        "小世界新闻网 版权所有。",
        "本站使用 Cookie 改善体验。",
        "请阅读隐私政策。",
        "欢迎订阅我们的邮件。",
        "把本页分享给朋友。",
        "点击这里查看更多故事。",
        "责任编辑：李明",
        "京ICP备12345678号-1",
        "下一篇：河镇的面包店",
        "未经许可，不得转载。",
    ],
)
def test_notices_go_alone_and_between_lines(line: str) -> None:
    assert one(f"{CHINESE}\n{line}\n{ENGLISH}") == f"{CHINESE}\n{ENGLISH}"
    assert one(line) == ""


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        CHINESE,
        "The law of copyright protects authors, and he reserved all his rights.",
        "Grandmother uses cookies to win friends.\nEverybody likes her cookies.",
        "他订阅了一份报纸。\n编辑说：我们的隐私很重要。\n他的来源是一位老人。",
        "编辑：你为什么要写这样一本关于河镇的书呢？\n作者：因为我喜欢。",
        "Home\nThey came home late.",
        "新闻\n首页刊登了这条新闻。",
        "Yes.\nNo.\nYes.\nNo.\nYes.\nNo.\nYes.\nNo.",
        "春眠不觉晓，\n处处闻啼鸟。\n夜来风雨声，\n花落知多少。",
        "* * * * * * * * * * * * * * * *\n" * 6,
        "  indented\n\n\nlines  \n\ttabs\r\nand blank ones\n",
        "",
    ],
)
def test_good_text_is_not_touched(text: str) -> None:
    assert one(text) == text


def test_menus_go_where_there_are_several_of_their_words() -> None:
    assert one(f"Home\nNews\n> About us\n{ENGLISH}\nLogin") == ENGLISH
    assert one(f"首页\n新闻\n关于我们\n{CHINESE}") == CHINESE


def test_a_line_that_comes_again_on_every_page_is_kept_once() -> None:
    header = "The History of Riverton and Its Bakeries"
    pages = [f"{header}\nPage text number {number}." for number in range(5)]
    assert one("\n".join(pages)) == "\n".join([pages[0], *(page.split("\n")[1] for page in pages[1:])])
    assert one("\n".join(pages[:3])) == "\n".join(pages[:3])
    assert one("\n".join(pages[:3]), max_repeats=1).count(header) == 1


def test_the_frame_of_project_gutenberg_goes_with_either_kind_of_line_end() -> None:
    book = "\n".join(
        [
            "The Project Gutenberg EBook of Anna", "", "*** START OF THIS PROJECT GUTENBERG EBOOK ANNA ***", "", "",
            "Produced by somebody", "and somebody else", "", "ANNA", "", ENGLISH, "", "End of Project Gutenberg's Anna",
            "", "*** END OF THIS PROJECT GUTENBERG EBOOK ANNA ***", "", "Licence",
        ]
    )  # fmt: skip
    assert one(book) == f"ANNA\n\n{ENGLISH}"
    assert one(book.replace("\n", "\r\n")) == f"ANNA\r\n\r\n{ENGLISH}"


def test_lines_are_counted_and_null_rows_stay() -> None:
    texts = pa.chunked_array([[f"{ENGLISH}\nAll rights reserved.", None], ["Home\nNews\nHelp", CHINESE]])
    result = strip_boilerplate(texts, Boilerplate())
    assert result.texts.to_pylist() == [ENGLISH, None, "", CHINESE]
    assert result.counts == {"frames": 0, "notices": 1, "menu_lines": 3, "repeated_lines": 0}
    untouched = pa.array([ENGLISH, f"{CHINESE}\n{ENGLISH}"])
    assert strip_boilerplate(untouched, Boilerplate()).texts is untouched
    assert strip_boilerplate(pa.array([], pa.string()), Boilerplate()).texts.to_pylist() == []


def test_smallworld_stories_stay_and_boilerplate_pages_become_empty() -> None:
    world = SmallWorld("dev", seed=7)
    documents = [each for each in map(world.document, range(2000)) if each.source_kind == "plain"]
    stripped = strip_boilerplate(pa.array([each.text for each in documents]), Boilerplate()).texts.to_pylist()
    assert any(each.damage == "boilerplate" for each in documents)
    for text, each in zip(stripped, documents, strict=True):
        assert text == ("" if each.damage == "boilerplate" else each.text)


@pytest.mark.skipif(not GUTENBERG.exists(), reason=f"{GUTENBERG} is missing")
@pytest.mark.parametrize("file", sorted(GUTENBERG.glob("*.txt")), ids=lambda file: file.stem[:12])
def test_real_books_lose_their_frame_and_nothing_else(file: Path) -> None:
    book = file.read_bytes().decode("utf-8", "replace")
    body = one(book)
    at = book.index(body)  # one piece of the book, to the letter
    assert "START OF THIS PROJECT GUTENBERG" in book[:at]
    assert "END OF THIS PROJECT GUTENBERG" in book[at + len(body) :]
    assert "END OF PROJECT GUTENBERG" not in body.upper().replace(" THE ", " ")
    assert not body.startswith("Produced by")
    assert len(body) > 0.85 * len(book)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["", "Home", "首页", "News", "x", ENGLISH, CHINESE, "All rights reserved.", "a\r"]), max_size=12
    )
)
def test_lines_only_go_and_never_change_and_twice_is_once(lines: list[str]) -> None:
    once = one("\n".join(lines))
    rest = iter(lines)
    assert all(line in rest for line in once.split("\n")) or once == ""
    assert one(once).count("\n") <= once.count("\n")


def test_a_frame_around_a_book_in_parts_goes_with_all_its_parts() -> None:
    head = "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nChapter one."
    foot = "The end.\n\n*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nMost people start at our web site."
    rows = [
        ("emma.txt#0", "This eBook is for the use of anyone anywhere."), ("emma.txt#1", head),
        ("emma.txt#2", "Emma Woodhouse, handsome, clever, and rich."), ("poems.json#0", "床前明月光"),
        ("emma.txt#3", foot), ("emma.txt#4", "1.E.5. Do not copy."), ("other.txt#0", "A note on PROJECT GUTENBERG."),
    ]  # fmt: skip
    columns = {"id": [each[0] for each in rows], "text": [each[1] for each in rows]}
    outside = outside_frames(pa.array(columns["id"]), pa.array(columns["text"]))
    assert [name for (name, _), is_out in zip(rows, outside, strict=True) if is_out] == ["emma.txt#0", "emma.txt#4"]
    documents = pa.table({**columns, **{name: [""] * len(rows) for name in ("source", "language", "url")}})
    cleaned = clean(documents, Cleaning(clean=("normalize", "boilerplate")))
    assert cleaned.counts["dropped_frame"] == 2
    assert cleaned.kept["text"].to_pylist() == [
        "Chapter one.", "Emma Woodhouse, handsome, clever, and rich.", "床前明月光", "The end.",
        "A note on PROJECT GUTENBERG.",
    ]  # fmt: skip
