"""What a model is trained to do: samples to batches, batches to a summed loss.

Losses are sums, with their number of targets apart, so that the mean over a global batch is exact however it is
divided into micro-batches and workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmyard.tokens.packing import PackedSequence, positions
from llmyard.training.teaching import Teacher

Batch = dict[str, Tensor]
IGNORE = -100


class Objective(Protocol):
    """How samples become a loss.

    Attributes:
        remembers: Whether something is carried from batch to batch.
    """

    @property
    def remembers(self) -> bool: ...

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Returns a batch of samples."""

    def labels(self, batch: Batch) -> Tensor:
        """Returns the ids that are to be predicted; IGNORE in places where none is."""

    def targets(self, batch: Batch) -> int:
        """Returns how many targets the loss of a batch sums over."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed loss of a batch."""

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns for each figure of a validation its sum over a batch, and what it is a mean over."""

    def state(self) -> Mapping[str, Sequence[Tensor]]:
        """Returns what this worker remembers, by a whole number for each micro-batch's place."""

    def load(self, state: dict[str, list[Tensor]]) -> None:
        """Takes over what all workers remembered."""


class Forgetful:
    """Objectives that look at each batch alone, and whose validation has no figure but the loss."""

    remembers = False

    def labels(self, batch: Batch) -> Tensor:
        """Returns what ``collate`` called ``labels``."""
        return batch["labels"]

    def targets(self, batch: Batch) -> int:
        """Returns how many labels there are."""
        return int((self.labels(batch) != IGNORE).sum())

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns the loss."""
        return {"loss": (float(self.loss(model, batch)), float(self.targets(batch)))}  # type: ignore[attr-defined]

    def state(self) -> Mapping[str, Sequence[Tensor]]:
        """Nothing is remembered."""
        return {}

    def load(self, state: dict[str, list[Tensor]]) -> None:
        """Nothing is remembered."""


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy over a vocabulary.

    Attributes:
        label_smoothing: Share of the probability that is spread over all tokens, in training.
        z_loss: Weight of the squared logarithm of the softmax's sum, in training (Chowdhery et al. 2022, section 5).
        is_fused: Output layer and cross-entropy are computed together in pieces, in training: the logits, often the
            largest tensor of all, are never held. Of models with an output layer (a module), without the other two.
        teacher: Whose probabilities are learned too, in training.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    is_fused: bool = False
    teacher: Teacher | None = None

    def of(self, model: Any, labels: Tensor, inputs: Mapping[str, Any], logits: str = "logits") -> tuple[Tensor, Any]:
        """Reads inputs and returns the summed loss and all that the model returned.

        Args:
            model: Of transformers' kind.
            labels: Ids (...), IGNORE where none is wanted.
            inputs: Of the model, by name.
            logits: What the model calls its logits.
        """
        if not (self.is_fused and model.training):
            if self.teacher is None or not model.training:
                out = model(**inputs)
                return self.sum(getattr(out, logits), labels, model.training), out
            wanted = labels != IGNORE
            # An encoder-decoder has a stack that reads the source; what a decoder is asked for alone counts.
            masks = [inputs["attention_mask"], wanted] if "decoder_input_ids" in inputs else [wanted]
            heard = self.teacher.hear(model, lambda each: each(**inputs), masks)
            said, taught = (getattr(each, logits).flatten(0, -2) for each in (heard.student, heard.teacher))
            distance = self.teacher.distance(said, taught, wanted.flatten())
            loss = self.sum(said, labels.flatten(), model.training)
            return self.teacher.mixed(loss, distance, heard), heard.student
        head = model.get_output_embeddings()
        with _passed_over(head):
            out = model(**inputs)
        hidden = getattr(out, logits).flatten(0, -2)
        bias = head.bias.to(hidden.dtype) if head.bias is not None else None
        loss = F.linear_cross_entropy(
            hidden, head.weight.to(hidden.dtype), labels.flatten(), linear_bias=bias, reduction="sum",
            ignore_index=IGNORE, options=torch.nn.LinearCrossEntropyOptions(),
        )  # fmt: skip
        return loss, out

    def sum(self, logits: Tensor, labels: Tensor, training: bool) -> Tensor:
        """Returns the summed loss of logits (..., V) over the labels (...) that are not IGNORE."""
        flat, targets = logits.float().flatten(0, -2), labels.flatten()
        smoothing = self.label_smoothing if training else 0.0
        loss = F.cross_entropy(flat, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)
        if training and self.z_loss:
            loss = loss + self.z_loss * flat[targets != IGNORE].logsumexp(-1).square().sum()
        return loss


@contextlib.contextmanager
def _passed_over(head: torch.nn.Module) -> Iterator[None]:
    """Lets a layer return what it is given, so that the model returns hidden states for logits."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


PLAIN = TokenLoss()


@dataclass(frozen=True)
class CausalLmObjective(Forgetful):
    """Cross-entropy of each token given those before it, in nats.

    Attributes:
        pad_id: Fills sequences that are shorter than the batch's longest.
        document_boundaries: No token attends to another document of its sequence or is predicted from it. Positions
            begin anew with each document, by which transformers tells them apart.
    """

    pad_id: int = 0
    document_boundaries: bool = False
    token_loss: TokenLoss = PLAIN

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Returns ``ids`` (B, T+1), ``labels`` (B, T) and, with boundaries, ``positions`` (B, T).

        Args:
            samples: Arrays of ids, or packed sequences.
        """
        rows = [sample.tokens if isinstance(sample, PackedSequence) else sample for sample in samples]
        ids = pad(rows, self.pad_id)
        labels = ids[:, 1:].clone()
        for row, tokens in enumerate(rows):
            labels[row, max(0, len(tokens) - 1) :] = IGNORE
        if not self.document_boundaries:
            return {"ids": ids, "labels": labels}
        places = np.zeros(labels.shape, np.int64)
        for row, sample in enumerate(samples):
            starts = np.append(sample.starts, len(sample.tokens))  # the padding counts as one more document
            places[row] = positions(starts, places.shape[1])
            first = starts[(starts > 0) & (starts <= places.shape[1])]
            labels[row, torch.from_numpy(first - 1)] = IGNORE
        return {"ids": ids, "labels": labels, "positions": torch.from_numpy(places)}

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed cross-entropy."""
        placed = {"position_ids": batch["positions"]} if "positions" in batch else {}
        inputs = {"input_ids": batch["ids"][:, :-1], "use_cache": False, **placed}
        return self.token_loss.of(model, batch["labels"], inputs)[0]


def pad(rows: Sequence[Any], value: int, length: int | None = None) -> Tensor:
    """Returns integer rows of different lengths as one tensor (B, longest)."""
    longest = length or max(len(row) for row in rows)
    out = np.full((len(rows), longest), value, dtype=np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)
