"""CTranslate2's engine answers as the torch engine does, token by token; the rest is in the contract suite."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertForPreTraining

from llmyard.compression.ctranslate2_export import export
from llmyard.core.errors import CorruptArtifact, LlmyardError, RequestError
from llmyard.generation import ctranslate2_engine
from llmyard.generation.ctranslate2_engine import CTranslate2Engine, by_size
from llmyard.generation.ctranslate2_files import WEIGHTS, read_weights, write_weights
from llmyard.generation.ctranslate2_models import is_exported
from llmyard.generation.engine import GenerateRequest, Unsupported
from llmyard.generation.parity import parity
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama
from llmyard.models.families import ClassHead, SpanHeads, build, build_labeller, load, save
from llmyard.tasks.task import Decoding, Marked
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import FILE, Tokenizer

TEXTS = ("Malo found a green lamp in Kora Town.", "马洛在科拉镇找到了一盏绿色的灯。", "hello world, 你好世界 3 12")
SCHEMA = json.dumps(
    {
        "type": "object", "required": ["a", "b"],
        "properties": {"a": {"type": "string", "maxLength": 4}, "b": {"type": "integer"}},
    }
)  # fmt: skip
SIZES: dict[str, Any] = {"hidden_size": 32, "heads": 2}
DECODINGS = {
    "greedy": Decoding(20),
    "sampled": Decoding(20, temperature=1.0, seed=3),
    "nucleus": Decoding(20, temperature=0.3, seed=4, top_p=0.8),
    "no end before": Decoding(20, min_new_tokens=15),
    "longer than it may be": Decoding(6, min_new_tokens=15),
    "json": Decoding(40, json_schema=SCHEMA),
    "sampled json": Decoding(30, json_schema=SCHEMA, temperature=2.0, seed=1),
    "Chinese": Decoding(20, language="zh"),
    "English": Decoding(20, language="en"),
    "forbidden": Decoding(20, forbidden=("o", "a", "的")),
    "no repeat": Decoding(20, no_repeat=2),
    "other ends": Decoding(20, end_tokens=("<|separator|>", "<|en|>"), min_new_tokens=3),
    "all": Decoding(20, temperature=0.7, seed=9, no_repeat=1, language="en", forbidden=("l",), min_new_tokens=5),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, BpeTokenizer(vocab_size=300))


def made(name: str, tokenizer: Tokenizer) -> Any:
    """Returns a model of a family whose answers are no repetition; it has more ids than the tokenizer."""
    ids = {"vocab_size": tokenizer.vocab_size + 4, "pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id}
    torch.manual_seed(3)
    shapes: dict[str, Any] = {
        "gpt2": Gpt2(**SIZES, layers=2), "llama": Llama(**SIZES, layers=2, key_value_heads=1, feed_forward_size=48),
        "t5": T5(**SIZES, feed_forward_size=48),
        "transformer": EncoderDecoder(**SIZES, feed_forward_size=48),
        "post-norm transformer": EncoderDecoder(**SIZES, feed_forward_size=48, norm="post", positions="learned"),
    }  # fmt: skip
    if name == "bart":
        shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
        special = {"pad_token_id": tokenizer.pad_id, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
        size = {"vocab_size": ids["vocab_size"], "max_position_embeddings": 96}
        model: Any = BartForConditionalGeneration(BartConfig(**shape, **more, **special, **size))
    else:
        model = build(shapes[name], **ids, max_tokens=96)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def pairs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Returns a model's folder, its torch engine and its CTranslate2 engine."""
    root, opened = tmp_path_factory.mktemp("pairs"), dict[str, Any]()

    def pair(name: str) -> Any:
        if name not in opened:
            folder = root / name
            save(made(name, tokenizer), folder)
            tokenizer.save(folder / FILE)
            export(folder, folder / "exported")
            engines = TorchEngine.load(folder, name, 1), CTranslate2Engine.load(folder / "exported", name, 1)
            opened[name] = folder, *engines
        return opened[name]

    yield pair
    for _, one, other in opened.values():
        one.close()
        other.close()


FAMILIES = ["gpt2", "llama", "t5", "transformer", "post-norm transformer", "bart"]


def prompts_of(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[list[int]]:
    """Returns prompts of very different lengths, many of them alike."""
    drawn = random.Random(seed)
    lengths = [drawn.choice((1, 1, 2, 3, 5, 8, 8, 8, 13, 40)) for _ in range(count)]
    return [[drawn.randrange(tokenizer.pad_id + 1, tokenizer.vocab_size + 4) for _ in range(each)] for each in lengths]


def said(engine: Any, requests: Sequence[GenerateRequest]) -> list[tuple[list[int], str, Any]]:
    """Returns ids, text and finish of answers that are asked for at once."""

    async def ask(request: GenerateRequest) -> tuple[list[int], str, Any]:
        ids, text, finish = list[int](), "", None
        async for delta in engine.generate(request):
            ids, text, finish = [*ids, *delta.token_ids], text + delta.text, delta.finish
        return ids, text, finish

    async def gather() -> Any:
        return await asyncio.gather(*(ask(request) for request in requests))

    found: list[tuple[list[int], str, Any]] = asyncio.run(gather())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_the_models_own(family: str, pairs: Any, tokenizer: Tokenizer) -> None:
    folder, _, engine = pairs(family)
    found = parity(engine, load(folder), prompts_of(tokenizer, 40), 30, at_once=40)
    assert found.differing == ()
    assert found.near == 0  # of float32 models so small
    assert found.tokens > 600


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("family", ["gpt2", "transformer"])
def test_what_requests_ask_for_is_done_as_the_torch_engine_does_it(
    family: str, decoding: str, pairs: Any, tokenizer: Tokenizer
) -> None:
    _, torch_engine, engine = pairs(family)
    requests = [
        GenerateRequest(str(at), prompt, **asdict(DECODINGS[decoding]))
        for at, prompt in enumerate(prompts_of(tokenizer, 24))
    ]
    found = said(engine, requests)
    assert found == said(torch_engine, requests)
    if "json" in decoding:
        ended = [json.loads(text) for _, text, finish in found if finish == "stop"]
        assert all(set(each) == {"a", "b"} for each in ended)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_kinds_of_requests_in_one_batch(family: str, pairs: Any, tokenizer: Tokenizer) -> None:
    _, torch_engine, engine = pairs(family)
    kinds = list(DECODINGS.values())
    requests = [
        GenerateRequest(str(at), prompt, **asdict(replace(kinds[at % len(kinds)], max_new_tokens=5 + at % 9)))
        for at, prompt in enumerate(prompts_of(tokenizer, 32, seed=5))
    ]
    assert said(engine, requests) == said(torch_engine, requests)


def test_loops_that_are_cut_go_on(pairs: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2_engine, "LOGIT_BYTES", 1)  # as of a vocabulary that is far larger
    for family in ("gpt2", "t5"):
        _, torch_engine, engine = pairs(family)
        for kind in ("no repeat", "no end before"):
            decoding = replace(DECODINGS[kind], max_new_tokens=30, no_repeat=3)
            requests = [
                GenerateRequest(str(at), prompt, **asdict(decoding))
                for at, prompt in enumerate(prompts_of(tokenizer, 12))
            ]
            assert said(engine, requests) == said(torch_engine, requests)


@pytest.mark.parametrize("family", ["t5", "transformer"])
def test_a_short_answer_does_not_wait_for_a_long_one(family: str, pairs: Any, tokenizer: Tokenizer) -> None:
    _, torch_engine, engine = pairs(family)
    long = GenerateRequest("long", [5, 6, 7], 900, min_new_tokens=900)
    short = [GenerateRequest(f"short-{at}", each, 4) for at, each in enumerate(prompts_of(tokenizer, 6))]

    async def scene() -> tuple[list[str], list[int], list[list[int]]]:
        ended, ids, begun = list[str](), list[int](), asyncio.Event()

        async def ask(request: GenerateRequest) -> list[int]:
            said = list[int]()
            async for delta in engine.generate(request):
                said += delta.token_ids
                begun.set()
            ended.append(request.id)
            return said

        first = asyncio.create_task(ask(long))
        await begun.wait()
        others = await asyncio.gather(*(ask(each) for each in short))
        ids = await first
        return ended, ids, others

    ended, ids, others = asyncio.run(scene())
    assert ended[-1] == "long"
    assert [(ids, others)] == [(said(torch_engine, [long])[0][0], [each for each, _, _ in said(torch_engine, short)])]
    assert engine.stats().running == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_those_of_the_torch_engine(family: str, pairs: Any, tokenizer: Tokenizer) -> None:
    _, torch_engine, engine = pairs(family)
    prompts = prompts_of(tokenizer, 40)
    answers = prompts_of(tokenizer, 40, seed=1)
    for at in range(0, 40, 3):  # what it would say itself, and that but for the last token
        ((ids, _, _),) = said(torch_engine, [GenerateRequest("x", prompts[at], 5)])
        answers[at] = [*ids[: 5 - at % 2], *([7] * (at % 2))] or [7]
    wanted, found = torch_engine.score_batch(prompts, answers), engine.score_batch(prompts, answers)
    assert [each.total for each in found] == pytest.approx([each.total for each in wanted], abs=1e-3)
    assert [(each.tokens, each.is_likeliest) for each in found] == [(each.tokens, each.is_likeliest) for each in wanted]
    assert 3 < sum(each.is_likeliest for each in found) < 20
    options = [[[5, 6], [7], [8, 9, 10]]] * 3
    assert engine.rank_batch(prompts[:3], options)[0] == pytest.approx(
        torch_engine.rank_batch(prompts[:3], options)[0], abs=1e-3
    )
    with pytest.raises(Unsupported, match="an empty prompt or answer"):
        engine.score_batch([[5]], [[]])
    assert engine.score_batch([], []) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_torch_engine(family: str, pairs: Any) -> None:
    _, torch_engine, engine = pairs(family)
    texts = [*TEXTS, "", "灯"]
    wanted, found = asyncio.run(torch_engine.encode(texts)), asyncio.run(engine.encode(texts))
    for one, other in zip(wanted, found, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    with pytest.raises(Unsupported, match="split it"):
        asyncio.run(engine.encode(["灯" * 5000]))


def test_it_says_what_the_torch_engine_says_of_a_model(pairs: Any) -> None:
    for family in FAMILIES:
        _, torch_engine, engine = pairs(family)
        wanted = torch_engine.capabilities()
        if family == "transformer":  # endless sinusoids end with CTranslate2's table of them
            wanted = replace(wanted, max_prompt_tokens=1024)
        assert engine.capabilities() == replace(wanted, engine="ctranslate2")
        assert engine.model.config.is_encoder_decoder == torch_engine.model.config.is_encoder_decoder
        with pytest.raises(Unsupported, match="chooses no labels"):
            engine.classify_batch([Marked("x")])
        with pytest.raises(Unsupported, match="does not tag"):
            engine.annotate_batch(["x"])


def test_an_answer_ends_with_the_table_of_positions(pairs: Any, tokenizer: Tokenizer) -> None:
    _, _, engine = pairs("transformer")
    ((ids, _, finish),) = said(engine, [GenerateRequest("x", [5, 6], 1500, min_new_tokens=1500)])
    assert (len(ids), finish) == (1024, "length")
    with pytest.raises(Unsupported, match="takes 1 to 1024"):
        said(engine, [GenerateRequest("x", [5] * 1025)])


@pytest.mark.parametrize("kind", ["tagger", "reader", "classifier"])
def test_labels_are_those_of_the_torch_engine(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = {
        "tagger": SpanHeads(("person", "place"), ("lives_in", "knows")),
        "reader": SpanHeads(("answer",), (), tokenizer.encode(",")[0]), "classifier": ClassHead(("好", "bad"), parts=2),
    }[kind]  # fmt: skip
    shape = Bert(**SIZES, layers=2, feed_forward_size=48)
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    model: Any = build_labeller(shape, heads, **ids, max_tokens=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    save(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model" / FILE)
    export(tmp_path / "model", tmp_path / "exported")
    torch_engine, engine = (
        TorchEngine.load(tmp_path / "model", kind, 1),
        CTranslate2Engine.load(tmp_path / "exported", kind, 1),
    )
    assert engine.capabilities() == replace(torch_engine.capabilities(), engine="ctranslate2")
    texts = [*TEXTS, "", "灯, a lamp"] * 8
    if kind == "classifier":
        marked = [Marked(text, ((0, 2), (3, 5))) for text in texts if text]
        wanted, found = torch_engine.classify_batch(marked), engine.classify_batch(marked)
        assert [each.label for each in found] == [each.label for each in wanted]
        assert found[0].shares == pytest.approx(wanted[0].shares, abs=1e-4)
    else:
        wanted, found = torch_engine.annotate_batch(texts), engine.annotate_batch(texts)
        plain = [[[(e.text, e.type, e.start) for e in each.entities], each.triples] for each in wanted]
        assert [[[(e.text, e.type, e.start) for e in each.entities], each.triples] for each in found] == plain
        assert any(each.entities for each in found)
    vectors = asyncio.run(torch_engine.encode(texts[:5]))
    for one, other in zip(asyncio.run(engine.encode(texts[:5])), vectors, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    with pytest.raises(Unsupported, match="does not write"):
        engine.generate_batch([[5]], Decoding(3))
    with pytest.raises(Unsupported, match="does not write"):
        engine.score_batch([[5]], [[5]])
    torch_engine.close()
    engine.close()


def test_a_pretrained_encoder_gives_vectors_only(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = BertForPreTraining(BertConfig(vocab_size=tokenizer.vocab_size, **shape, max_position_embeddings=64)).eval()
    save(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model" / FILE)
    export(tmp_path / "model", tmp_path / "exported")
    engine = CTranslate2Engine.load(tmp_path / "exported", "bert", 1)
    found = asyncio.run(engine.encode(TEXTS))
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            hidden = model.bert(torch.tensor([tokenizer.encode(text)])).last_hidden_state
        assert vector == pytest.approx(hidden[0].mean(0).tolist(), abs=1e-4)
    able = engine.capabilities()
    assert [able.generates, able.annotates, able.classifies] == [False] * 3
    with pytest.raises(Unsupported):
        engine.annotate_batch(TEXTS)
    engine.close()


def test_weights_of_8_bits_answer_too(pairs: Any, tokenizer: Tokenizer) -> None:
    folder, torch_engine, _ = pairs("llama")
    export(folder, folder / "int8", "int8")
    engine = CTranslate2Engine.load(folder / "int8", "llama", 1)
    requests = [GenerateRequest(str(at), each, 10) for at, each in enumerate(prompts_of(tokenizer, 12))]
    assert all(len(ids) == 10 or finish == "stop" for ids, _, finish in said(engine, requests))
    first = [each.total for each in engine.score_batch([[5, 6]], [[7, 8]])]
    assert first == pytest.approx([each.total for each in torch_engine.score_batch([[5, 6]], [[7, 8]])], abs=1.0)
    vectors = asyncio.run(engine.encode(TEXTS)), asyncio.run(torch_engine.encode(TEXTS))
    for one, other in zip(*(torch.tensor(each) for each in vectors), strict=True):
        # A CPU without instructions for 8 bits (VNNI) rounds more: 0.25 was seen, 0.1 with them.
        assert float((one - other).norm() / other.norm()) < 0.4
    engine.close()
    whole = CTranslate2Engine.load(folder / "int8", "llama", 1, compute_type="float32")
    assert len(said(whole, requests)) == 12
    whole.close()


def test_prompts_of_like_lengths_are_read_together() -> None:
    assert by_size([5, 5, 6, 30, 31], [10] * 5, 32) == [[2, 1, 0], [4, 3]]
    assert by_size([5, 30], [100, 100], 32) == [[1, 0]]
    assert by_size([5, 30], [100, 3], 32) == [[0], [1]]
    assert by_size([1, 2, 1], [100] * 3, 32) == [[2, 0], [1]]  # one of a single token would be repeated
    assert by_size([1, 2, 1], [100] * 3, 32, repeats=False) == [[1, 2, 0]]
    assert by_size([4] * 5, [1] * 5, 2) == [[1, 0], [3, 2], [4]]
    assert by_size([], [], 32) == []


def test_parts_of_a_file_are_written_as_they_were_read(pairs: Any) -> None:
    for family in ("gpt2", "t5"):
        folder, _, _ = pairs(family)
        data = (folder / "exported" / WEIGHTS).read_bytes()
        weights = read_weights(data)
        again = read_weights(write_weights(weights))
        assert (again.kind, again.revision) == (weights.kind, weights.revision)
        assert {name: (each.shape, each.type, bytes(each.data)) for name, each in again.variables.items()} == {
            name: (each.shape, each.type, bytes(each.data)) for name, each in weights.variables.items()
        }
        assert len(write_weights(weights)) == len(data)
        for damaged in (data[:-9], data[: len(data) // 2], b"", b"\x07" + data[1:]):
            with pytest.raises(CorruptArtifact):
                read_weights(damaged)


def test_folders_without_such_a_model_are_refused(pairs: Any, tmp_path: Path) -> None:
    folder, _, _ = pairs("gpt2")
    assert is_exported(folder / "exported")
    assert not is_exported(folder)
    assert not is_exported(tmp_path)
    with pytest.raises(RequestError, match="holds no model that llmyard exported"):
        CTranslate2Engine.load(folder)
    with pytest.raises(RequestError, match="compute_type is 'int3'"):
        CTranslate2Engine.load(folder / "exported", compute_type="int3")
    broken = tmp_path / "broken"
    broken.mkdir()
    for each in (folder / "exported").iterdir():
        (broken / each.name).write_bytes(each.read_bytes())
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(CorruptArtifact, match="cannot read"):
        CTranslate2Engine.load(broken)


def test_a_failure_inside_the_loop_is_told(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, engine = pairs("gpt2")

    def fail(*_: Any) -> Any:
        raise RuntimeError("secret internals")

    wanted = said(engine, [GenerateRequest("x", [5, 6], 5)])
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_advance", fail)
        with pytest.raises(LlmyardError, match="the engine failed"):
            said(engine, [GenerateRequest("x", [5, 6], 5)])
    assert said(engine, [GenerateRequest("x", [5, 6], 5)]) == wanted
