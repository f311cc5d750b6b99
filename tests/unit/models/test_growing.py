"""A vocabulary that grows: old ids keep their vectors, new tokens begin as the mean of what spelled them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from llmyard.core.errors import RequestError
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama, TransformerXl, WordVectors
from llmyard.models.families import build, load, save
from llmyard.models.growing import begin_with, grow
from llmyard.sources.smallworld import SmallWorld
from llmyard.tokens.config import BpeTokenizer, ExtendedTokenizer, UnigramTokenizer, WordPieceTokenizer
from llmyard.tokens.extension import extend
from llmyard.tokens.growth import Growth, Vocabulary, compatible, growth, with_control
from llmyard.tokens.tokenizer import CONTROL, Tokenizer
from llmyard.training.objectives import CausalLmObjective

WORLD = SmallWorld("dev", seed=7)
DOCUMENTS = [WORLD.document(index) for index in range(300)]
ENGLISH = [each.text for each in DOCUMENTS if each.language == "en" and not each.damage]
CHINESE = [each.text for each in DOCUMENTS if each.language == "zh" and not each.damage]
HAN = ExtendedTokenizer(extend="base", new_tokens=300, script="han")
OLD = Tokenizer.train(ENGLISH, BpeTokenizer(vocab_size=500))
NEW = extend(OLD, CHINESE, HAN)
SMALL = {"hidden_size": 16, "heads": 2}
SHAPES: dict[str, Any] = {
    "gpt2": Gpt2(layers=1, **SMALL),
    "llama": Llama(layers=1, feed_forward_size=24, **SMALL),
    "transformer_xl": TransformerXl(layers=1, **SMALL),
    "transformer": EncoderDecoder(encoder_layers=1, decoder_layers=1, **SMALL),
    "t5": T5(encoder_layers=1, decoder_layers=1, **SMALL),
    "bert": Bert(layers=1, **SMALL),
    "word_vectors": WordVectors(hidden_size=16),
}


def between(old: Tokenizer, new: Tokenizer) -> Growth:
    return growth(Vocabulary(old.to_json()), Vocabulary(new.to_json()))


def model_of(family: str, extra: int = 0) -> Any:
    torch.manual_seed(1)
    ids = {"pad_id": OLD.pad_id, "end_id": OLD.end_id, "max_tokens": 64}
    return build(SHAPES[family], vocab_size=OLD.vocab_size + extra, **ids)


@pytest.mark.parametrize("family", SHAPES)
def test_every_family_grows_is_saved_and_keeps_what_stood_behind(family: str, tmp_path: Path) -> None:
    model = model_of(family, extra=3)
    before = model.get_input_embeddings().weight.detach().clone()
    there = between(OLD, NEW)
    grow(model, there, NEW, extra=5)
    save(model, tmp_path)
    after = load(tmp_path).get_input_embeddings().weight.detach()
    old, new = OLD.vocab_size, NEW.vocab_size
    assert new > old
    assert len(after) == new + 5 == load(tmp_path).config.vocab_size
    assert torch.equal(after[:old], before[:old])
    assert torch.equal(after[new : new + 3], before[old:])
    assert after[new + 3 :].std() == pytest.approx(float(before.std()), rel=0.6)
    token = next(text for text in ("天", "月", "人") if len(NEW.encode(text)) == 1 < len(OLD.encode(text)))
    spelled = before[OLD.encode(token)].mean(0)
    assert torch.allclose(after[NEW.encode(token)[0]], spelled, atol=1e-6)


def test_both_matrices_and_the_bias_of_an_encoder_grow_and_stay_tied() -> None:
    model = model_of("bert", extra=2)
    model.cls.predictions.bias.data[OLD.vocab_size :] = 7.0
    grow(model, between(OLD, NEW), NEW, extra=2)
    head = model.cls.predictions
    assert head.decoder.weight is model.get_input_embeddings().weight
    assert head.decoder.bias is head.bias
    assert head.bias[NEW.vocab_size :].tolist() == [7.0, 7.0]
    logits = model(input_ids=torch.tensor([[NEW.vocab_size + 1]])).prediction_logits
    assert logits.shape[-1] == NEW.vocab_size + 2


def test_an_untied_output_begins_as_the_mean_too() -> None:
    model = model_of("word_vectors")
    before = copy.deepcopy(model)
    grow(model, between(OLD, NEW), NEW, extra=0)
    (token,) = NEW.encode("镇")
    assert torch.allclose(model.outer.weight[token], before.outer.weight[OLD.encode("镇")].mean(0), atol=1e-6)
    assert torch.allclose(model.inner.weight[token], before.inner.weight[OLD.encode("镇")].mean(0), atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_without_new_tokens_nothing_changes(family: str) -> None:
    model = model_of(family, extra=2)
    before = {name: id(each) for name, each in model.named_parameters()}
    values = copy.deepcopy(model.state_dict())
    grow(model, between(OLD, Tokenizer.from_json(OLD.to_json())), OLD, extra=2)
    assert {name: id(each) for name, each in model.named_parameters()} == before
    assert all(torch.equal(each, values[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize(
    "config", [UnigramTokenizer(vocab_size=700), WordPieceTokenizer(vocab_size=700)], ids=["unigram", "wordpiece"]
)
def test_other_kinds_spell_their_new_tokens_too(config: Any) -> None:
    old = Tokenizer.train(ENGLISH, config)
    new = extend(old, [*ENGLISH, *CHINESE], ExtendedTokenizer(extend="base", new_tokens=200))
    there = between(old, new)
    assert (there.before, there.after) == (old.vocab_size, new.vocab_size)
    lengths = [*there.starts.tolist()[1:], len(there.spelling)]
    assert sum(end > start for start, end in zip(there.starts.tolist(), lengths, strict=True)) > 0.9 * len(lengths)
    assert there.spelling.max() < old.vocab_size


def test_a_wordpiece_within_a_word_is_spelled_by_pieces_within_words() -> None:
    old = Vocabulary(Tokenizer.train(["abab"] * 3, WordPieceTokenizer(vocab_size=300)).to_json())
    names = {number: token for token, number in old.ids.items()}
    assert names[old.spelled("##ba")[0]].startswith("##")
    assert not names[old.spelled("ba")[0]].startswith("##")


def test_ids_that_moved_are_refused_with_their_number() -> None:
    other = Tokenizer.train(CHINESE, BpeTokenizer(vocab_size=500))
    old, new = Vocabulary(OLD.to_json()), Vocabulary(other.to_json())
    with pytest.raises(RequestError, match=r"^\d+ of 500 tokens of checkpoint/base have another id") as caught:
        compatible(old, new, "checkpoint/base", "tokenizer/t")
    assert "extend: NAME" in caught.value.remedy
    with pytest.raises(RequestError, match="300 of 800 tokens"):  # the smaller one lacks the new tokens
        compatible(Vocabulary(NEW.to_json()), old, "a", "b")
    compatible(old, Vocabulary(NEW.to_json()), "a", "b")


def test_another_makers_tokenizer_gets_control_tokens_behind_it() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    backend = Backend(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "<": 3, "|": 4, ">": 5}, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    usable = Tokenizer.from_json(with_control(backend.to_str()))
    assert usable.vocab_size == 6 + len(CONTROL)
    there = growth(Vocabulary(backend.to_str()), Vocabulary(usable.to_json()))
    assert (there.before, there.new_end) == (6, usable.end_id)
    model = build(SHAPES["gpt2"], vocab_size=6, pad_id=0, end_id=2, max_tokens=8)
    before = model.get_input_embeddings().weight.detach().clone()
    grow(model, there, usable, 0)
    assert torch.equal(model.get_input_embeddings().weight[usable.end_id], before[2])  # its own end of text
    assert (model.config.eos_token_id, model.config.pad_token_id) == (usable.end_id, usable.pad_id)


def test_the_first_loss_on_chinese_is_far_below_that_of_random_rows() -> None:
    """An English base that has met some Chinese as bytes: new tokens as means keep what is known of it."""
    model = model_of("gpt2")
    objective = CausalLmObjective(OLD.pad_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [torch.tensor(OLD.encode(text)[:48]) for text in ENGLISH[:64]]
    chinese_bytes = [torch.tensor(OLD.encode(text)[:48]) for text in CHINESE[:16]]
    for step in range(60):
        batch = objective.collate([each.numpy() for each in (*rows[step % 8 :: 8], *chinese_bytes[step % 4 :: 4])])
        optimizer.zero_grad()
        (objective.loss(model, batch) / objective.targets(batch)).backward()
        optimizer.step()
    model.eval()
    new = objective.collate([NEW.encode(text)[:48] for text in CHINESE[20:40]])
    english = objective.collate([NEW.encode(text)[:48] for text in ENGLISH[70:90]])
    grown, at_random = copy.deepcopy(model), copy.deepcopy(model)
    grow(grown, between(OLD, NEW), NEW, 0)
    grow(at_random, between(OLD, NEW), NEW, 0)
    torch.manual_seed(0)
    weight = at_random.get_input_embeddings().weight
    # What resizing by hand does: rows of the size of those that are there, which say nothing.
    weight.data[OLD.vocab_size :] = torch.randn(len(weight) - OLD.vocab_size, 16) * weight[: OLD.vocab_size].std()

    @torch.no_grad()
    def loss(each: Any, batch: Any) -> float:
        return float(objective.loss(each, batch)) / objective.targets(batch)

    assert loss(grown, new) < loss(at_random, new) - 0.5
    assert loss(grown, english) < loss(at_random, english)
    assert loss(grown, english) < loss(model, english) + 0.7


def test_word_vectors_begin_a_model_at_the_size_of_its_own() -> None:
    vectors, model = model_of("word_vectors"), model_of("bert", extra=2)
    vectors.inner.weight.data = torch.randn(OLD.vocab_size, 16) * 5 + 3
    before = model.get_input_embeddings().weight.detach().clone()
    begin_with(model, vectors, OLD.vocab_size)
    own = model.get_input_embeddings().weight.detach()
    assert torch.equal(own[OLD.vocab_size :], before[OLD.vocab_size :])
    assert float(own[: OLD.vocab_size].std()) == pytest.approx(float(before[: OLD.vocab_size].std()), rel=1e-3)
    centred = (vectors.inner.weight - vectors.inner.weight.mean(0)).detach()
    cosine = torch.nn.functional.cosine_similarity(own[: OLD.vocab_size], centred)
    assert float(cosine.min()) > 0.999
