"""A new version beside the old one: its share, and when it is left."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.generation.engine import Delta
from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.canary import Seen, objection
from llmyard.serving.config import Canary
from llmyard.serving.keys import KeyRing, hash_of

RULE = Canary(model="base@v2", beside="base", weight=0.5, least_requests=20)


def seen(requests: int, failing: int, seconds: float) -> Seen:
    found = Seen()
    for at in range(requests):
        found.note(seconds, at < failing)
    return found


@pytest.mark.parametrize(
    ("canary", "champion", "said"),
    [
        (seen(19, 19, 0.1), seen(100, 0, 0.1), None),  # too few to tell
        (seen(20, 0, 0.1), seen(100, 0, 0.1), None),
        (seen(20, 1, 0.1), seen(100, 0, 0.1), None),  # one may be chance
        (seen(20, 10, 0.1), seen(100, 0, 0.1), "50.0% of its requests failed, 0.0% of the others"),
        (seen(100, 50, 0.1), seen(100, 50, 0.1), None),  # what both suffer from is not its fault
        (seen(40, 0, 0.2), seen(100, 0, 0.1), "2.00 times as long"),
        (seen(40, 0, 0.2), seen(3, 0, 0.1), None),  # the old one has hardly been asked
        (seen(20, 20, 0.1), seen(0, 0, 0.1), "100.0% of its requests failed"),
    ],
)
def test_a_new_version_is_left_for_what_is_no_chance(canary: Seen, champion: Seen, said: str | None) -> None:
    found = objection(RULE, canary, champion)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)


def ask(api: Any, count: int) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(api), base_url="http://x", headers={"Authorization": "Bearer ly-right"}
        ) as client:
            body = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 2}
            return [await client.post("/v1/chat", json=body) for _ in range(count)] + [await client.get("/v1/models")]

    return asyncio.run(send())


class Broken:
    """An engine that fails."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, request: Any) -> AsyncGenerator[Delta]:
        raise LlmyardError("the engine failed", "see its log")
        yield


def test_both_versions_answer_and_one_that_fails_is_left(tiny: Any) -> None:
    base = Model.load(tiny.store.get("base", "checkpoint"))
    new = dataclasses.replace(base, reference="checkpoint/base@v2", engine=Broken(base.engine))
    ring = KeyRing.of([hash_of("ly-right")])
    fine = build_api([base], ring, canaries=[(RULE, dataclasses.replace(base, reference="checkpoint/base@v2"))])
    *answers, listed = ask(fine, 30)
    assert {each.json()["artifact"] for each in answers} == {base.reference, "checkpoint/base@v2"}
    (told,) = listed.json()["data"]
    assert (told["artifact"], told["canary"]["weight"]) == (base.reference, 0.5)
    *answers, listed = ask(build_api([base], ring, canaries=[(RULE, new)]), 120)
    statuses = [each.status_code for each in answers]
    assert statuses.count(500) == 20  # the least that it is judged by
    assert statuses[-30:] == [200] * 30
    (told,) = listed.json()["data"]
    assert told["canary"]["weight"] == 0
    assert "failed" in told["canary"]["left_because"]


def test_what_callers_do_wrong_is_not_held_against_it(tiny: Any) -> None:
    base = Model.load(tiny.store.get("base", "checkpoint"))
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), canaries=[(RULE, base)])

    async def send() -> tuple[list[int], Any]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(api), base_url="http://x", headers={"Authorization": "Bearer ly-right"}
        ) as client:
            body = {"model": "base", "messages": [{"role": "user", "content": "lamp " * 300}]}
            statuses = [(await client.post("/v1/chat", json=body)).status_code for _ in range(60)]
            return statuses, (await client.get("/v1/models")).json()["data"][0]

    statuses, told = asyncio.run(send())
    assert set(statuses) == {400}
    assert told["canary"]["weight"] == 0.5


def test_a_canary_for_another_task_is_refused(tiny: Any) -> None:
    base, triples = (Model.load(tiny.store.get(name, "checkpoint")) for name in ("base", "triples"))
    with pytest.raises(RequestError, match="made for knowledge_graph"):
        build_api([base], KeyRing.of([]), canaries=[(RULE, triples)])
