"""Answers bound to a schema are valid whatever the model says; spans of answers are the likeliest ones."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.generation.constrained import Grammars
from llmyard.generation.engine import Unsupported
from llmyard.generation.tagging import best_span
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import Gpt2
from llmyard.models.families import build
from llmyard.tasks.knowledge_graph import graph_schema
from llmyard.tasks.task import Decoding
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

SCHEMA = graph_schema(["person", "地点"], ["lives_in", "认识"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [
        '{"entities":[["马洛","person"]],"triples":[["马洛","lives_in","科拉镇"]]}',
        "The person lives in 地点 认识.",
    ]
    return Tokenizer.train(texts * 5, BpeTokenizer(vocab_size=420, split_han=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_model_of_noise_writes_valid_json(tokenizer: Tokenizer, seed: int) -> None:
    torch.manual_seed(seed)
    shape = Gpt2(layers=1, hidden_size=16, heads=2)
    model = build(shape, vocab_size=tokenizer.vocab_size + 5, pad_id=0, end_id=tokenizer.end_id, max_tokens=400).eval()
    engine = TorchEngine(model, tokenizer, threads=1)
    try:
        decoding = Decoding(max_new_tokens=380, temperature=1.0, seed=seed, json_schema=SCHEMA)
        free = Decoding(max_new_tokens=20, temperature=1.0, seed=seed)
        answers = engine.generate_batch([[5, 6], [7]], decoding)
        assert len(engine.generate_batch([[5, 6]], free)) == 1
    finally:
        engine.close()
    ended = [answer for answer in answers if answer.endswith("}")]
    for answer in ended:
        found = json.loads(answer)
        assert set(found) == {"entities", "triples"}
        assert all(kind in ("person", "地点") for _, kind in found["entities"])
        assert all(relation in ("lives_in", "认识") for _, relation, _ in found["triples"])
    assert ended


def test_what_follows_the_schema_is_allowed_and_nothing_else(tokenizer: Tokenizer) -> None:
    grammar = Grammars(tokenizer).begin(SCHEMA)
    size = tokenizer.vocab_size + 7
    for token in tokenizer.encode('{"entities":[["马洛","person"]],"triples":[]}'):
        allowed = grammar.allow(torch.zeros(size)) == 0
        assert allowed[token]
        assert not allowed[tokenizer.end_id]
        assert not allowed[tokenizer.vocab_size :].any()
        grammar.take(token)
    assert (grammar.allow(torch.zeros(size)) == 0).nonzero().flatten().tolist() == [tokenizer.end_id]


def test_a_schema_that_is_none_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(Unsupported, match="JSON schema"):
        Grammars(tokenizer).begin("{nonsense")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.sampled_from([3, 5]), st.randoms(use_true_random=False))
def test_the_best_span_is_the_best_of_all(length: int, longest: int, kinds: int, random: object) -> None:
    seed = random.randint(0, 1 << 30)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(length, kinds, generator=generator)
    none = logits[:, [0, *range(3, kinds)]].logsumexp(1)  # not of such a span
    allowed = torch.rand(length, generator=generator) < 0.7
    spans = {}
    for first, last in itertools.combinations_with_replacement(range(length), 2):
        if last - first < longest and bool(allowed[first : last + 1].all()):
            tags = [0] * length
            tags[first : last + 1] = [1, *[2] * (last - first)]
            odds = [float(logits[at, tag] - none[at]) for at, tag in enumerate(tags) if tag]
            spans[first, last] = sum(odds)
    score, first, last = best_span(logits, allowed, longest)
    if not spans:
        assert score == -torch.inf
        return
    assert score == pytest.approx(max(spans.values()), abs=1e-4)
    assert spans[first, last] == pytest.approx(score, abs=1e-4)
