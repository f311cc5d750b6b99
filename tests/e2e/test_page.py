"""The playground page in headless Chromium, driven over WebDriver's own protocol; skipped where Chromium is missing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,900",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that WebDriver's standard gives to references
ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Browser:
    """A session of chromedriver."""

    def __init__(self, port: int, profile: Path) -> None:
        self._root = f"http://127.0.0.1:{port}"
        arguments = [*FLAGS, f"--user-data-dir={profile}"]
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        opened = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._root += f"/session/{opened['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:500]}") from None

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def script(self, code: str) -> Any:
        return self._send("POST", "/execute/sync", {"script": code, "args": []})

    def find(self, selector: str) -> str:
        found = self._send("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def click(self, selector: str) -> None:
        self._send("POST", f"{self.find(selector)}/click", {})

    def write(self, selector: str, text: str) -> None:
        element = self.find(selector)
        self._send("POST", f"{element}/clear", {})
        self._send("POST", f"{element}/value", {"text": text})

    def text(self, selector: str) -> str:
        return str(self.script(f"return document.querySelector({json.dumps(selector)}).textContent"))

    def texts(self, selector: str) -> list[str]:
        found = f"document.querySelectorAll({json.dumps(selector)})"
        return list(self.script(f"return Array.from({found}, (each) => each.textContent)"))

    def shown(self, selector: str) -> bool:
        return bool(self._send("GET", f"{self.find(selector)}/displayed"))

    def complaints(self) -> list[str]:
        return [f"{each['level']} {each['message']}" for each in self._send("POST", "/se/log", {"type": "browser"})]

    def shot(self, file: Path) -> None:
        import base64

        file.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def close(self) -> None:
        self._send("DELETE", "")


def until(holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def url(tiny: Any) -> Iterator[str]:
    """The application on a socket of this machine."""
    import uvicorn

    from llmyard.generation.model import Model
    from llmyard.serving.api import build_api
    from llmyard.serving.keys import hash_of

    models = [Model.load(tiny.store.get(name, "checkpoint")) for name in ("triples", "translator", "base")]
    port = free_port()
    api = build_api(models, [hash_of("ly-right")], 100_000, 100)
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the server did not start")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    missing = [name for name in ("chromedriver", "chromium") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed; on Debian: apt-get install chromium chromium-driver")
    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as response:
                    return bool(json.load(response)["value"]["ready"])
            except (urllib.error.URLError, OSError):
                return False

        until(answers, "chromedriver did not start")
        opened = Browser(port, tmp_path / "profile")
        yield opened
        opened.close()
    finally:
        driver.terminate()
        driver.wait()


def test_the_page_from_key_to_answers_in_both_languages(url: str, browser: Browser) -> None:
    browser.open(f"{url}/?lang=en")
    assert browser.text("#status") == "Enter the API key that llmyard serve printed."
    browser.write("#key", "ly-wrong")
    browser.click("#connect")
    until(lambda: "wrong API key" in browser.text("#status"), "a wrong key is not told")
    assert browser.script("return document.getElementById('go').disabled")
    assert len(browser.complaints()) == 1  # Chromium itself notes the 401
    browser.write("#key", "ly-right")
    browser.click("#connect")
    until(lambda: browser.text("#status") == "Connected.", "not connected")

    browser.write("#input", ENGLISH)
    browser.click("#go")
    until(lambda: browser.text("#answer") == CHINESE, "no translation")
    until(lambda: browser.text("#lineage").startswith("Answered by checkpoint/translator@"), "no lineage")

    browser.click("#tab-extract")
    assert browser.text("#answer") == ""
    browser.write("#input", "马洛住在科拉镇。")
    browser.click("#go")
    until(lambda: browser.shown("#triples"), "no facts")
    assert browser.text("#triples tbody tr") == "马洛lives_in科拉镇"
    assert browser.texts("#answer mark") == ["马洛", "科拉镇"]
    assert browser.texts("#legend mark") == ["person", "place"]
    assert sorted(browser.texts("#graph svg text")) == ["lives_in", "科拉镇", "马洛"]

    browser.click("#language")
    assert browser.script("return document.documentElement.lang") == "zh"
    assert browser.text("#tab-extract") == "知识图谱"
    assert browser.text("#triples tbody tr") == "马洛lives_in科拉镇"  # the answer stays
    browser.click("#tab-chat")
    browser.write("#input", "有一天")
    browser.click("#go")
    until(lambda: browser.text("#answer") == "，马洛去了科拉镇。", "no chat")
    until(lambda: "ms" in browser.text("#took"), "no end")
    browser.write("#tokens", "2")
    browser.click("#go")
    until(lambda: "已到长度上限" in browser.text("#took"), "a cut is not told")
    browser.click("#curl")
    assert "/v1/chat/completions" in browser.text("#command")
    assert "ly-right" not in browser.text("#command")
    browser.write("#tokens", "101")
    browser.click("#go")
    until(lambda: "at most 100" in browser.text("#answer"), "an error is not told")
    assert [each for each in browser.complaints() if "status of 400" not in each] == []


def test_every_control_has_a_name(url: str, browser: Browser) -> None:
    browser.open(f"{url}/?lang=zh")
    unnamed = browser.script(
        "return [...document.querySelectorAll('input,select,textarea,button')]"
        ".filter((e) => !((e.labels && e.labels[0]) || e).textContent.trim()).map((e) => e.id)"
    )
    assert unnamed == []
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
