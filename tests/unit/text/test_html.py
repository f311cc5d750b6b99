"""Web pages become their main text; pieces of HTML lose their tags; everything else stays as it is."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import pytest

from llmyard.sources.smallworld import SmallWorld
from llmyard.text.config import Html
from llmyard.text.html import extract, main_text, strip_tags

PARAGRAPH_ZH = "安娜于一九八四年搬到河镇，在那里开了一家小面包店，生意一直很好，街坊邻居都很喜欢她。"
PARAGRAPH = "Anna moved to Riverton in 1984 and opened a small bakery there, which everybody in the street liked."


def page(body: str, title: str = "Title") -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title><style>p {{}}</style></head><body>{body}</body></html>"


def main_of(body: str, title: str = "Title") -> str:
    return main_text(page(body, title))[1]


@pytest.mark.parametrize("text", [PARAGRAPH, PARAGRAPH_ZH])
@pytest.mark.parametrize(
    "body",
    [
        "<nav><a href='/'>Home</a></nav><main><p>{}</p></main><footer>(c) us</footer>",
        "<header><h2>Site</h2></header><div role='navigation'>Menu</div><article><p>{}</p></article>",
        "<div class='cookie-banner'>We use cookies.</div><div><p>{}</p></div><div id='sidebar'>News</div>",
        "<ul><li><a href='a'>首页</a></li><li><a href='b'>新闻</a></li></ul><p>{}</p><p>版权所有</p>",
        "<body class='has-sidebar'><div class='has-sidebar'><p>{}</p></div>",
        "<p>{}</p><script>var a = '</p>';</script><form><input><button>Send</button></form>",
    ],
)
def test_the_main_text_is_found(body: str, text: str) -> None:
    assert main_of(body.format(text)) == text


def test_inline_tags_break_no_word_and_blocks_and_pre_keep_their_lines() -> None:
    assert main_of(f"<main><p>中<b>国</b>的<a href='x'>河流</a>很多。{PARAGRAPH_ZH}</p></main>") == (
        f"中国的河流很多。{PARAGRAPH_ZH}"
    )
    assert main_of("<article><p>One.<br>Two.</p><p>Three\nfour.</p></article>") == "One.\nTwo.\nThree four."
    assert (
        main_of("<article><pre>a = 1\nb = 2</pre><p>a &lt; b &amp;&amp; c.</p></article>")
        == "a = 1\nb = 2\na < b && c."
    )


def test_lines_of_links_go_and_links_in_sentences_stay() -> None:
    body = f"<article><p>{PARAGRAPH} <a href='x'>More about her</a>.</p><p><a>Next</a> | <a>Previous</a></p></article>"
    assert main_of(body) == f"{PARAGRAPH} More about her."


def test_the_title_is_set_apart() -> None:
    body = f"<main><h1>Anna's bakery</h1><h2>Early years</h2><p>{PARAGRAPH}</p></main>"
    source = page(body, "Anna's bakery | The Riverton News")
    assert main_text(source) == ("Anna's bakery", f"Early years\n{PARAGRAPH}")
    assert extract(pa.array([source]), Html()).titles.to_pylist() == ["Anna's bakery"]
    kept = extract(pa.array([source]), Html(title="first_line")).texts[0].as_py()
    assert kept == f"Anna's bakery\nEarly years\n{PARAGRAPH}"


def test_only_html_rows_change_and_are_counted() -> None:
    plain = "if a < b and c > d: print('&amp;')"
    texts = pa.chunked_array([[page(f"<p>{PARAGRAPH}</p>"), plain], [None, "<p>一段</p>文字", page("")]])
    result = extract(texts, Html())
    assert [each and each.strip() for each in result.texts.to_pylist()] == [
        PARAGRAPH,
        plain,
        None,
        "一段\n文字",
        "Title",
    ]
    assert result.titles.to_pylist() == ["Title", None, None, None, "Title"]
    assert result.counts == {"pages": 2, "fragments": 1, "fallbacks": 1}
    untouched = pa.array([plain])
    assert extract(untouched, Html()).texts is untouched


@pytest.mark.parametrize(
    "broken", ["<html><p>开头没有结尾", "<html>", "<html><body><table><tr><td>x", "<html>\x00<a <b>>c</a>"]
)
def test_broken_pages_raise_nothing(broken: str) -> None:
    assert extract(pa.array([broken]), Html()).counts["pages"] == 1


def test_stripping_decodes_entities() -> None:
    assert strip_tags(pa.array(["<p>&eacute;&#233;&#xe9;</p>", "&copy", None])).to_pylist() == [" ééé\n", "&copy", None]


def tokens(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-zA-Z0-9]+|[^\sa-zA-Z0-9]", text))


def test_smallworld_pages_give_their_main_text_and_title() -> None:
    world = SmallWorld("dev", seed=7)
    pages = [document for document in map(world.document, range(600)) if document.source_kind == "web"]
    result = extract(pa.array([each.text for each in pages]), Html())
    assert result.titles.to_pylist() == [each.labels["title"] for each in pages]
    scores = []
    for text, each in zip(result.texts.to_pylist(), pages, strict=True):
        found, wanted = tokens(text), tokens(each.labels["main_text"])
        scores.append(2 * (found & wanted).total() / (found.total() + wanted.total()))
    assert sum(scores) / len(scores) >= 0.99
