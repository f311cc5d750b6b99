"""Models of other families that are tuned as one of ours: small ones made here, of the same architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.families import ClassHead, labeller_from, load
from llmyard.models.growing import grow
from llmyard.stages import finetune
from llmyard.stages.bases import adopt, check_base
from llmyard.stages.config import Finetune, Pretrain
from llmyard.tasks.catalogue import form_of, kin_of, task_of
from llmyard.tasks.config import Classification, Translation
from llmyard.tasks.task import Decoding
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.growth import Vocabulary, growth
from llmyard.tokens.tokenizer import FILE, Tokenizer
from llmyard.tokens.views import Example
from llmyard.training.task_objectives import PromptedLmObjective, SequenceToSequenceObjective

TEXTS = ["一盏绿色的灯。你好。", "A green lamp. Hello."] * 10
TOKENIZER = Tokenizer.train(TEXTS, BpeTokenizer(vocab_size=330, split_han=True))
SIZE = TOKENIZER.vocab_size
LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": SIZE}
CAUSAL: dict[str, Any] = {**LAYERS, "num_key_value_heads": 1, "intermediate_size": 32, "max_position_embeddings": 64}
ENCODER: dict[str, Any] = {**LAYERS, "intermediate_size": 32, "max_position_embeddings": 66, "pad_token_id": 1}
MADE: dict[str, Any] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**CAUSAL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**CAUSAL, head_dim=12)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**CAUSAL)),
    "mt5": lambda: MT5ForConditionalGeneration(
        MT5Config(vocab_size=SIZE, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**ENCODER, type_vocab_size=1, layer_norm_eps=1e-5)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**ENCODER, type_vocab_size=1, layer_norm_eps=1e-5)),
}


def made(family: str) -> Any:
    torch.manual_seed(2)
    return MADE[family]().eval()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path / "store")))


def folder_of(family: str, tmp_path: Path) -> str:
    folder = tmp_path / family
    made(family).save_pretrained(str(folder))
    TOKENIZER.save(folder / FILE)
    return f"hub:{folder}"


@pytest.mark.parametrize("family", MADE)
def test_a_model_of_the_hub_is_taken_in_and_tuned_as_its_kin(family: str, store: ArtifactStore, tmp_path: Path) -> None:
    base = adopt(folder_of(family, tmp_path), store)
    assert base.details["family"] == family
    assert "init" in base.details["can"]
    assert base.details.get("sequence_length", 64) == 64
    task = {"kind": "classification", "max_tokens": 32, "max_label_tokens": 8}
    wanted = {"output": "m", "task": task, "tokenizer": base.parents[0], "init": base.reference, "steps": 1}
    config = Finetune.model_validate({**wanted, "data": {"kind": "records", "train": "x.jsonl"}})
    assert finetune.parents(config, store)["base"].reference == base.reference


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_an_encoder_computes_what_it_was_pretrained_to(family: str, tmp_path: Path) -> None:
    base = made(family)
    model = labeller_from(base, ClassHead(("a", "b"))).eval()
    tokens = torch.tensor([TOKENIZER.encode("一盏绿色的灯。 A green lamp.")])
    assert 1 not in tokens  # its padding
    with torch.no_grad():
        wanted = getattr(base, base.base_model_prefix)(input_ids=tokens).last_hidden_state
        found = model.hidden(tokens)
    assert torch.allclose(found, wanted, atol=1e-5)
    base.save_pretrained(str(tmp_path))
    assert type(load(tmp_path)) is type(base)  # with the head of its pretraining


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral", "mt5"])
def test_what_writes_learns_and_answers(family: str) -> None:
    model = made(family)
    kin = kin_of(family)
    config: Any = Translation() if form_of(family) == "encoder_decoder" else Classification()
    task = task_of(config, family)
    record = {
        "text": "你好。", "label": "hello", "language": "zh", "source": "你好。", "target": "Hello.",
        "source_language": "zh", "target_language": "en",
    }  # fmt: skip
    ((encoded,),) = task.encode([record], TOKENIZER, {})  # type: ignore[misc]
    sample = Example(np.array(encoded.ids), None, encoded.target_start, np.zeros(0, np.int32))
    objective: Any = (PromptedLmObjective if kin == "llama" else SequenceToSequenceObjective)(TOKENIZER.pad_id)
    batch = objective.collate([sample])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.loss(model, batch) / objective.targets(batch)
        loss.backward()
        optimizer.step()
    engine = TorchEngine(model.eval(), TOKENIZER, threads=1)
    try:
        (said,) = engine.generate_batch([task.prompt(record, TOKENIZER)], Decoding(max_new_tokens=8))
        answer = [*TOKENIZER.encode(said), TOKENIZER.end_id]
        (score,) = engine.score_batch([task.prompt(record, TOKENIZER)], [answer])
    finally:
        engine.close()
    assert said.strip() == ("hello" if kin == "llama" else "Hello.")
    assert score.is_likeliest


def test_tokens_are_added_behind_the_vocabulary_of_an_encoder() -> None:
    base = made("xlm-roberta")
    larger = Tokenizer.train([*TEXTS, "钥匙在盒子里。" * 9], BpeTokenizer(vocab_size=330, split_han=True))
    there = growth(Vocabulary(TOKENIZER.to_json()), Vocabulary(TOKENIZER.to_json()))
    grow(base, there, larger, 3)
    model = labeller_from(base, ClassHead(("a",))).eval()
    assert len(model.get_input_embeddings().weight) == SIZE + 3  # type: ignore[arg-type]


def test_encoders_of_another_make_do_not_go_on_pretraining(store: ArtifactStore, tmp_path: Path) -> None:
    base = adopt(folder_of("xlm-roberta", tmp_path), store)
    config = Pretrain.model_validate(
        {
            "output": "m", "shards": "s", "init": base.reference, "steps": 1, "sequence_length": 32,
            "objective": {"kind": "masked_lm", "pairs": "none"},
        }
    )  # fmt: skip
    with pytest.raises(RequestError, match="'xlm-roberta', which does not learn by masked_lm"):
        check_base(config, base, store.get(base.parents[0]))
