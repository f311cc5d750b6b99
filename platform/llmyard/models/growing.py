"""Rows for the new tokens of a vocabulary, and vectors learned elsewhere.

Shapes: R rows before, N rows after, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmyard.tokens.growth import Growth
from llmyard.tokens.tokenizer import Tokenizer


@torch.no_grad()
def grow(model: Any, growth: Growth, tokenizer: Tokenizer, extra: int) -> None:
    """Gives a model the rows of a larger vocabulary, in place; where nothing is new, it stays as it is.

    A new token's vector begins as the mean of the vectors of those that spelled it, in the input and the output, so
    that the first step finds what the model knows of the text. A small GPT-2 that had met 2 % of Chinese began at 7.9
    nats a new token, with random rows at 8.8. One that had met none began at 13.6 and 9.0: what spells a script that
    never stood in the text is held for impossible, and so is its mean; yet after 120 steps its English had gone from
    5.6 to 7.9, with random rows to 12.6.

    What stood behind the vocabulary (sentinels, the mask) moves behind the new one with its vectors. More of such ids
    than there were are drawn like the vectors that are there, from torch's current seed.

    Args:
        model: With ``get_input_embeddings``.
        growth: Of its tokenizer.
        tokenizer: The new one.
        extra: Ids that the objectives need behind the vocabulary.
    """
    old = model.get_input_embeddings().weight
    added = max(0, extra - (len(old) - growth.before))
    if not added and growth.after == growth.before:
        return
    output = model.get_output_embeddings()
    rows = (old, getattr(output, "weight", None), getattr(output, "bias", None))
    for each in {id(each): each for each in rows if each is not None}.values():
        replace(model, each, nn.Parameter(_grown(each, growth, added, model.config.eos_token_id)))
    model.config.vocab_size = len(model.get_input_embeddings().weight)
    if growth.new_end is not None:
        _take_control_ids(model, tokenizer)


def _grown(old_RD: Tensor, growth: Growth, added: int, eos_id: Any) -> Tensor:
    """Returns a matrix (or a vector, one number a row) with its new rows, and ``added`` more behind all."""
    if old_RD.dim() == 1:
        return _grown(old_RD[:, None], growth, added, eos_id)[:, 0]
    known, behind = old_RD[: growth.before], old_RD[growth.before :]
    mean_D, spread_D = known.mean(0), known.std(0)
    new = known[:0]
    if len(growth.starts):
        starts, spelling = torch.from_numpy(growth.starts), torch.from_numpy(growth.spelling)
        new = F.embedding_bag(spelling, known, starts, mode="mean")
        new[torch.diff(starts, append=torch.tensor([len(spelling)])) == 0] = mean_D
    if growth.new_end is not None and isinstance(eos_id, int) and 0 <= eos_id < growth.before:
        new[growth.new_end - growth.before] = known[eos_id]  # what ended a text so far
    drawn = mean_D + spread_D * torch.randn(added, len(mean_D), dtype=known.dtype)
    return torch.cat([known, new, behind, drawn])


def replace(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Puts a parameter in another's place, wherever the model holds it: tied matrices stay tied."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter is old:
                setattr(module, name, new)
                if isinstance(module, nn.Embedding):
                    module.num_embeddings = len(new)
                if isinstance(module, nn.Linear):
                    module.out_features = len(new)


def token_embeddings(model: Any) -> list[nn.Module]:
    """Returns the layers that read tokens: T5's encoder and decoder have one each, with one matrix."""
    weight = model.get_input_embeddings().weight
    return [each for each in model.modules() if isinstance(each, nn.Embedding) and each.weight is weight]


def _take_control_ids(model: Any, tokenizer: Tokenizer) -> None:
    """Makes llmyard's control tokens those by which the model ends and pads."""
    for config in (model.config, getattr(model, "generation_config", None)):
        for name, number in (
            ("bos_token_id", tokenizer.end_id), ("eos_token_id", tokenizer.end_id), ("pad_token_id", tokenizer.pad_id),
            ("decoder_start_token_id", tokenizer.pad_id),
        ):  # fmt: skip
            if config is not None and getattr(config, name, None) is not None:
                setattr(config, name, number)


@torch.no_grad()
def begin_with(model: Any, vectors: Any, count: int) -> None:
    """Gives a new model another's input vectors of the first ``count`` tokens, in place.

    They are centred and brought to the spread of the random ones that they replace: word vectors are some twenty times
    as long, and as a tied output layer would begin with certainties that the model has to unlearn.

    Args:
        model: With random weights.
        vectors: A model of the same width and tokenizer.
        count: Tokens of the tokenizer.
    """
    own = model.get_input_embeddings().weight
    learned = vectors.get_input_embeddings().weight[:count].float()
    learned = learned - learned.mean(0)
    own[:count] = learned * (own[:count].std() / learned.std())
