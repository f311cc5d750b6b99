"""The maximal update parameterisation (muP): a learning rate that is good at one width is good at others.

Yang et al. 2022, "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer", table 8, for
Adam. With m = width / base width, a matrix inside the layers begins 1/sqrt(m) as large and moves at 1/m of the
learning rate; embeddings stay as they are; logits are divided by m. Here the weights of the last norm, which multiply
all that the logits are made of, are divided by m and move at 1/m of the rate: that computes the same, and the model
stays one of its family that every program reads. It holds for heads of one size, and for feed-forward layers as wide
as the base's times m.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from llmyard.models.config import Gpt2, Llama


def begin_at_width(model: PreTrainedModel, shape: Gpt2 | Llama) -> None:
    """Changes a new model's first weights to those of its width; nothing where its shape names no base width."""
    m = width_ratio(shape)
    with torch.no_grad():
        for _, matrix in _inner(model):
            matrix.mul_(m**-0.5)
        for _, weights in _last_norm(model):
            weights.div_(m)


def width_scales(model: PreTrainedModel, shape: object) -> dict[str, float]:
    """Returns the share of the learning rate that parameters get, by name; {} where the shape names no base width."""
    if not isinstance(shape, (Gpt2, Llama)) or shape.base_width is None:
        return {}
    m = width_ratio(shape)
    return {name: 1 / m for name, _ in [*_inner(model), *_last_norm(model)]}


def width_ratio(shape: Gpt2 | Llama) -> float:
    """Returns how many times wider than its base a model is; 1 where it names none."""
    return shape.hidden_size / shape.base_width if shape.base_width is not None else 1.0


def _inner(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yields the matrices that both take and give something as wide as the model."""
    outer = {
        id(each) for module in model.modules() if isinstance(module, torch.nn.Embedding) for each in [module.weight]
    }
    outer.add(id(model.get_output_embeddings().weight))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and id(parameter) not in outer:
            yield name, parameter


def _last_norm(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    if isinstance(model, GPT2LMHeadModel):
        prefix = "transformer.ln_f."
    else:
        assert isinstance(model, LlamaForCausalLM)
        prefix = "model.norm."
    for name, parameter in model.named_parameters():
        if name.startswith(prefix):
            yield name, parameter
