"""The playground in a headless Chromium: what is done there, and what is seen."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0  # that anything may take: this machine may be busy
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--lang=en",
)  # fmt: skip


def until(holds: Callable[[], Any], what: str) -> Any:
    """Waits until something holds, and returns what it gave."""
    deadline = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def browser(downloads: Path) -> Iterator[Any]:
    """Yields a driver; skips where there is no Chromium."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed; on Debian: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The playground, one of its tabs open."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url, self.tab = driver, url, "translate"

    def open(
        self, tab: str, language: str = "en", key: str | None = "ly-right", size: tuple[int, int] = (1200, 900)
    ) -> Page:
        """Opens the page anew, with a key."""
        self.tab = tab
        width, height = size
        mobile = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", mobile)
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/?lang={language}#{tab}")
        self.script("sessionStorage.clear()")
        if key is not None:
            self.script("sessionStorage.setItem('llmyard-key', arguments[0])", key)
        self.driver.refresh()
        if key is not None:
            until(lambda: self.script("return document.getElementById('access').hidden"), "not connected")
        return self

    def script(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def module(self, name: str, code: str, *values: Any) -> Any:
        """Returns what code gives that has one of the page's modules as ``m`` and values as ``v``."""
        taken = f"const [v, done] = arguments; import('/playground/{name}').then((m) => {{ {code} }})"
        found = self.driver.execute_async_script(f"{taken}.then((got) => done([got]), (e) => done(`${{e}}`))", values)
        assert isinstance(found, list), found
        return found[0]

    def within(self, selector: str) -> str:
        return f"#panel-{self.tab} {selector}"

    def find(self, selector: str) -> Any:
        """Returns an element of the open tab."""
        return self.driver.find_element("css selector", self.within(selector))

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", self.within(selector)))

    def text(self, selector: str) -> str:
        """Returns all the text in an element of the open tab, "" where there is none."""
        return str(self.script("return document.querySelector(arguments[0])?.textContent ?? ''", self.within(selector)))

    def texts(self, selector: str) -> list[str]:
        found = "return Array.from(document.querySelectorAll(arguments[0]), (each) => each.textContent)"
        return list(self.script(found, self.within(selector)))

    def button(self, label: str) -> Any:
        """Returns the button of the open tab that is shown and says so."""
        return next(each for each in self.all("button") if each.is_displayed() and each.text == label)

    def field(self, label: str) -> Any:
        """Returns the field of the open tab with a label."""
        found = (
            "return [...document.querySelectorAll(arguments[0])].find((e) => e.textContent === arguments[1]).control"
        )
        return self.script(found, self.within("label"), label)

    def write(self, label: str, content: str) -> None:
        """Puts a text into a field as typing does; the driver cannot type what is beyond the basic plane."""
        typed = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', { bubbles: true }))"
        self.script(typed, self.field(label), content)

    def choose(self, model: str) -> None:
        changed = (
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', { bubbles: true }))"
        )
        self.script(changed, self.find(".choice select"), model)
        assert self.find(".choice select").get_attribute("value") == model

    def run(self) -> None:
        """Asks, and waits for the answer or a failure."""
        self.find("button.primary").click()
        self.ended()

    def ended(self) -> None:
        until(lambda: self.find(".answers").get_attribute("aria-busy") == "false", "no end")

    def complaints(self, *expected: str) -> list[str]:
        """Returns what the browser complained about, but for what was to be expected."""
        said = [str(each["message"]) for each in self.driver.get_log("browser")]
        return [each for each in said if not any(part in each for part in expected)]


def turtle_triples(path: Path) -> set[tuple[str, ...]]:
    """Returns the labels of a Turtle file's facts."""
    from rdflib import RDFS, Graph

    graph = Graph().parse(path, format="turtle")
    names = {each: str(label) for each, label in graph.subject_objects(RDFS.label)}
    return {
        tuple(names[each] for each in fact) for fact in graph if all(each in names for each in fact[1:2] + fact[2:])
    }


def downloaded(folder: Path, name: str) -> Path:
    """Waits for a download, and returns it."""
    file = folder / name
    until(lambda: file.exists() and file.stat().st_size, f"{name} did not come")
    return file


def as_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
