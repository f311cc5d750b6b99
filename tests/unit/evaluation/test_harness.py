"""Tasks of the lm-evaluation-harness on our engine, beside the harness's own way to ask the same model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from llmyard.core.errors import RequestError
from llmyard.evaluation.harness import _asked, harness_scores
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import EncoderDecoder, Gpt2
from llmyard.models.families import build
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import FILE, Tokenizer

lm_eval = pytest.importorskip("lm_eval")

TEXTS = [
    "The lamp is on the table. The key is in the box.",
    "灯在桌子上。钥匙在盒子里。",
    "Where is the lamp? on the table",
]
PAIRS = [("The lamp is", " on the table"), ("Where?", "桌子上。"), ("", "The key"), ("The key is in ", "the box.")]
POSITIONS = 32


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    tokenizer = Tokenizer.train(TEXTS * 8, BpeTokenizer(vocab_size=330))
    torch.manual_seed(1)
    shape = Gpt2(layers=2, hidden_size=32, heads=2)
    size = tokenizer.vocab_size
    model = build(shape, vocab_size=size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id, max_tokens=POSITIONS)
    found = TorchEngine(model.eval(), tokenizer, threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"{name} is on the table. Where is {name}?", "options": ["table", "box", "sea"], "answer": 0}
        for name in ("lamp", "key", "cup", "灯", "钥匙", "杯子")
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    source = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    shared = {"dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
    for name, more in {
        "where": {
            "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{options}}",
            "doc_to_target": "answer", "metric_list": [{"metric": "acc"}],
        },
        "say": {
            "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{options[answer]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}, "metric_list": [{"metric": "exact_match"}],
        },
        "read": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question * 4}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    }.items():  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **shared, **more}), encoding="utf-8")
    return folder


def test_log_likelihoods_are_those_of_the_harness(engine: TorchEngine, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    engine.tokenizer.save(tmp_path / FILE)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / FILE))
    tokenizer.eos_token_id = tokenizer.bos_token_id = engine.tokenizer.end_id
    tokenizer.pad_token_id = engine.tokenizer.pad_id
    theirs = HFLM(pretrained=engine.model, tokenizer=tokenizer, max_length=POSITIONS, device="cpu", batch_size=1)
    ours = _asked(engine)
    asked = [SimpleNamespace(args=pair) for pair in PAIRS]
    for mine, other in zip(ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == other[1]
    long = [SimpleNamespace(args=(" ".join(TEXTS) * 3,)), SimpleNamespace(args=(TEXTS[1],))]
    for one, two in zip(ours.loglikelihood_rolling(long), theirs.loglikelihood_rolling(long), strict=True):
        assert one == pytest.approx(two, abs=1e-2)


def test_a_token_that_joins_prompt_and_answer_is_cut(engine: TorchEngine) -> None:
    tokenizer = engine.tokenizer
    assert len(tokenizer.encode("灯在桌子上。")) < len(tokenizer.encode("灯在")) + 1  # one token
    (found,) = _asked(engine).loglikelihood([SimpleNamespace(args=("灯在", "桌子上。"))], disable_tqdm=True)
    (wanted,) = engine.score_batch([tokenizer.encode("灯在")], [tokenizer.encode("桌子上。")])
    assert found == (wanted.total, wanted.is_likeliest)


def test_task_files_are_asked(engine: TorchEngine, tasks: Path) -> None:
    found = harness_scores(engine, tasks, ["where", "say", "read"], limit=5)
    assert set(found) == {"where", "say", "read"}
    where = found["where"]
    assert where.examples == 5
    assert 0 <= where.metrics["acc"] <= 1
    low, high = where.intervals["acc"]
    assert low <= where.metrics["acc"] <= high
    assert where.higher_is_better == {"acc": True}
    assert found["read"].metrics["bits_per_byte"] > 0
    assert found["say"].metrics == {"exact_match": 0.0}


def test_solved_examples_stand_in_the_prompts(engine: TorchEngine, tasks: Path) -> None:
    alone, shown = (harness_scores(engine, tasks, ["read", "where"], shots=shots) for shots in (0, None))
    assert alone["where"] == shown["where"]


def test_a_task_that_is_not_there(engine: TorchEngine, tasks: Path) -> None:
    with pytest.raises(RequestError, match="no task 'hellaswag'"):
        harness_scores(engine, tasks, ["hellaswag"])


def test_a_task_file_that_the_harness_cannot_ask_is_named(engine: TorchEngine, tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text('{"task": "half"}', encoding="utf-8")
    with pytest.raises(RequestError, match="the harness fails at half"):
        harness_scores(engine, tmp_path, ["half"])


def test_answers_end_at_what_is_asked(engine: TorchEngine) -> None:
    requests: list[Any] = [
        SimpleNamespace(args=("The lamp", {"until": "\n", "max_gen_toks": 3})),
        SimpleNamespace(args=("灯" * 40, {"until": ["。"], "max_gen_toks": 3})),
        SimpleNamespace(args=("", {"until": [], "max_gen_toks": 2})),
    ]
    said = _asked(engine).generate_until(requests)
    assert len(said) == 3
    assert "。" not in said[1]


def test_an_encoder_decoder_reads_the_prompt_apart() -> None:
    tokenizer = Tokenizer.train(TEXTS * 8, BpeTokenizer(vocab_size=330))
    shape = EncoderDecoder(encoder_layers=1, decoder_layers=1, hidden_size=16, heads=2, feed_forward_size=16)
    size = tokenizer.vocab_size
    model = build(shape, vocab_size=size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id, max_tokens=64).eval()
    engine = TorchEngine(model, tokenizer, threads=1)
    try:
        (found,) = _asked(engine).loglikelihood([SimpleNamespace(args=PAIRS[0])], disable_tqdm=True)
    finally:
        engine.close()
    prompt, answer = tokenizer.encode(PAIRS[0][0]), tokenizer.encode(PAIRS[0][1])
    with torch.no_grad():
        read = torch.tensor([[prompt[-1], *answer[:-1]]])
        said = model(input_ids=torch.tensor([prompt]), decoder_input_ids=read).logits.log_softmax(-1)[0]
    assert found[0] == pytest.approx(sum(float(said[at, id_]) for at, id_ in enumerate(answer)), abs=1e-4)
