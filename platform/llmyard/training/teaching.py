"""A larger model from which one that is trained learns too: its probabilities, and what its tokens are to each other.

Shapes: B texts, T tokens, D width of a model's hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmyard.training.diagnosis import stacks_of

T = TypeVar("T")


@dataclass(frozen=True)
class Heard(Generic[T]):
    """What student and teacher made of the same batch.

    Attributes:
        student: What the student returned, with gradients.
        teacher: What the teacher returned, without.
        hidden: How far their hidden states differ, weighed; 0 where only probabilities are learned.
    """

    student: T
    teacher: T
    hidden: Tensor


@dataclass(frozen=True)
class Teacher:
    """A larger model whose probabilities are learned too (Hinton et al. 2015).

    Attributes:
        model: For the same vocabulary; it is not trained.
        share: Of the loss that is the distance to the teacher; the rest is that to the text.
        temperature: Divides the logits of both, so that unlikely tokens count.
        hidden: Weight of the hidden states beside that.
    """

    model: Any
    share: float
    temperature: float
    hidden: float = 0.0

    def hear(self, student: Any, read: Callable[[Any], T], masks: Sequence[Tensor]) -> Heard[T]:
        """Returns what both models make of a batch.

        Args:
            student: The model that is trained.
            read: Runs a model on the batch.
            masks: True where a token counts (B, T), for each stack of layers.
        """
        places = [mask.device for mask in masks]
        teacher = self.model.to(places[0]) if places else self.model
        with _seen(student, self.hidden > 0) as own:
            said = read(student)
        with torch.no_grad(), _seen(teacher, self.hidden > 0) as theirs:
            taught = read(teacher)
        distance = torch.zeros((), device=places[0] if places else None)
        for mine, other, mask in zip(own, theirs, masks, strict=False):
            distance = distance + _unlike(mine.layers, other.layers, mask.bool())
        return Heard(said, taught, self.hidden * distance)

    def mixed(self, loss: Tensor, distance: Tensor, heard: Heard[Any]) -> Tensor:
        """Returns the loss that is learned from: of the text, of the teacher's probabilities, of hidden states."""
        return (1 - self.share) * loss + self.share * distance + heard.hidden

    def distance(self, student: Tensor, teacher: Tensor, wanted: Tensor) -> Tensor:
        """Returns the Kullback-Leibler divergence over the wanted places, in nats, times the temperature squared.

        Args:
            student: Logits (N, V).
            teacher: Logits (N, W) of a vocabulary that may have more ids behind.
            wanted: (N), whether a place counts.
        """
        width = min(student.shape[-1], teacher.shape[-1])
        one = (student[wanted][:, :width].float() / self.temperature).log_softmax(-1)
        other = (teacher[wanted][:, :width].float() / self.temperature).log_softmax(-1)
        return F.kl_div(one, other, reduction="sum", log_target=True) * self.temperature**2

    def binary_distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the same where each logit (...) decides between yes and no."""
        one, other = student.float() / self.temperature, teacher.float() / self.temperature
        shares = other.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(other, shares, reduction="sum")
        return (F.binary_cross_entropy_with_logits(one, shares, reduction="sum") - entropy) * self.temperature**2


@dataclass
class _Stack:
    """What each layer of a stack gave (B, T, D), from the input to the output."""

    layers: list[Tensor] = field(default_factory=list)


@contextmanager
def _seen(model: nn.Module, looks: bool) -> Iterator[list[_Stack]]:
    """Yields the stacks of a model, which are filled in the forward pass inside the block; none unless it looks."""
    found, handles = [], []
    for layers in stacks_of(model, least=1).values() if looks else ():
        stack = _Stack()
        found.append(stack)

        def note(module: nn.Module, inputs: Any, output: Any, into: _Stack = stack) -> None:
            into.layers.append(output[0] if isinstance(output, tuple) else output)

        handles += [layer.register_forward_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _unlike(student: Sequence[Tensor], teacher: Sequence[Tensor], mask_BT: Tensor) -> Tensor:
    """Returns how differently two stacks see what the tokens of a text are to each other, as a sum over tokens.

    The cosines between a text's tokens are compared, which have no width (Tung & Mori 2019, "Similarity-Preserving
    Knowledge Distillation", there between the examples of a batch): the mean of their squared differences, for each
    token, and over the student's layers. Those are held to as many of the teacher's at even distances, the last one to
    the last one.
    """
    pairs_BTT = (mask_BT[:, :, None] & mask_BT[:, None, :]).float()
    tokens_B = mask_BT.sum(1).clamp(min=1)
    summed = torch.zeros((), device=mask_BT.device)
    for number, mine_BTD in enumerate(student, start=1):
        other_BTD = teacher[math.ceil(number * len(teacher) / len(student)) - 1]
        apart_BTT = (_cosines(mine_BTD) - _cosines(other_BTD)).square() * pairs_BTT
        summed = summed + (apart_BTT.sum((1, 2)) / tokens_B).sum()
    return summed / len(student)


def _cosines(hidden_BTD: Tensor) -> Tensor:
    """Returns (B, T, T)."""
    unit_BTD = F.normalize(hidden_BTD.float(), dim=-1)
    return unit_BTD @ unit_BTD.transpose(1, 2)
