"""What an endpoint allows: room, time, keys' limits, words; and that what is taken is given back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.generation.engine import Delta, GenerateRequest, Stats
from llmyard.generation.model import Model
from llmyard.serving.admission import TokenBudget
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits, Scale
from llmyard.serving.guarded_engine import GuardedEngine, Terms
from llmyard.serving.keys import KeyRing, StoredKey, hash_of
from llmyard.serving.policy import HarmfulWords, passed
from llmyard.serving.rates import Buckets, Leases, Rate
from llmyard.serving.refusals import Refused
from llmyard.text.config import Toxicity

KEY = {"Authorization": "Bearer ly-right"}


class Slow:
    """An engine that writes a token every while."""

    def __init__(self, pause: float, texts: Sequence[str] = ("a",) * 50) -> None:
        self._pause, self._texts = pause, texts
        self.aborted: set[str] = set()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        for text in self._texts:
            await asyncio.sleep(self._pause)
            if request.id in self.aborted:
                yield Delta((), "", "aborted")
                return
            yield Delta((5,), text)
        yield Delta((), "", "stop")

    def abort(self, request_id: str) -> None:
        self.aborted.add(request_id)

    def stats(self) -> Stats:
        return Stats()


def written(engine: Any, **more: Any) -> list[Delta]:
    async def ask() -> list[Delta]:
        return [each async for each in engine.generate(GenerateRequest("x", [5, 6], **more))]

    return asyncio.run(ask())


def test_a_request_alone_is_always_taken_others_only_where_there_is_room() -> None:
    now = [0.0]
    budget = TokenBudget(100, lambda: now[0])
    with budget.admitted(500):
        with pytest.raises(Refused) as refused:
            budget.enter(1)
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        now[0] = 10.0
    with budget.admitted(60), budget.admitted(40), pytest.raises(Refused):
        budget.enter(1)
    assert (budget.taken, budget.requests) == (0, 0)


@given(st.lists(st.integers(1, 80), max_size=40), st.integers(1, 200))
def test_what_is_under_way_stays_within_the_budget(tokens: list[int], most: int) -> None:
    budget, taken = TokenBudget(most), []
    for each in tokens:
        try:
            budget.enter(each)
            taken.append(each)
        except Refused:
            assert sum(taken) + each > most
        assert sum(taken) <= most or len(taken) == 1
        if len(taken) > 3:
            budget.leave(taken.pop(0))
    for each in taken:
        budget.leave(each)
    assert budget.taken == 0


def test_who_is_refused_is_told_when_there_will_be_room() -> None:
    now = [100.0]
    budget = TokenBudget(100, lambda: now[0])
    for _ in range(5):  # 10 tokens a second were freed
        budget.enter(10)
        now[0] += 1
        budget.leave(10)
    budget.enter(100)
    assert 1 <= budget.seconds_for(100) <= 20
    assert budget.seconds_for(10**9) == 60


def test_an_answer_that_takes_too_long_is_broken_off_and_gives_back_its_room() -> None:
    slow, terms = Slow(0.02), Terms(TokenBudget(1000), deadline_seconds=0.1)
    with pytest.raises(Refused) as refused:
        written(GuardedEngine(slow, "m", terms))  # type: ignore[arg-type]
    assert refused.value.status == 504
    assert slow.aborted == {"x"}
    assert terms.budget.taken == 0


def test_a_reader_that_leaves_gives_back_room_and_tokens() -> None:
    rates = {"k": Rate(tokens=6000)}
    buckets = Buckets(lambda: 0.0)

    async def lease(*asked: Any) -> tuple[int, float]:
        return buckets.lease(*asked)

    terms = Terms(TokenBudget(1000), leases=Leases(lease), rate_of=lambda key: rates["k"])

    async def leave() -> None:
        answer = GuardedEngine(Slow(0.0), "m", terms).generate(GenerateRequest("x", [5, 6], 100))  # type: ignore[arg-type]
        await anext(answer)
        assert terms.budget.taken == 102
        await answer.aclose()

    asyncio.run(leave())
    assert terms.budget.taken == 0
    assert terms.leases is not None
    assert terms.leases._held["", "tokens"] == 600 - 3  # a portion was leased; two tokens were read, one was written


def test_a_key_is_held_to_its_limit_over_all_replicas() -> None:
    now = [0.0]
    buckets = Buckets(lambda: now[0])

    async def lease(*asked: Any) -> tuple[int, float]:
        return buckets.lease(*asked)

    replicas = [Leases(lease) for _ in range(4)]
    rate = Rate(requests=20, tokens=1000)

    async def taken() -> int:
        count = 0
        for turn in range(100):
            with contextlib.suppress(Refused):
                await replicas[turn % 4].take("k", rate, 10)
                count += 1
        with pytest.raises(Refused) as refused:
            await replicas[0].take("k", rate, 10)
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        return count

    assert 14 <= asyncio.run(taken()) <= 20  # a portion may lie unused at each replica
    now[0] += 60
    assert 14 <= asyncio.run(taken()) <= 26
    asyncio.run(replicas[0].take("another", rate, 10))


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 30)), max_size=60), st.integers(1, 100))
def test_no_more_is_leased_than_has_come(asked: list[tuple[int, float]], limit: int) -> None:
    now = [0.0]
    buckets, given_out = Buckets(lambda: now[0]), 0
    for wanted, pause in asked:
        now[0] += pause
        given_now, wait = buckets.lease("k", "tokens", limit, wanted)
        given_out += given_now
        assert (given_now == 0) == (wait > 0)
        assert given_out <= limit * (1 + now[0] / 60) + 1e-6


@pytest.fixture
def words(tmp_path: Path) -> Toxicity:
    file = tmp_path / "words.txt"
    file.write_text("grobian\n混蛋\n", encoding="utf-8")
    return Toxicity(lists=(str(file),))


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["You are ", "a gro", "bian", ", sir"], "You are a "),
        (["你是一个", "混", "蛋", "。"], "你是一个"),
        (["Good ", "morning"], "Good morning"),
    ],
)
def test_words_that_are_refused_are_not_shown(words: Toxicity, pieces: list[str], shown: str) -> None:
    said = written(GuardedEngine(Slow(0.0, pieces), "m", Terms(policies=[HarmfulWords(words)])))  # type: ignore[arg-type]
    text = "".join(each.text for each in said)
    assert shown.startswith(text)
    refused = shown != "".join(pieces)
    assert said[-1].finish == ("content_filter" if refused else "stop")
    assert text == shown or refused


def test_what_is_held_back_comes_in_the_end() -> None:
    class Nothing:
        def objection(self, text: str) -> str | None:
            return None

    async def pieces() -> AsyncGenerator[Delta]:
        for at in range(30):
            yield Delta((at,), f"word {at} ")
        yield Delta((), "", "length")

    async def read() -> list[Delta]:
        return [each async for each in passed(pieces(), [Nothing()])]

    said = asyncio.run(read())
    assert "".join(each.text for each in said) == "".join(f"word {at} " for at in range(30))
    assert [token for each in said for token in each.token_ids] == list(range(30))
    assert said[-1].finish == "length"


class Notes:
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, dict[str, str]]] = []

    def count(self, name: str, amount: float, tags: Any) -> None:
        self.told.append((name, amount, dict(tags)))

    observe = set = count


@pytest.fixture
def base(tiny: Any) -> Model:
    return Model.load(tiny.store.get("base", "checkpoint"))


def ask(api: Any, path: str, body: Any = None, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://x") as client:
            method = "GET" if body is None and "content" not in options else "POST"
            return await client.request(method, path, json=body, headers=KEY, **options)

    return asyncio.run(send())


CHAT = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 8}


def test_requests_are_counted_by_route_and_status_and_named(base: Model, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), meter=notes)
    with caplog.at_level("INFO", "llmyard.requests"):
        first = ask(api, "/v1/chat/completions", CHAT)
    second = ask(api, "/v1/nowhere/%s" % ("x" * 50), {})
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    counted = [(name, tags) for name, _, tags in notes.told if name == "llmyard_requests_total"]
    assert [tags for _, tags in counted] == [
        {"route": "/v1/chat/completions", "status": "200"}, {"route": "other", "status": "404"},
    ]  # fmt: skip
    told = {name: value for name, value, tags in notes.told if tags.get("model") == "base"}
    assert told["llmyard_generation_tokens_total"] == 8
    assert told["llmyard_prompt_tokens_total"] == len(base.tokenizer.encode("有一天"))
    assert told["llmyard_time_to_first_token_seconds"] > 0
    assert told["llmyard_inter_token_seconds"] > 0
    assert {"reason": "length", "model": "base", "route": "/v1/chat/completions"} in [tags for _, _, tags in notes.told]
    (line,) = caplog.messages
    assert first.headers["x-request-id"] in line
    assert "有一天" not in line
    assert "ly-right" not in line
    assert hash_of("ly-right") not in line


def test_every_metric_that_is_told_is_described(base: Model) -> None:
    from llmyard.serving.watching import METRICS

    notes = Notes()
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), meter=notes)
    ask(api, "/v1/chat/completions", CHAT)
    for name, _, tags in notes.told:
        assert set(tags) == set(METRICS[name].tags), name


def test_a_key_over_its_limit_is_told_when_to_come_back(base: Model) -> None:
    key = StoredKey(hash_of("ly-right"), rate=Rate(requests=2))
    api = build_api([base], KeyRing(lambda: [key]))
    answers = [ask(api, "/v1/chat/completions", CHAT) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert ask(api, "/v1/models").status_code == 200


def test_a_body_that_trickles_is_given_up(base: Model) -> None:
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), Limits(body_seconds=0.1))

    async def trickle() -> AsyncGenerator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    answer = ask(api, "/v1/chat/completions", content=trickle())
    assert answer.status_code == 408
    assert "0.1 seconds" in answer.json()["error"]["message"]


def test_words_that_are_asked_are_refused_and_words_that_are_written_end_the_answer(
    base: Model, words: Toxicity, tmp_path: Path
) -> None:
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), Limits(harmful_words=words))
    body = {**CHAT, "messages": [{"role": "user", "content": "你这个混蛋"}]}
    refused = ask(api, "/v1/chat/completions", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
    assert "混蛋" not in refused.text
    town = tmp_path / "town.txt"
    town.write_text("科拉镇\n", encoding="utf-8")
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), Limits(harmful_words=Toxicity(lists=(str(town),))))
    (choice,) = ask(api, "/v1/chat/completions", {**CHAT, "max_tokens": 60}).json()["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert "科" not in choice["message"]["content"]


def test_an_engine_that_has_ended_is_seen(base: Model) -> None:
    from llmyard.core.errors import LlmyardError
    from llmyard.serving.replica import check_engines

    api = build_api([base], KeyRing.of([hash_of("ly-right")]))
    assert ask(api, "/health").status_code == 200
    check_engines([base])
    engine: Any = base.engine
    engine.close()
    assert ask(api, "/health").status_code == 503
    with pytest.raises(LlmyardError, match="base"):
        check_engines([base])


def test_a_models_lineage_goes_back_to_its_beginning(tmp_path: Path, base: Model) -> None:
    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage
    from llmyard.serving.replica import origin_of

    store = ArtifactStore(Storage(str(tmp_path)))
    made = []
    for kind, name in (("shards", "corpus"), ("tokenizer", "corpus"), ("checkpoint", "base")):
        parents = tuple(each.reference for each in made) if kind == "checkpoint" else ()
        with store.begin(kind, name, "1") as draft:
            made.append(draft.commit(config={}, parents=(*parents, "shards/gone@v0")[: len(parents) + 1], metrics={}))
    origin = origin_of(made[-1], "models:/base@champion")
    assert origin.alias == "models:/base@champion"
    assert [each["artifact"] for each in origin.lineage][:3] == [
        made[2].reference, made[0].reference, made[1].reference,
    ]  # fmt: skip
    assert origin.lineage[-1] == {"artifact": "shards/gone@v0", "kind": "shards", "created": "", "parents": []}
    api = build_api([base], KeyRing.of([hash_of("ly-right")]), origins=[dataclasses.replace(origin)])
    told = ask(api, "/v1/models/base").json()
    assert told["alias"] == "models:/base@champion"
    assert told["created"] > 1.7e9
    assert [each["kind"] for each in told["lineage"]] == ["checkpoint", "shards", "tokenizer", "shards"]


def test_bounds_of_a_scale_are_ordered() -> None:
    with pytest.raises(ValueError, match="less than least"):
        Scale(least=3, most=2)
