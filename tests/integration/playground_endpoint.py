"""Real endpoints on ports of this machine, and the fixtures of the playground's tests."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playground_models import ALIAS, MANY_TOKENS, NAMES, TEXTS, make_models
from playground_page import SECONDS, Page, browser, until

from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, StoredKey, hash_of
from llmyard.serving.rates import Rate


class Served:
    """An application in a thread.

    Attributes:
        url: Where it is.
        models: What answers, by name.
    """

    def __init__(self, api: Any, models: dict[str, Any]) -> None:
        import uvicorn

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.models = f"http://127.0.0.1:{port}", models
        config = uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=5)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        until(lambda: self._server.started, "the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(SECONDS)

    def drain(self, name: str) -> None:
        """Has a model take no more requests."""
        asyncio.run(self.models[name].engine.drain())


def small(models: dict[str, Any], *names: str, **limits: Any) -> Served:
    """An endpoint with some of the models only."""
    from llmyard.generation.model import Model

    chosen: list[Model] = [models[name] for name in names]
    return Served(build_api(chosen, KeyRing.of([hash_of("ly-right")]), Limits(**limits)), dict(models))


@pytest.fixture(scope="session")
def models(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from llmyard.generation.model import Model

    make_models(tiny.store, tiny.tokenizer, tmp_path_factory.mktemp("playground"))
    return {name: Model.load(tiny.store.get(name, "checkpoint")) for name in NAMES}


@pytest.fixture(scope="session")
def served(tiny: Any, models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from llmyard.serving.replica import origin_of
    from llmyard.tasks.passages import Passage, Passages, build_passages

    folder = tmp_path_factory.mktemp("index")
    build_passages([Passage("新闻", at, text) for at, text in enumerate([*TEXTS.values(), "河水上涨了两米。"])], folder)
    named = {**dict(zip(NAMES, NAMES, strict=True)), "translator": ALIAS}
    origins = [origin_of(tiny.store.get(name, "checkpoint"), named[name]) for name in NAMES]
    keys = [StoredKey(hash_of("ly-right")), StoredKey(hash_of("ly-limited"), rate=Rate(requests=3))]
    limits = Limits(max_new_tokens=MANY_TOKENS)
    api = build_api(
        list(models.values()), KeyRing(lambda: keys), limits, origins=origins, passages=Passages(folder)
    )  # fmt: skip
    with Served(api, models) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def driver(downloads: Path) -> Iterator[Any]:
    with browser(downloads) as opened:
        yield opened


@pytest.fixture
def page(driver: Any, served: Served) -> Iterator[Page]:
    driver.get_log("browser")
    opened = Page(driver, served.url)
    yield opened
    # What the endpoint refuses Chromium notes by itself; nothing else may be amiss, least of all the rules for content.
    assert opened.complaints("the server responded with a status of 4") == []
