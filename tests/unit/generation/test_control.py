"""Answers held to a length, a language, and to words that do not stand in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmyard.generation.engine import Unsupported
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import Gpt2
from llmyard.models.families import build
from llmyard.tasks.task import Decoding
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "猫坐在垫子上，狗也在。", "a cat, the Cat and cats", "红色的灯在猫旁边"]


@pytest.fixture(scope="module")
def engine() -> Any:
    tokenizer = Tokenizer.train(TEXTS * 5, BpeTokenizer(vocab_size=330, split_han=True))
    torch.manual_seed(1)
    shape = Gpt2(layers=1, hidden_size=16, heads=2)
    made = build(shape, vocab_size=tokenizer.vocab_size, pad_id=0, end_id=tokenizer.end_id, max_tokens=200).eval()
    torch.nn.init.normal_(made.get_input_embeddings().weight, std=0.3)
    engine = TorchEngine(made, tokenizer, threads=1)
    yield engine
    engine.close()


def answers(engine: Any, **held: Any) -> list[str]:
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    drawn = [Decoding(max_new_tokens=60, temperature=1.2, seed=seed, **held) for seed in range(3)]
    greedy = Decoding(max_new_tokens=60, **held)
    return [said for decoding in (greedy, *drawn) for said in engine.generate_batch(prompts, decoding)]


def test_forbidden_words_do_not_stand_in_answers(engine: Any) -> None:
    free = "".join(answers(engine)).casefold()
    words = tuple(word for word in ("cat", "猫", "a", "的") if word in free)
    assert words  # a model of noise writes some of them
    held = answers(engine, forbidden=words)
    assert not any(word in said.casefold() for said in held for word in words)
    assert any(held)


def test_answers_keep_to_a_language(engine: Any) -> None:
    english, chinese = answers(engine, language="en"), answers(engine, language="zh")
    assert not any("\u3400" <= each <= "\u9fff" for said in english for each in said)
    assert not any(each.isascii() and each.isalpha() for said in chinese for each in said)
    assert any(each.isalpha() for said in english for each in said)
    with pytest.raises(Unsupported, match="language is 'fr'"):
        answers(engine, language="fr")
    with pytest.raises(Unsupported, match="forbidden word is empty"):
        answers(engine, forbidden=(" ",))


def test_answers_do_not_end_too_early(engine: Any) -> None:
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    for seed in range(5):
        held = Decoding(max_new_tokens=30, temperature=1.5, seed=seed, min_new_tokens=30)
        for said in engine.generate_batch(prompts, held):
            assert len(said) >= 10  # thirty tokens, some of which are bytes of one character


def test_no_run_of_tokens_stands_twice(engine: Any) -> None:
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    for said in engine.generate_batch(prompts, Decoding(max_new_tokens=80, no_repeat=3)):
        ids = engine.tokenizer.encode(said)
        if engine.tokenizer.decode(ids) == said and "\ufffd" not in said:
            runs = [said[at : at + 24] for at in range(len(said) - 24)]
            assert len(set(runs)) == len(runs)
