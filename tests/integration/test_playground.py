"""The playground in a headless Chromium, before a real endpoint with small models of all five scenarios."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

from playground_endpoint import Served, small
from playground_models import (
    ALIAS,
    ANSWERS,
    CONVERSATIONS,
    ENDLESS,
    MANY_TOKENS,
    NAMES,
    QUESTIONS,
    SUMMARIES,
    TEXTS,
    UNANSWERABLE,
)
from playground_page import Page, as_json, downloaded, turtle_triples, until

from llmyard.serving.api import build_api
from llmyard.serving.config import Canary
from llmyard.serving.keys import KeyRing, hash_of

pytestmark = pytest.mark.integration
pytest_plugins = ("playground_endpoint",)
ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"
FACT = "马洛住在科拉镇。"
TABS = ("translate", "summarize", "answer", "chat", "extract")
NASTY = (
    "plain", "", "it's", "a'b''c", '"quoted" $HOME `id` \\n \\', "灯、😀", "two\nlines\ttab", "-d", "@file", "!x",
    "*?~#&;|<>",
)  # fmt: skip


def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(page: Page, driver: Any) -> None:
    page.open("translate", key=None)
    status = driver.find_element("id", "status")
    assert status.text == "Enter the API key that llmyard serve printed."
    assert not page.find("button.primary").is_enabled()
    for wrong in ("ly-wrong", "密钥"):
        driver.find_element("id", "key").clear()
        driver.find_element("id", "key").send_keys(wrong)
        driver.find_element("css selector", "#access button").click()
        until(lambda: "The API key is missing" in driver.find_element("id", "refusal").text, "a wrong key is not told")
        assert page.script("return sessionStorage.length") == 0
    driver.find_element("id", "key").clear()
    driver.find_element("id", "key").send_keys("ly-right\n")
    until(lambda: status.text == f"Connected · {len(NAMES)} models", "not connected")
    assert page.script("return [sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert "ly-right" not in page.script("return document.documentElement.outerHTML + location.href")
    driver.refresh()
    until(lambda: driver.find_element("id", "status").text == f"Connected · {len(NAMES)} models", "not connected again")
    driver.find_element("id", "forget").click()
    assert page.script("return sessionStorage.length") == 0
    assert not page.find("button.primary").is_enabled()


def test_translates_and_turns_round(page: Page, served: Any) -> None:
    page.open("translate")
    assert page.texts("label.heading") == ["English"]
    page.write("English", ENGLISH)
    page.run()
    assert page.text(".result") == CHINESE
    assert page.find(".result .written").get_attribute("lang") == "zh-CN"
    assert re.fullmatch(r"[\d.,]+ m?s\d+ tokens[\d.,]+ tokens/s", page.text(".metrics"))
    assert page.text(".figures").endswith(f"Answered by {served.models['translator'].reference}")
    page.find(".swap").click()
    assert (page.texts("label.heading"), page.find("textarea").get_attribute("value")) == (["Chinese"], CHINESE)
    page.run()
    assert page.text(".result") == ENGLISH


def test_shows_how_likely_each_token_was_and_what_else_could_have_stood_there(page: Page, driver: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    page.open("translate", "zh")
    page.write("中文", CHINESE)
    page.find(".swap").click()
    page.write("英文", ENGLISH)
    page.run()
    page.find(".switch input").click()
    assert "下一次回答会带上词元概率" in page.text(".figures")
    page.run()
    tokens = page.all(".tokens .token")
    assert "".join(page.texts(".tokens > .token")).replace("∅", "") == CHINESE
    assert {each.get_attribute("data-level") for each in tokens} <= set("012345")
    assert [each.get_attribute("tabindex") for each in tokens].count("0") == 1
    ActionChains(driver).move_to_element(tokens[1]).perform()
    until(lambda: page.find(".bubble").is_displayed(), "nothing on hover")
    rows = page.all(".bubble table:first-of-type tr")
    assert len(rows) == 5
    shares = [float(row.text.split()[-1].strip("%<")) for row in rows if "<" not in row.text]
    assert shares == sorted(shares, reverse=True)
    assert len(page.all(".bubble table")) == len(page.all(".bubble .taken"))
    ActionChains(driver).move_to_element(page.find("textarea")).perform()
    until(lambda: not page.find(".bubble").is_displayed(), "it stays")
    page.script("arguments[0].focus()", tokens[0])
    driver.switch_to.active_element.send_keys(Keys.END)
    assert driver.switch_to.active_element.text == tokens[-1].text
    assert page.find(".bubble").is_displayed()
    assert "（已选）" in page.text(".bubble .taken")
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.find(".bubble").is_displayed()


def test_the_command_asks_what_the_page_asks(page: Page) -> None:
    page.open("translate")
    page.write("English", f"It's \"{ENGLISH}\" $HOME `x`\n灯 \\n '好'")
    page.run()
    page.button("Copy as curl").click()
    command = page.text(".curl pre")
    assert "ly-right" not in command
    page.write("English", ENGLISH)
    assert page.text(".curl pre") != command  # it follows the form
    words = shlex.split(command)
    assert words[:2] == ["curl", f"{page.url}/v1/translate"]
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: the command is not run")
    asked = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "LLMYARD_API_KEY": "ly-right"}, capture_output=True, check=True
    )
    assert json.loads(asked.stdout)["translation"] == page.text(".result .written")


def test_summaries_are_written_to_a_length_or_chosen_in_the_text(page: Page) -> None:
    page.open("summarize", "zh")
    page.write("文本", TEXTS["zh"])
    page.run()
    assert page.text(".result") == SUMMARIES["zh"]
    page.field("最多词元").send_keys("3")
    page.run()
    assert "已到长度上限" in page.text(".metrics")
    assert "3 个词元" in page.text(".metrics")
    page.field("最少词元").send_keys("9")
    page.run()
    assert "min_tokens (9) is more than max_tokens (3)" in page.text(".failure")
    page.choose("chooser")
    assert not page.field("最多词元").is_displayed()
    assert not page.find(".switch").is_displayed()
    for count in ("1", "2"):
        page.write("句数", count)
        page.run()
        assert page.text(".source") == TEXTS["zh"]
        assert len(page.all("mark")) == int(count)
        assert "".join(page.texts("mark")) == page.text(".result > .written")
        assert f"选出 {count} 句" in page.text(".metrics")


def test_answers_are_marked_in_the_text_or_in_the_cited_passage(page: Page) -> None:
    page.open("answer", "zh")
    page.write("问题", QUESTIONS["zh"])
    page.write("文本", TEXTS["zh"])  # begins with a character that is two units of JavaScript
    page.run()
    assert page.text(".short") == ANSWERS["zh"]
    assert page.texts(".source mark") == [ANSWERS["zh"]]
    before = "return document.querySelector(arguments[0]).previousSibling.textContent"
    assert page.script(before, page.within(".source mark")) == TEXTS["zh"][: TEXTS["zh"].rindex(ANSWERS["zh"])]
    assert re.search(r"比“无答案”高 [\d.]+ 奈特", page.text(".metrics"))
    page.write("问题", UNANSWERABLE)
    page.run()
    assert (page.text(".result"), page.all("mark")) == ("没有找到答案。", [])
    page.all("[type=radio]")[1].click()
    assert not page.field("文本").is_displayed()
    page.write("问题", QUESTIONS["zh"])
    page.write("读取段落数", "2")
    page.run()
    assert 1 <= len(page.all(".passages li")) <= 2
    (cited,) = page.all(".passages li.cited")
    assert cited.text.startswith("新闻 引用")
    assert page.texts(".passages mark") == [page.text(".short")]
    page.write("问题", " ")
    page.run()
    assert page.text(".result") == "请先输入内容。"


def test_a_conversation_is_streamed_and_remembered(page: Page) -> None:
    page.open("chat", "zh")
    asked, said = CONVERSATIONS["zh"][::2], CONVERSATIONS["zh"][1::2]
    for count, (question, reply) in enumerate(zip(asked, said, strict=True), 1):
        page.write("消息", question)
        page.find("textarea").send_keys("\n")
        until(lambda: page.texts(".reply .written") == list(said[:count]), f"not said: {reply}")  # noqa: B023
        page.ended()
    assert page.texts(".question .written") == list(asked)
    assert all("首个词元" in each and "词元/秒" in each for each in page.texts(".reply .metrics"))
    page.find(".switch input").click()
    page.button("新对话").click()
    page.write("消息", asked[0])
    page.run()
    assert "".join(page.texts(".reply .token")).replace("∅", "") == said[0]
    page.choose("state")
    page.write("消息", asked[1])
    page.run()
    assert page.texts(".slots tr") == ["colour绿", "thing灯"]
    page.choose("base")
    assert "基础模型" in page.text(".kind")


def test_an_answer_is_stopped_and_its_work_ends(page: Page, models: dict[str, Any]) -> None:
    page.open("chat")
    page.choose("endless")
    page.write("Tokens at most", str(MANY_TOKENS))
    page.write("Message", ENDLESS)
    aborted = models["endless"].engine.stats().aborted
    page.find("button.primary").click()
    until(lambda: len(page.text(".reply .written")) > 40, "nothing is written")
    assert not page.find("button.primary").is_enabled()
    page.button("Stop").click()
    page.ended()
    written = page.text(".reply .written")
    assert "Stopped." in page.text(".reply .figures")
    until(lambda: models["endless"].engine.stats().running == 0, "the engine goes on")
    assert models["endless"].engine.stats().aborted == aborted + 1
    assert page.text(".reply .written") == written
    page.button("Copy as curl").click()  # without a new message it is the last request
    assert json.loads(shlex.split(page.text(".curl pre"))[-1])["messages"] == [{"role": "user", "content": ENDLESS}]
    page.write("Message", "more")
    messages = json.loads(shlex.split(page.text(".curl pre"))[-1])["messages"]
    assert messages[1] == {"role": "assistant", "content": written}


def test_a_graph_is_clicked_dragged_and_exported(page: Page, driver: Any, downloads: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    from llmyard.tasks.graph_files import ENTITIES, read_graph

    page.open("extract", "zh")
    page.write("文本", FACT)
    page.run()
    assert page.text(".source") == FACT
    assert page.texts("mark") == ["马洛", "科拉镇"]
    assert page.texts(".legend li") == ["person", "place"]
    assert page.texts(".facts tbody tr") == ["马洛lives_in科拉镇"]
    assert page.texts(".graph text") == ["lives_in", "马洛", "科拉镇"]
    one, two = page.all(".graph .name")
    one.click()
    assert [each.get_attribute("aria-pressed") for each in (one, two, page.all("mark")[0])] == ["true", "false", "true"]
    assert "chosen" in page.find(".facts tbody tr").get_attribute("class")
    assert page.text(".chosen-facts") == "马洛 · person · 1 条事实 · 1 处提及"
    before = two.get_attribute("transform")
    ActionChains(driver).drag_and_drop_by_offset(two, -60, 30).perform()
    assert two.get_attribute("transform") != before
    assert two.get_attribute("aria-pressed") == "false"  # dragged, not chosen
    page.script("arguments[0].focus()", two)
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_DOWN).key_up(Keys.SHIFT).perform()
    ActionChains(driver).send_keys(Keys.ENTER).perform()
    assert [each.get_attribute("aria-pressed") for each in (one, two)] == ["false", "true"]
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    assert [each.get_attribute("aria-pressed") for each in (one, two)] == ["false", "false"]
    page.button("lives_in").click()
    assert all("chosen" in each.get_attribute("class") for each in page.all("mark"))
    for label, name in (("TSV", "graph.tsv"), ("JSON", "graph.json"), ("Turtle", "graph.ttl")):
        page.button(label).click()
        downloaded(downloads, name)
    table = (downloads / "graph.tsv").read_text(encoding="utf-8").splitlines()
    (triple,) = read_graph(table, [ENTITIES]).triples
    assert (triple.subject, triple.relation, triple.object, triple.count) == ("马洛", "lives_in", "科拉镇", 1)
    saved = as_json(downloads / "graph.json")
    assert (saved["text"], saved["entities"][1]["start"], len(saved["triples"])) == (FACT, 4, 1)
    assert turtle_triples(downloads / "graph.ttl") == {("马洛", "lives_in", "科拉镇")}


def test_tells_what_a_model_is_and_where_it_comes_from(page: Page, tiny: Any) -> None:
    page.open("translate")
    page.button("Details").click()
    facts = dict(zip(page.texts(".card dt"), page.texts(".card dd"), strict=True))
    assert facts["Alias"] == ALIAS
    assert facts["Artifact"] == tiny.store.get("translator", "checkpoint").reference
    page.open("summarize")
    page.button("Details").click()
    until(lambda: len(page.all(".tree .code")) == 2, "no lineage")
    assert page.texts(".tree ul .code") == [tiny.store.get("base", "checkpoint").reference]


def test_tells_which_of_two_versions_answered(driver: Any, models: dict[str, Any]) -> None:
    old, new = models["translator"], dataclasses.replace(models["translator"], reference="checkpoint/translator@new")
    canary = Canary(model="translator@new", beside="translator", weight=1.0)
    api = build_api([old], KeyRing.of([hash_of("ly-right")]), canaries=[(canary, new)])
    with Served(api, models) as endpoint:
        page = Page(driver, endpoint.url).open("translate")
        page.run()
        assert page.text(".figures").endswith("Answered by checkpoint/translator@new")
        page.button("Details").click()
        facts = dict(zip(page.texts(".card dt"), page.texts(".card dd"), strict=True))
        assert facts["Canary"] == "checkpoint/translator@new answers 100% of the requests"
        until(lambda: "The endpoint does not know." in page.text(".card"), "no lineage is not told")


def test_the_language_is_switched_and_what_was_said_stays(page: Page, driver: Any) -> None:
    page.open("extract")
    page.write("Text", FACT)
    page.run()
    page.all(".graph .name")[0].click()
    driver.find_element("css selector", "[data-language=zh]").click()
    assert page.script("return document.documentElement.lang") == "zh-CN"
    assert driver.find_element("css selector", "[role=tab][aria-selected=true]").text == "知识图谱"
    assert page.find("textarea").get_attribute("value") == FACT
    assert page.text(".chosen-facts") == "马洛 · person · 1 条事实 · 1 处提及"
    assert page.texts(".facts thead th") == ["主体", "关系", "客体"]
    assert "lang=zh#extract" in driver.current_url
    english = page.script("return [...document.querySelectorAll('[data-spoken]')].map((e) => e.textContent)")
    assert not [each for each in english if re.fullmatch(r"(?:[A-Z][a-z]+ )+[a-z ]+", each)]


def test_too_much_is_told_with_the_time_to_wait(page: Page) -> None:
    page.open("translate", key="ly-limited")
    for _ in range(6):
        page.run()
        if page.all(".failure"):
            break
    assert page.text(".failure strong") == "Too many requests with this key."
    assert re.search(r"Try again in \d+ seconds?\.", page.text(".failure"))


def test_a_busy_or_vanished_endpoint_and_a_broken_stream_are_told(
    driver: Any, models: dict[str, Any], tiny: Any
) -> None:
    from llmyard.generation.model import Model

    own = {**models, "translator": Model.load(tiny.store.get("translator", "checkpoint"))}
    with small(own, "translator", "endless", deadline_seconds=1.5, max_new_tokens=MANY_TOKENS) as endpoint:
        page = Page(driver, endpoint.url)
        page.open("chat")
        page.write("Tokens at most", str(MANY_TOKENS))
        page.write("Message", ENDLESS)
        page.run()
        assert page.text(".reply .failure strong") == "The answer broke off before its end."
        assert "not part of the conversation" in page.text(".reply")
        assert page.find("textarea").get_attribute("value") == ENDLESS  # to be sent again
        page.open("translate")
        endpoint.drain("translator")
        page.run()
        assert page.text(".failure strong") == "The endpoint is busy or restarting."
        until(lambda: "You can try again now." in page.text(".failure"), "the wait has no end")
    page.run()
    assert page.text(".failure strong") == "The endpoint cannot be reached. Is it still running?"
    driver.get_log("browser")


def test_a_tab_without_a_model_says_what_makes_one(driver: Any, models: dict[str, Any]) -> None:
    with small(models, "base") as endpoint:
        page = Page(driver, endpoint.url)
        root = Path(__file__).parents[2]
        for tab in TABS:
            page.open(tab, "zh")
            if tab == "chat":
                assert page.find("form").is_displayed()
                continue
            assert page.find(".absence + .absence p").text.startswith("这里没有")
            assert not page.find("form").is_displayed()
            run, serve = page.text(".command").splitlines()
            job = (root / run.removeprefix("llmyard run ")).read_text(encoding="utf-8")
            assert f"output: {serve.removeprefix('llmyard serve ')}\n" in job


def test_pure_functions_agree_with_python(page: Page, tmp_path: Path) -> None:
    page.open("translate")
    words = page.module("curl.js", "return v[0].map(m.quoted)", list(NASTY))
    assert shlex.split(" ".join(words)) == list(NASTY)
    for text in (TEXTS["zh"], "a😀b", "", "e\u0301"):
        spans = [[0, 1], [1, 3], [0, 3], [5, 99], [-1, -1]]
        parts = page.module("spans.js", "return m.segments(v[0], v[1])", text, spans)
        assert "".join(part["text"] for part in parts) == text
        for at, (low, high) in enumerate(spans):
            covered = "".join(part["text"] for part in parts if at in part["spans"])
            assert covered == text[max(low, 0) : max(high, 0)]
    bytes_ = list("好a".encode())
    tokens = [
        {"token": "�", "bytes": part, "logprob": -0.5, "top_logprobs": []}
        for part in (bytes_[:1], bytes_[1:2], bytes_[2:4])
    ]
    (group,) = page.module("tokens.js", "return m.grouped(v[0])", tokens)
    assert group["text"] == "好a"
    assert group["share"] == pytest.approx(2.718281828**-1.5)
    names = [name or "." for name in NASTY]
    triples = [{"subject": name, "relation": "知道", "object": "e|\\t"} for name in names]
    made = page.module("export.js", "return [m.turtle(v[0]), m.tsv(v[0])]", {"entities": [], "triples": triples})
    file = tmp_path / "nasty.ttl"
    file.write_text(made[0], encoding="utf-8")
    assert turtle_triples(file) == {(name, "知道", "e|\\t") for name in names}
    from llmyard.tasks.graph_files import ENTITIES, read_graph

    assert {each.subject for each in read_graph(made[1].splitlines(), [ENTITIES]).triples} == set(names)
