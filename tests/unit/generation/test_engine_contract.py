"""What every engine holds to. To add an engine, add a line to ENGINES."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmyard.compression.ctranslate2_export import export
from llmyard.core.errors import LlmyardError
from llmyard.generation.ctranslate2_engine import CTranslate2Engine
from llmyard.generation.engine import Delta, Engine, EngineClosed, GenerateRequest, Unsupported
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.families import load
from llmyard.tasks.config import Translation
from llmyard.tasks.task import Decoding
from llmyard.tasks.translation import TranslationTask
from llmyard.tokens.tokenizer import FILE, Tokenizer

PROMPTS = ("有一天", "One", "有", "One morning, M", "马洛", "?")
TEXTS = ("Malo lives in Kora Town.", "马洛住在科拉镇。", "", "a lamp", "科拉镇。马洛住在科拉镇。")


@contextlib.contextmanager
def torch_fails(engine: Any) -> Iterator[None]:
    """Breaks the model of a TorchEngine for the time of the block."""

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("secret internals")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._model.get_input_embeddings(), "forward", fail)
        yield


def ctranslate2(folder: Path) -> CTranslate2Engine:
    """Returns an engine with a model's export, which is made once."""
    target = folder.with_name(f"{folder.name}-ctranslate2")
    if not target.exists():
        export(folder, target)
    return CTranslate2Engine.load(target, "checkpoint/tiny@1", threads=1)


@contextlib.contextmanager
def ctranslate2_fails(engine: Any) -> Iterator[None]:
    """Breaks the model of a CTranslate2Engine for the time of the block."""

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("secret internals")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "hidden", "forward"):
            if hasattr(engine._model, name):
                patch.setattr(engine._model, name, fail)
        yield


@dataclass(frozen=True)
class Kind:
    """An engine with a model to be tested.

    Attributes:
        make: Loads the engine from a model's folder.
        model: Name of the tiny model.
        fails: Breaks the model for the time of a block.
    """

    make: Callable[[Path], Any]
    model: str
    fails: Callable[[Any], contextlib.AbstractContextManager[None]]


ENGINES: dict[str, tuple[Callable[[Path], Any], Callable[[Any], contextlib.AbstractContextManager[None]]]] = {
    "torch": (lambda folder: TorchEngine.load(folder, "checkpoint/tiny@1", threads=1), torch_fails),
    "ctranslate2": (ctranslate2, ctranslate2_fails),
}
KINDS = {
    f"{engine}-{model}": Kind(make, model, fails)
    for engine, (make, fails) in ENGINES.items()
    for model in ("base", "translator", "triples")
}
WRITING = [name for name, kind in KINDS.items() if kind.model != "triples"]
TAGGING = [name for name, kind in KINDS.items() if kind.model == "triples"]


class Subject:
    """An engine under test, with what is needed to know the right answers."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.tokenizer = Tokenizer.load(folder / FILE)
        self.engine: Engine = kind.make(folder)

    def prompt(self, text: str) -> list[int]:
        if self.kind.model == "base":
            return self.tokenizer.encode(text)
        return TranslationTask(Translation()).prompt({"source": text, "target_language": "zh"}, self.tokenizer)

    def request(self, text: str, max_new_tokens: int = 24, **options: Any) -> GenerateRequest:
        options = {"id": f"{text}-{max_new_tokens}-{options}", **options}
        return GenerateRequest(prompt=self.prompt(text), max_new_tokens=max_new_tokens, **options)

    def naive(self, request: GenerateRequest) -> list[int]:
        """The greedy answer, each token from the whole sequence anew: no batch, no padding, no cache."""
        model, prompt = load(self.folder), list(request.prompt)
        ids: list[int] = []
        with torch.inference_mode():
            while len(ids) < request.max_new_tokens:
                if self.kind.model == "base":
                    logits = model(input_ids=torch.tensor([prompt + ids])).logits
                else:
                    logits = model(torch.tensor([prompt]), torch.tensor([prompt[-1:] + ids])).logits
                token = int(logits[0, -1].argmax())
                if token == self.tokenizer.end_id:
                    break
                ids.append(token)
        return ids


@pytest.fixture
def open_subject(tiny: Any) -> Iterator[Callable[[str], Subject]]:
    opened = []

    def make(name: str) -> Subject:
        opened.append(Subject(KINDS[name], tiny.folders[KINDS[name].model]))
        return opened[-1]

    yield make
    for subject in opened:
        asyncio.run(subject.engine.drain())


@pytest.fixture(params=WRITING)
def writer(request: pytest.FixtureRequest, open_subject: Callable[[str], Subject]) -> Subject:
    return open_subject(request.param)


@pytest.fixture(params=TAGGING)
def tagger(request: pytest.FixtureRequest, open_subject: Callable[[str], Subject]) -> Subject:
    return open_subject(request.param)


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, open_subject: Callable[[str], Subject]) -> Subject:
    return open_subject(request.param)


async def read(engine: Engine, request: GenerateRequest) -> list[Delta]:
    return [delta async for delta in engine.generate(request)]


def ids_of(deltas: Sequence[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def answers(engine: Engine, requests: Sequence[GenerateRequest]) -> list[list[Delta]]:
    """All answers, asked for at once."""

    async def gather() -> list[list[Delta]]:
        return await asyncio.gather(*(read(engine, request) for request in requests))

    return asyncio.run(gather())


def answer(engine: Engine, request: GenerateRequest) -> list[Delta]:
    return answers(engine, [request])[0]


def test_says_what_it_can_do(subject: Subject) -> None:
    able = subject.engine.capabilities()
    assert able.model == "checkpoint/tiny@1"
    assert able.family
    assert (able.generates, able.annotates) == ((False, True) if subject.kind.model == "triples" else (True, False))
    assert able.max_prompt_tokens > 0
    if subject.kind.model == "base":
        assert (able.max_prompt_tokens, able.max_total_tokens) == (64, 65)


def test_greedy_answers_are_those_of_a_naive_loop(writer: Subject) -> None:
    for text in PROMPTS:
        request = writer.request(text)
        assert ids_of(answer(writer.engine, request)) == writer.naive(request)


def test_a_batch_of_others_changes_no_token(writer: Subject) -> None:
    # Short and long prompts and answers, greedy and sampled: sequences leave the batch at different times.
    requests = [
        writer.request(text, length, temperature=heat, seed=5)
        for text, length, heat in zip(PROMPTS, (24, 3, 30, 1, 12, 7), (0.0, 1.0, 0.0, 0.7, 0.0, 2.0), strict=True)
    ]
    alone = [ids_of(answer(writer.engine, request)) for request in requests]
    assert [ids_of(deltas) for deltas in answers(writer.engine, requests)] == alone


def test_pieces_add_up_and_no_character_is_split(writer: Subject) -> None:
    text = "有一天" if writer.kind.model == "base" else "Malo found a green lamp."
    deltas = answer(writer.engine, writer.request(text, 60))
    assert len(deltas) > 5
    said = "".join(delta.text for delta in deltas)
    assert said == writer.tokenizer.decode(ids_of(deltas))
    assert said in ("，马洛去了科拉镇。", "马洛找到了一盏绿色的灯。")
    assert any(not delta.text and delta.token_ids for delta in deltas)  # a character of several tokens was held back
    assert not any("\ufffd" in delta.text for delta in deltas)
    for text in PROMPTS:  # what is cut or not even text adds up too
        for length in (1, 2, 3, 20):
            cut = answer(writer.engine, writer.request(text, length, temperature=1.5, seed=length))
            assert "".join(delta.text for delta in cut) == writer.tokenizer.decode(ids_of(cut))
            assert not any(delta.text.endswith("\ufffd") for delta in cut[:-1])


def test_finish_says_why(writer: Subject) -> None:
    text = "有一天" if writer.kind.model == "base" else "Malo found a green lamp."
    whole = answer(writer.engine, writer.request(text, 60))
    assert [delta.finish for delta in whole] == [None] * (len(whole) - 1) + ["stop"]
    assert writer.tokenizer.end_id not in ids_of(whole)
    for length in (1, 4):
        cut = answer(writer.engine, writer.request(text, length))
        assert (ids_of(cut), cut[-1].finish) == (ids_of(whole)[:length], "length")


def test_seeds_make_sampling_reproducible(writer: Subject) -> None:
    def sampled(seed: int) -> list[int]:
        return ids_of(answer(writer.engine, writer.request("One", 20, temperature=3.0, seed=seed)))

    assert sampled(1) == sampled(1)
    assert len({tuple(sampled(seed)) for seed in range(5)}) > 1
    cold = ids_of(answer(writer.engine, writer.request("One", 20, temperature=1e-300, seed=3)))
    assert cold == ids_of(answer(writer.engine, writer.request("One", 20)))


def test_an_aborted_answer_says_so_and_frees_its_place(writer: Subject) -> None:
    async def scene() -> tuple[list[Delta], list[Delta]]:
        request = writer.request("?", 2000 if writer.kind.model == "translator" else 50, temperature=50.0)
        other = asyncio.create_task(read(writer.engine, writer.request("有", 10)))
        said = []
        async for delta in writer.engine.generate(request):
            said.append(delta)
            if len(said) == 1:
                writer.engine.abort(request.id)
        writer.engine.abort(request.id)  # ended
        writer.engine.abort("unknown")
        return said, await other

    said, other = asyncio.run(scene())
    if said[-1].finish == "aborted":  # a small model may have ended by itself before
        assert writer.engine.stats().aborted == 1
    assert said[-1].finish is not None
    assert other == answer(writer.engine, writer.request("有", 10))
    assert writer.engine.stats().running == 0


def test_a_reader_may_leave_early(writer: Subject) -> None:
    async def scene() -> None:
        deltas = writer.engine.generate(writer.request("?", 40, temperature=50.0))
        await anext(deltas)
        await deltas.aclose()
        waiting = asyncio.create_task(read(writer.engine, writer.request("?", 40, temperature=50.0)))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

    asyncio.run(scene())
    assert ids_of(answer(writer.engine, writer.request("有"))) == writer.naive(writer.request("有"))


@pytest.mark.parametrize(
    "change",
    [{"prompt": []}, {"prompt": [5] * 5000}, {"prompt": [10**6]}, {"prompt": [-1]}, {"max_new_tokens": 0},
     {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}],
    ids=str,
)  # fmt: skip
def test_refuses_requests_that_cannot_be_answered(writer: Subject, change: dict[str, Any]) -> None:
    good = writer.request("有", 5)
    expected = answer(writer.engine, good)

    async def scene() -> list[Delta]:
        beside = asyncio.create_task(read(writer.engine, good))
        with pytest.raises(Unsupported):
            await read(writer.engine, replace(good, id="bad", **change))
        return await beside

    assert asyncio.run(scene()) == expected


def test_two_requests_under_way_have_two_ids(writer: Subject) -> None:
    async def scene() -> None:
        first = writer.engine.generate(writer.request("?", 40, temperature=50.0))
        await anext(first)
        with pytest.raises(Unsupported, match="is under way"):
            await read(writer.engine, writer.request("?", 40, temperature=50.0))
        await first.aclose()
        await read(writer.engine, writer.request("?", 40, temperature=50.0))

    asyncio.run(scene())


def test_refuses_calls_of_another_kind(subject: Subject) -> None:
    tags, engine = subject.kind.model == "triples", subject.engine
    wrong: Any = read(engine, GenerateRequest("x", [5])) if tags else engine.annotate(["马洛"])
    with pytest.raises(Unsupported):
        asyncio.run(wrong)


def test_annotates_alone_as_in_a_batch(tagger: Subject) -> None:
    async def alone() -> list[Any]:
        return [(await tagger.engine.annotate([text]))[0] for text in TEXTS]

    together = asyncio.run(tagger.engine.annotate(TEXTS * 10))
    assert together == asyncio.run(alone()) * 10
    assert together[0].triples == (("Malo", "lives_in", "Kora Town"),)
    assert together[1].triples == (("马洛", "lives_in", "科拉镇"),)
    assert all(text[each.start : each.end] == each.text for text, found in zip(TEXTS, together, strict=False)
               for each in found.entities)  # fmt: skip
    assert together[2].entities == ()
    assert asyncio.run(tagger.engine.annotate([])) == []
    with pytest.raises(Unsupported, match="split it"):
        asyncio.run(tagger.engine.annotate(["马洛" * 100]))


def test_encodes_alone_as_in_a_batch(subject: Subject) -> None:
    async def alone() -> list[list[float]]:
        return [(await subject.engine.encode([text]))[0] for text in TEXTS]

    vectors = asyncio.run(subject.engine.encode(TEXTS))
    for one, other in zip(vectors, asyncio.run(alone()), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({len(vector) for vector in vectors}) == 1
    assert vectors[0] != vectors[1]


def test_draining_answers_what_is_under_way_and_refuses_the_rest(writer: Subject) -> None:
    requests = [writer.request(text, 30) for text in PROMPTS]
    expected = answers(writer.engine, requests)

    async def scene() -> list[list[Delta]]:
        reading = [asyncio.create_task(read(writer.engine, request)) for request in requests]
        await asyncio.sleep(0)  # each has sent its request
        draining = asyncio.create_task(writer.engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(EngineClosed):
            await read(writer.engine, writer.request("late"))
        with pytest.raises(EngineClosed):
            await writer.engine.encode(["late"])
        await draining
        await writer.engine.drain()
        return await asyncio.gather(*reading)

    assert asyncio.run(scene()) == expected


def test_counts_add_up(writer: Subject) -> None:
    requests = [writer.request(text, 1 + 5 * at) for at, text in enumerate(PROMPTS)]
    said = answers(writer.engine, requests)
    stats = writer.engine.stats()
    assert (stats.requests, stats.running, stats.waiting, stats.aborted, stats.failed) == (len(requests), 0, 0, 0, 0)
    assert stats.prompt_tokens == sum(len(request.prompt) for request in requests)
    assert stats.generated_tokens == sum(len(ids_of(deltas)) for deltas in said)
    answers(writer.engine, requests[:1])
    assert stats.requests == len(requests)  # a snapshot does not change
    assert writer.engine.stats().requests == len(requests) + 1


def test_a_failure_reaches_all_who_wait_and_the_engine_goes_on(subject: Subject) -> None:
    async def fail() -> list[Any]:
        calls: list[Awaitable[Any]] = [subject.engine.encode([text]) for text in TEXTS]
        if subject.kind.model == "triples":
            calls += [subject.engine.annotate([text]) for text in TEXTS]
        else:
            calls += [read(subject.engine, subject.request(text)) for text in PROMPTS]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)

    with subject.kind.fails(subject.engine):
        failures = asyncio.run(fail())
    failed = [each for each in failures if isinstance(each, BaseException)]
    assert len(failed) >= len(PROMPTS) - 1
    assert all(isinstance(each, LlmyardError) for each in failed)
    if subject.kind.model == "triples":
        assert asyncio.run(subject.engine.annotate([TEXTS[1]]))[0].triples
    else:
        assert ids_of(answer(subject.engine, subject.request("有"))) == subject.naive(subject.request("有"))
        assert subject.engine.stats().failed == len(PROMPTS)


def test_a_caller_that_leaves_a_call_does_not_stop_the_engine(subject: Subject) -> None:
    async def scene() -> list[list[float]]:
        calls = [asyncio.create_task(subject.engine.encode([text] * 20)) for text in TEXTS]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return await asyncio.wait_for(subject.engine.encode(["马洛"]), 60)

    assert len(asyncio.run(scene())) == 1


@pytest.mark.parametrize("name", [name for name in WRITING if KINDS[name].model == "base"])
def test_an_answer_ends_where_the_positions_do(name: str, open_subject: Callable[[str], Subject]) -> None:
    subject = open_subject(name)
    engine, filler = subject.engine, subject.tokenizer.encode("灯" * 30)
    requests = [
        GenerateRequest(str(length), filler[:length], 100, temperature=50.0, seed=length) for length in (64, 63, 40, 2)
    ]
    for said in (answers(engine, requests), [answer(engine, request) for request in requests]):
        for request, deltas in zip(requests, said, strict=True):
            room = 64 + 1 - len(request.prompt)
            assert len(ids_of(deltas)) == room or deltas[-1].finish == "stop"
            assert len(ids_of(deltas)) <= room
            assert deltas[-1].finish in ("length", "stop")
    with pytest.raises(Unsupported):
        answer(engine, GenerateRequest("65", filler[:65]))


def test_twenty_at_once(subject: Subject) -> None:
    async def tag() -> list[Any]:
        return await asyncio.gather(*(subject.engine.annotate([TEXTS[at % 5]]) for at in range(20)))

    if subject.kind.model == "triples":
        found = asyncio.run(tag())
        assert found[:5] * 4 == found
        return
    requests = [replace(subject.request(PROMPTS[at % 6], 5 + at % 3), id=str(at)) for at in range(20)]
    assert [ids_of(deltas) for deltas in answers(subject.engine, requests)] == [
        subject.naive(request) for request in requests
    ]


@pytest.mark.parametrize("name", WRITING)
def test_batches_without_a_loop(name: str, open_subject: Callable[[str], Subject]) -> None:
    subject = open_subject(name)
    engine: Any = subject.engine
    prompts = [subject.prompt(text) for text in PROMPTS] * 8  # more than one batch
    expected = [
        "".join(delta.text for delta in deltas)
        for deltas in answers(engine, [subject.request(text, 12) for text in PROMPTS])
    ]
    assert engine.generate_batch(prompts, Decoding(12)) == expected * 8
    assert engine.generate_batch([], Decoding(12)) == []
    with pytest.raises(Unsupported):
        engine.generate_batch([[1], []], Decoding(12))
    with subject.kind.fails(engine), pytest.raises(LlmyardError):
        engine.generate_batch(prompts, Decoding(12))
    assert engine.generate_batch(prompts[:2], Decoding(12)) == expected[:2]
