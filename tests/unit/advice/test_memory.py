"""The memory of a training is reckoned as the platform's models are: counted on real ones, and equal to ``check``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.advice.memory import Shape, Way, layers_of, lora_parameters, memory_of, trained_parameters
from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama, Model
from llmyard.stages.config import Pretrain
from llmyard.stages.sizing import size_of

VOCAB, POSITIONS = 40, 16
SHAPES: list[Model] = [
    Gpt2(layers=3, hidden_size=16, heads=2),
    Llama(layers=3, hidden_size=16, heads=4, key_value_heads=2, feed_forward_size=40),
    T5(encoder_layers=2, decoder_layers=3, hidden_size=16, heads=2, head_size=4, feed_forward_size=24, gated=True),
    EncoderDecoder(encoder_layers=2, decoder_layers=3, hidden_size=16, heads=2, feed_forward_size=24),
]


def adapted(config: Model, method: Any, known: int = VOCAB) -> Any:
    from llmyard.models.families import build
    from llmyard.training.adapting import adapt

    model = build(config, vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=POSITIONS)
    adapt(model, method, known)
    return model


def trained(model: Any) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.family)
def test_lora_trains_as_many_weights_as_are_reckoned(config: Model) -> None:
    from llmyard.training.methods import Lora

    assert trained(adapted(config, Lora(rank=4))) == lora_parameters(config, 4)


def test_lora_of_an_encoder_is_reckoned_within_its_heads() -> None:
    from llmyard.models.families import ClassHead, build_labeller
    from llmyard.training.adapting import adapt, is_of_base
    from llmyard.training.methods import Lora

    config = Bert(layers=3, hidden_size=16, heads=2, feed_forward_size=40)
    model = build_labeller(config, ClassHead(("a", "b")), vocab_size=VOCAB, pad_id=0, max_tokens=POSITIONS)
    adapt(model, Lora(rank=4), VOCAB)
    own = sum(each.numel() for name, each in model.named_parameters() if each.requires_grad and is_of_base(model, name))
    assert own == lora_parameters(config, 4)


def test_new_tokens_make_the_whole_matrix_of_vectors_trained() -> None:
    from llmyard.training.methods import Lora, PromptTuning

    config = SHAPES[0]
    shape = Shape(config, VOCAB, POSITIONS, new_tokens=True)
    assert trained(adapted(config, Lora(rank=4), VOCAB - 8)) == trained_parameters(shape, Way("lora", rank=4))
    assert trained(adapted(config, PromptTuning(tokens=4), VOCAB - 4)) == trained_parameters(
        shape, Way("prompt_tuning")
    )


def test_frozen_layers_are_not_trained() -> None:
    from llmyard.training.methods import Frozen

    config = SHAPES[0]
    found = trained_parameters(Shape(config, VOCAB, POSITIONS), Way("frozen", frozen_layers=2))
    assert found == pytest.approx(trained(adapted(config, Frozen(layers=2))), rel=0.1)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_whole_training_is_reckoned_as_check_does(on_gpu: bool) -> None:
    resources = {"workers": 1, "gpus_per_worker": int(on_gpu)}
    stage = Pretrain.model_validate(
        {"output": "b", "shards": "c", "steps": 10, "model": {"preset": "gpt2-124m"}, "sequence_length": 512,
         "batch": {"size": 8, "micro_batch": 4}, "precision": "bfloat16" if on_gpu else "float32",
         "resources": resources}
    )  # fmt: skip
    size = size_of(stage, 50_257)
    assert size is not None
    assert stage.model is not None
    shape = Shape(stage.model, 50_257, 512)
    memory = memory_of(shape, Way(micro_batch=4, length=512, on_gpu=on_gpu))
    assert shape.parameters == size.parameters
    assert memory.total == size.worker_bytes


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 60), width=st.sampled_from([128, 512, 2048, 4096]), micro=st.sampled_from([1, 4, 16]),
    method=st.sampled_from(["full", "frozen", "lora", "prompt_tuning"]), on_gpu=st.booleans(),
)  # fmt: skip
def test_memory_grows_with_layers_batch_and_length(
    layers: int, width: int, micro: int, method: str, on_gpu: bool
) -> None:
    def total(more_layers: int = 0, **fields: Any) -> int:
        config = Llama(layers=layers + more_layers, hidden_size=width, heads=8, feed_forward_size=2 * width)
        way = Way(**{"method": method, "micro_batch": micro, "length": 256, "on_gpu": on_gpu} | fields)
        return memory_of(Shape(config, 32_000, 2048, stored=2), way).total

    assert total(more_layers=1) > total()
    assert total(micro_batch=2 * micro) > total()
    assert total(length=512) > total()
    assert layers == 1 or total(checkpointing=True) < total()
    assert total(method="lora") < total(method="full")


def test_dividing_a_model_divides_its_states_not_its_activations() -> None:
    shape = Shape(Llama(layers=8, hidden_size=512, heads=8, feed_forward_size=1376), 32_000, 2048)
    whole, part = (memory_of(shape, Way(on_gpu=True, shards=shards)) for shards in (1, 4))
    assert part.activations == whole.activations
    assert part.weights == pytest.approx(whole.weights / 4, abs=4)
    assert part.optimizer == pytest.approx(whole.optimizer / 4, abs=4)


def test_layers_of_two_stacks_count_once() -> None:
    assert [layers_of(config) for config in SHAPES] == [3, 3, 3, 3]
