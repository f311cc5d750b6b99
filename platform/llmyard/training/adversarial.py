"""Training against disturbed embeddings: the same texts, moved a little to where the model does worst.

The disturbance is of what the embedding layer gives for a text, not of its weights, so that texts of a batch do not
disturb each other. Losses of disturbed texts are added to those of the texts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llmyard.models.growing import token_embeddings
from llmyard.training.methods import Adversarial, Fgm


class Adversary:
    """Disturbs a model.

    Args:
        model: Its input embeddings are disturbed.
        config: How.
    """

    def __init__(self, model: Any, config: Adversarial) -> None:
        self._layers = token_embeddings(model)
        self._config = config

    def backward(self, loss_of: Callable[[], Tensor], scale: float) -> Tensor:
        """Adds the gradients of the loss and of the disturbed loss, times half of ``scale`` each; returns the loss.

        Args:
            loss_of: The loss of a micro-batch; it is called several times.
            scale: Of the gradients.
        """
        with self._watched() as seen:
            loss = loss_of()
            (loss * (scale / 2)).backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad for each in seen]
        moved = [_zero(each) for each in seen]
        sizes = [_norm(each) for each in seen]
        first = self._config.size if isinstance(self._config, Fgm) else self._config.step
        moved = self._stepped(moved, gradients, sizes, first)
        for _ in range(0 if isinstance(self._config, Fgm) else self._config.steps - 1):
            with self._disturbed(moved) as disturbed:
                gradients = list(torch.autograd.grad(loss_of(), disturbed, allow_unused=True))
            moved = self._stepped(moved, gradients, sizes, first)
        with self._disturbed(moved):
            (loss_of() * (scale / 2)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _stepped(
        self, moved: list[Tensor], gradients: list[Tensor | None], sizes: list[Tensor], step: float
    ) -> list[Tensor]:
        found = []
        for before, gradient, size in zip(moved, gradients, sizes, strict=True):
            if gradient is None:
                found.append(before)
                continue
            after = before + step * size * gradient / _norm(gradient).clamp(min=1e-12)
            found.append(after * (self._config.size * size / _norm(after).clamp(min=1e-12)).clamp(max=1.0))
        return found

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """Gathers what the embedding layer gives, with its gradients after the backward pass."""
        seen: list[Tensor] = []

        def note(module: Any, inputs: Any, output: Tensor) -> Tensor:
            # Embeddings that are not trained need no gradients, what they give does.
            output = output if output.requires_grad else output.detach().requires_grad_()
            output.retain_grad()
            seen.append(output)
            return output

        with hooked(self._layers, note):
            yield seen

    @contextmanager
    def _disturbed(self, moved: list[Tensor]) -> Iterator[list[Tensor]]:
        """Adds to what the embedding layer gives, in the order of its calls; yields what was added."""
        added = [each.detach().requires_grad_() for each in moved]
        turn = iter(added)
        with hooked(self._layers, lambda module, inputs, output: output + next(turn)):
            yield added


@contextmanager
def hooked(layers: Sequence[nn.Module], hook: Callable[[Any, Any, Tensor], Tensor | None]) -> Iterator[None]:
    """Hooks a function behind layers."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zero(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor)


def _norm(tensor: Tensor) -> Tensor:
    """Returns the norm of each text's part (B, 1, 1)."""
    sizes: Tensor = torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1)
    return sizes.view(-1, *[1] * (tensor.dim() - 1))
