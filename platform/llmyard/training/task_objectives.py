"""What a model learns from the examples of a task: to write an answer, to tag, to label, to prefer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmyard.tokens.views import Example
from llmyard.training.objectives import IGNORE, PLAIN, Batch, Forgetful, TokenLoss, pad
from llmyard.training.teaching import Teacher


@dataclass(frozen=True)
class SequenceToSequenceObjective(Forgetful):
    """Cross-entropy of the target's tokens given the prompt and those before.

    The decoder starts from the prompt's last token (the separator), so that one sequence in a shard serves both an
    encoder-decoder and a causal model.
    """

    pad_id: int
    token_loss: TokenLoss = PLAIN

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Returns ``source`` and ``mask`` (B, S), ``inputs`` and ``targets`` (B, T)."""
        prompts = [sample.tokens[: sample.target_start] for sample in samples]
        inputs = [sample.tokens[sample.target_start - 1 : -1] for sample in samples]
        targets = [sample.tokens[sample.target_start :] for sample in samples]
        return {
            "source": pad(prompts, self.pad_id),
            "mask": pad([np.ones(len(prompt)) for prompt in prompts], 0),
            "inputs": pad(inputs, self.pad_id),
            "targets": pad(targets, IGNORE),
        }

    def labels(self, batch: Batch) -> Tensor:
        """Returns the target's tokens."""
        return batch["targets"]

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed cross-entropy."""
        inputs = {"input_ids": batch["source"], "attention_mask": batch["mask"], "use_cache": False}
        inputs["decoder_input_ids"] = batch["inputs"]
        return self.token_loss.of(model, batch["targets"], inputs)[0]


@dataclass(frozen=True)
class PromptedLmObjective(Forgetful):
    """Cross-entropy of an answer's tokens given the prompt and those before, of a causal model.

    Attributes:
        pad_id: Fills shorter sequences.
        token_loss: Of the answer's tokens.
    """

    pad_id: int
    token_loss: TokenLoss = PLAIN

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Returns ``ids`` (B, T) and ``labels`` (B, T): at each place the token after it, of the answer only.

        Of a conversation with several answers the samples' labels say which tokens are of one.
        """
        labels = pad([sample.tokens[1:] for sample in samples], IGNORE)
        for row, sample in enumerate(samples):
            labels[row, : sample.target_start - 1] = IGNORE
            if sample.labels is not None:
                labels[row, torch.from_numpy(np.flatnonzero(sample.labels[1:] == 0))] = IGNORE
        return {"ids": pad([sample.tokens[:-1] for sample in samples], self.pad_id), "labels": labels}

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed cross-entropy; padding stands behind all that is read, so it needs no mask."""
        return self.token_loss.of(model, batch["labels"], {"input_ids": batch["ids"], "use_cache": False})[0]


@dataclass(frozen=True)
class SpanObjective(Forgetful):
    """Cross-entropy of BIO tags plus binary cross-entropy of relations between all pairs of true entities.

    Attributes:
        pad_id: Fills shorter sequences.
        relations: How many there are.
        label_smoothing: Share of the probability that is spread over all tags, in training.
        teacher: Whose probabilities are learned too, in training.
    """

    pad_id: int
    relations: int
    label_smoothing: float = 0.0
    teacher: Teacher | None = None

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Returns ``tokens`` and ``tags`` (B, T), ``starts`` (B, E), ``valid`` (B, E) and ``related`` (B, R, E, E)."""
        starts = [np.flatnonzero(sample.labels % 2 == 1) for sample in samples if sample.labels is not None]
        count = max(1, *(len(each) for each in starts))
        related = torch.zeros(len(samples), self.relations, count, count)
        for row, (sample, places) in enumerate(zip(samples, starts, strict=True)):
            index = {int(place): at for at, place in enumerate(places)}
            for relation, one, two in sample.pairs.reshape(-1, 3).tolist():
                related[row, relation, index[one], index[two]] = 1.0
        return {
            "tokens": pad([sample.tokens for sample in samples], self.pad_id),
            "tags": pad([sample.labels for sample in samples], IGNORE),
            "starts": pad(starts, 0, count),
            "valid": pad([np.ones(len(each)) for each in starts], 0, count).bool(),
            "related": related,
        }

    def labels(self, batch: Batch) -> Tensor:
        """Returns the tags; the relations' loss is spread over them."""
        return batch["tags"]

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed loss of tags and relations."""
        if self.teacher is None or not model.training:
            return self._distance(model, batch, *model(batch["tokens"], batch["starts"]))
        read = batch["tokens"] != self.pad_id
        heard = self.teacher.hear(model, lambda each: each(batch["tokens"], batch["starts"]), [read])
        (tags, scores), (their_tags, their_scores) = heard.student, heard.teacher
        tagged, both = batch["tags"].flatten() != IGNORE, _both(batch, scores)
        distance = self.teacher.distance(tags.flatten(0, 1), their_tags.flatten(0, 1), tagged)
        distance = distance + self.teacher.binary_distance(scores[both], their_scores[both])
        return self.teacher.mixed(self._distance(model, batch, tags, scores), distance, heard)

    def _distance(self, model: Any, batch: Batch, tags: Tensor, scores: Tensor) -> Tensor:
        smoothing = self.label_smoothing if model.training else 0.0
        tagging = F.cross_entropy(
            tags.float().flatten(0, 1), batch["tags"].flatten(), ignore_index=IGNORE, reduction="sum",
            label_smoothing=smoothing,
        )  # fmt: skip
        both = _both(batch, scores)
        relating = F.binary_cross_entropy_with_logits(scores.float()[both], batch["related"][both], reduction="sum")
        return tagging + relating


def _both(batch: Batch, scores: Tensor) -> Tensor:
    """Returns which scores of relations are of two true entities, in their shape."""
    valid = batch["valid"]
    return (valid[:, :, None] & valid[:, None, :])[:, None].expand_as(scores)


@dataclass(frozen=True)
class PreferenceObjective(Forgetful):
    """How much likelier the chosen reply has become than the rejected one, against a reference that is not trained.

    Direct preference optimization, Rafailov et al. 2023, equation 7.

    Attributes:
        pad_id: Fills shorter sequences.
        reference: The model before.
        beta: How strongly the model is held to the reference.
    """

    pad_id: int
    reference: Any
    beta: float

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Returns ``ids`` and ``labels`` (2B, T): chosen replies, then rejected ones, each behind its prompt."""
        rows: list[list[Any]] = [[], []]
        for sample in samples:
            start = sample.target_start
            border = start + int(sample.pairs[0])
            prompt = sample.tokens[:start]
            for side, reply in zip(rows, (sample.tokens[start:border], sample.tokens[border:]), strict=True):
                side.append((np.concatenate([prompt, reply]), start))
        labels = pad([ids[1:] for ids, _ in (*rows[0], *rows[1])], IGNORE)
        for row, (_, start) in enumerate((*rows[0], *rows[1])):
            labels[row, : start - 1] = IGNORE
        return {"ids": pad([ids[:-1] for ids, _ in (*rows[0], *rows[1])], self.pad_id), "labels": labels}

    def targets(self, batch: Batch) -> int:
        """Returns the number of pairs."""
        return len(batch["ids"]) // 2

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed loss of all pairs, in nats."""
        return -F.logsigmoid(self.beta * self._margins(model, batch)).sum()

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns the loss, and how often the chosen reply gained more than the rejected one."""
        margins, count = self._margins(model, batch), float(self.targets(batch))
        loss = -F.logsigmoid(self.beta * margins).sum()
        return {"loss": (float(loss), count), "accuracy": (float((margins > 0).sum()), count)}

    def writing_loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the mean cross-entropy of the chosen replies' tokens, in nats; it needs no reference."""
        chosen = {name: each[: self.targets(batch)] for name, each in batch.items()}
        return -_likelihoods(model, chosen).sum() / (chosen["labels"] != IGNORE).sum()

    def _margins(self, model: Any, batch: Batch) -> Tensor:
        """Returns by how much the chosen replies gained more than the rejected ones (B)."""
        with torch.no_grad():
            before = _likelihoods(self.reference.to(batch["ids"].device), batch)
        chosen, rejected = (_likelihoods(model, batch) - before).chunk(2)
        return chosen - rejected


def _likelihoods(model: Any, batch: Batch) -> Tensor:
    """Returns the log-probability of the labels of each row (B), in nats."""
    labels = batch["labels"]
    said = model(input_ids=batch["ids"], use_cache=False).logits.float().log_softmax(-1)
    each = said.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (each * (labels != IGNORE)).sum(-1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LabelObjective(Forgetful):
    """Cross-entropy of one label for each text, in nats.

    Attributes:
        pad_id: Fills shorter texts.
        label_smoothing: Share of the probability that is spread over all labels in training.
        teacher: Whose probabilities are learned too, in training.
    """

    pad_id: int
    label_smoothing: float = 0.0
    teacher: Teacher | None = None

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Returns ``tokens`` and ``parts`` (B, T), and ``labels`` (B)."""
        return {
            "tokens": pad([sample.tokens for sample in samples], self.pad_id),
            "parts": pad([sample.labels for sample in samples], 0),
            "labels": torch.tensor([int(sample.pairs[0]) for sample in samples]),
        }

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed cross-entropy."""
        if self.teacher is None or not model.training:
            return self._distance(model, batch, model(batch["tokens"], batch["parts"]))
        read = batch["tokens"] != self.pad_id
        heard = self.teacher.hear(model, lambda each: each(batch["tokens"], batch["parts"]), [read])
        everywhere = torch.ones_like(batch["labels"], dtype=torch.bool)
        distance = self.teacher.distance(heard.student, heard.teacher, everywhere)
        return self.teacher.mixed(self._distance(model, batch, heard.student), distance, heard)

    def _distance(self, model: Any, batch: Batch, logits: Tensor) -> Tensor:
        smoothing = self.label_smoothing if model.training else 0.0
        return F.cross_entropy(logits.float(), batch["labels"], reduction="sum", label_smoothing=smoothing)

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns the loss, and the share of labels that are right."""
        logits = model(batch["tokens"], batch["parts"]).float()
        count = float(len(batch["labels"]))
        loss = F.cross_entropy(logits, batch["labels"], reduction="sum")
        return {
            "loss": (float(loss), count),
            "accuracy": (float((logits.argmax(-1) == batch["labels"]).sum()), count),
        }
