"""How the playground looks and who can use it: narrow and wide, light and dark, by keyboard, read aloud."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

from playground_models import CONVERSATIONS, QUESTIONS, TEXTS
from playground_page import Page, until

pytestmark = pytest.mark.integration
pytest_plugins = ("playground_endpoint",)
TABS = ("translate", "summarize", "answer", "chat", "extract")
SIZES = {"phone": (360, 740), "tablet": (820, 1100), "desktop": (1280, 900)}
LABELS = {
    "en": {"source": "Chinese", "text": "Text", "question": "Question", "message": "Message"},
    "zh": {"source": "中文", "text": "文本", "question": "问题", "message": "消息"},
}
# Every shown text against what lies behind it, as WCAG 2 computes contrast; what is set aside or disabled is left out.
CONTRASTS = r"""
const rgba = (said) => { const [r, g, b, a = 1] = said.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], under) => [r, g, b].map((value, i) => value * a + under[i] * (1 - a)).concat(1);
const light = (colour) => colour.slice(0, 3).map((value) => value / 255)
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  const layers = [];
  for (let each = node; each; each = each.parentElement) {
    const style = getComputedStyle(each);
    const box = each.matches("g.name") ? getComputedStyle(each.querySelector("rect")).fill : style.backgroundColor;
    layers.unshift(rgba(box));
  }
  return layers.reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
};
const bad = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
  const field = node.matches("input:not([type=radio], [type=checkbox], [type=range]), textarea, select");
  const apart = ".aside, .aside *, :disabled, title, .unseen, .skip, option";
  if ((!own && !field) || !node.checkVisibility() || node.matches(apart)) continue;
  const style = getComputedStyle(node), ground = behind(node);
  const inks = [node instanceof SVGElement ? style.fill : style.color];
  if (node.placeholder) inks.push(getComputedStyle(node, "::placeholder").color);
  for (const ink of inks) {
    const [one, two] = [light(over(rgba(ink), ground)), light(ground)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const name = `${node.tagName}.${node.getAttribute("class")} ${node.textContent.slice(0, 20)}`;
    if (ratio < 4.5) bad.push(`${name}: ${ratio.toFixed(2)}`);
  }
}
return bad;
"""


# References to nodes that are not there.
REFERENCES = """
const names = ["aria-describedby", "aria-controls", "aria-labelledby", "for"];
return [...document.querySelectorAll(names.map((name) => `[${name}]`))]
  .flatMap((node) => names.map((name) => node.getAttribute(name)))
  .filter((id) => id && !document.getElementById(id));
"""
SLIPPED = """
const add = (name, fill) => document.body.append(Object.assign(document.createElement(name), fill));
add("script", { textContent: "window.slipped = 1" });
add("style", { textContent: "body { display: none }" });
const image = document.createElement("img");
image.setAttribute("onerror", "window.slipped = 2");
image.src = "data:,";
document.body.append(image);
"""


def fill_in(page: Page, language: str) -> None:
    """Asks something in the open tab, so that an answer stands there with all that belongs to it."""
    labels = LABELS[language]
    if page.tab == "translate":
        page.write(labels["source"], "马洛找到了一盏绿色的灯。") if language == "zh" else None
    elif page.tab == "summarize":
        page.choose("chooser")
        page.write(labels["text"], TEXTS["zh"])
    elif page.tab == "answer":
        page.write(labels["question"], QUESTIONS["zh"])
        page.write(labels["text"], TEXTS["zh"])
    elif page.tab == "chat":
        page.write(labels["message"], CONVERSATIONS["zh"][0])
    else:
        page.write(labels["text"], "马洛住在科拉镇。")
    if page.tab in ("translate", "chat"):
        page.find(".switch input").click()
    page.run()
    assert not page.all(".failure")
    page.find(".choice button").click()
    until(lambda: page.all(".card .tree"), "no lineage")
    copy = {"en": "Copy as curl", "zh": "复制为 curl"}[language]
    page.button(copy).click()


@pytest.mark.parametrize(("size", "language"), [("phone", "en"), ("phone", "zh"), ("tablet", "zh"), ("desktop", "en")])
def test_fits_every_width_and_has_contrast_in_light_and_dark(page: Page, driver: Any, size: str, language: str) -> None:
    for tab in TABS:
        page.open(tab, language, size=SIZES[size])
        fill_in(page, language)
        assert page.script("return document.documentElement.scrollWidth <= innerWidth"), (
            tab,
            "is wider than the window",
        )
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            assert page.script(CONTRASTS) == [], (tab, scheme)
        grounds = page.script("return getComputedStyle(document.body).backgroundColor")
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
        )
        assert page.script("return getComputedStyle(document.body).backgroundColor") != grounds


@pytest.mark.parametrize("language", LABELS)
def test_every_control_has_a_name_and_every_hint_a_place(page: Page, driver: Any, language: str) -> None:
    for tab in TABS:
        page.open(tab, language)
        fill_in(page, language)
        nodes = driver.find_elements(
            "css selector", "button, input, select, textarea, [role=button], [role=tab], [role=log]"
        )
        unnamed = [
            each.get_attribute("outerHTML") for each in nodes if each.is_displayed() and not each.accessible_name
        ]
        assert unnamed == []
        assert page.script(REFERENCES) == []
        ids = page.script("return [...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids))


def test_tabs_and_forms_are_used_by_keyboard(page: Page, driver: Any) -> None:
    from selenium.webdriver import Keys

    page.open("translate")
    first = driver.find_element("id", "tab-translate")
    page.script("arguments[0].focus()", first)
    for key, wanted in (
        (Keys.ARROW_RIGHT, "summarize"),
        (Keys.END, "extract"),
        (Keys.ARROW_RIGHT, "translate"),
        (Keys.ARROW_LEFT, "extract"),
        (Keys.HOME, "translate"),
    ):
        driver.switch_to.active_element.send_keys(key)
        assert driver.switch_to.active_element.get_attribute("id") == f"tab-{wanted}"
        shown = [
            each.get_attribute("id")
            for each in driver.find_elements("css selector", "[role=tabpanel]")
            if each.is_displayed()
        ]
        assert shown == [f"panel-{wanted}"]
        assert driver.current_url.endswith(f"#{wanted}")
    page.write("English", "Malo found a green lamp.")
    page.find("textarea").send_keys(Keys.CONTROL, Keys.ENTER)
    until(lambda: page.text(".result") == "马洛找到了一盏绿色的灯。", "Ctrl+Enter does not ask")


def test_arrows_go_from_name_to_name_in_a_graph(page: Page, driver: Any) -> None:
    from selenium.webdriver import Keys

    page.open("extract")
    page.write("Text", "Malo lives in Kora Town.")
    page.run()
    one, two = sorted(page.all(".graph .name"), key=lambda each: each.location["x"])
    stops = [each.get_attribute("tabindex") for each in (one, two)]
    assert sorted(stops) == ["-1", "0"]
    page.script("arguments[0].focus()", one)
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert driver.switch_to.active_element == two
    assert two.accessible_name.startswith(two.text)
    driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert driver.switch_to.active_element == one


def test_what_is_slipped_in_does_not_run(page: Page) -> None:
    page.open("translate")
    page.script(SLIPPED)
    assert page.script("return [window.slipped ?? null, getComputedStyle(document.body).display]") == [None, "block"]
    assert page.complaints() != []  # the browser says what it did not run


def test_markup_in_texts_and_names_stays_text(page: Page) -> None:
    page.open("answer")
    page.write("Question", QUESTIONS["en"])
    page.write("Text", "<img src=x onerror=alert(1)> <b>Malo</b> lives in Kora Town.")
    page.run()
    assert not page.all(".result img, .result b")
