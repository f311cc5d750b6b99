"""Objectives of pretraining beside the causal one: hidden words, text to be restored, memory over segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmyard.tokens.lanes import LaneSegment
from llmyard.tokens.masking import Masked
from llmyard.tokens.skip_gram import Pairs
from llmyard.tokens.span_corruption import Corrupted
from llmyard.training.objectives import IGNORE, PLAIN, Batch, Forgetful, TokenLoss, pad


@dataclass(frozen=True)
class MaskedLmObjective(Forgetful):
    """Cross-entropy of the hidden tokens and, of pairs, whether the second segment goes on where the first ends.

    Attributes:
        pad_id: Fills shorter sequences.
        pair_weight: How many hidden tokens one pair counts as; as many as a sequence has weighs both losses alike.
        token_loss: Of the hidden tokens.
    """

    pad_id: int
    pair_weight: float
    token_loss: TokenLoss = PLAIN

    def collate(self, samples: Sequence[Masked]) -> Batch:
        """Returns ``ids``, ``mask``, ``kinds`` and ``labels`` (B, T), and of pairs ``follows`` (B), 0 where they do."""
        batch = {
            "ids": pad([sample.ids for sample in samples], self.pad_id),
            "mask": pad([torch.ones(len(sample.ids)) for sample in samples], 0),
            "kinds": pad([sample.kinds for sample in samples], 0),
            "labels": pad([sample.labels for sample in samples], IGNORE),
        }
        if samples[0].follows is not None:
            # As in BERT, class 0 is a pair that belongs together.
            batch["follows"] = torch.tensor([0 if sample.follows else 1 for sample in samples])
        return batch

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed loss of tokens and pairs."""
        loss, out = self.token_loss.of(model, batch["labels"], _inputs(batch), "prediction_logits")
        if "follows" in batch:
            pairs = F.cross_entropy(out.seq_relationship_logits.float(), batch["follows"], reduction="sum")
            loss = loss + self.pair_weight * pairs
        return loss

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns the loss, that of the hidden tokens alone, and the shares of tokens and pairs that are right."""
        out = model(**_inputs(batch))
        hidden = batch["labels"] != IGNORE
        count = float(hidden.sum())
        tokens = float(PLAIN.sum(out.prediction_logits, batch["labels"], training=False))
        right = float((out.prediction_logits.argmax(-1) == batch["labels"])[hidden].sum())
        found = {"masked_loss": (tokens, count), "masked_accuracy": (right, count)}
        whole = tokens
        if "follows" in batch:
            logits = out.seq_relationship_logits.float()
            pairs = float(F.cross_entropy(logits, batch["follows"], reduction="sum"))
            whole += self.pair_weight * pairs
            agreed = float((logits.argmax(-1) == batch["follows"]).sum())
            found["pair_accuracy"] = (agreed, float(len(logits)))
        return {"loss": (whole, count), **found}


def _inputs(batch: Batch) -> Batch:
    return {"input_ids": batch["ids"], "attention_mask": batch["mask"], "token_type_ids": batch["kinds"]}


@dataclass(frozen=True)
class RestoringObjective(Forgetful):
    """Cross-entropy of what the decoder writes, given what the encoder reads; the decoder starts from padding (T5).

    Attributes:
        pad_id: Fills shorter sequences.
        token_loss: Of what is written.
    """

    pad_id: int
    token_loss: TokenLoss = PLAIN

    def collate(self, samples: Sequence[Corrupted]) -> Batch:
        """Returns ``source`` and ``mask`` (B, S), ``inputs`` and ``targets`` (B, T)."""
        targets = pad([sample.targets for sample in samples], IGNORE)
        inputs = targets.roll(1, 1)
        inputs[:, 0] = self.pad_id
        return {
            "source": pad([sample.inputs for sample in samples], self.pad_id),
            "mask": pad([torch.ones(len(sample.inputs)) for sample in samples], 0),
            "inputs": inputs.masked_fill(inputs == IGNORE, self.pad_id),
            "targets": targets,
        }

    def labels(self, batch: Batch) -> Tensor:
        """Returns the tokens that are written."""
        return batch["targets"]

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed cross-entropy."""
        return self.token_loss.of(model, batch["targets"], self._inputs(batch))[0]

    def surprises(self, model: Any, batch: Batch) -> Tensor:
        """Returns -log P, in nats, of each token that is written (B, T); 0 where none is."""
        logits = model(**self._inputs(batch)).logits.float()
        return F.cross_entropy(logits.transpose(1, 2), batch["targets"], ignore_index=IGNORE, reduction="none")

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        inputs = {"input_ids": batch["source"], "attention_mask": batch["mask"], "use_cache": False}
        return inputs | {"decoder_input_ids": batch["inputs"]}


@dataclass(frozen=True)
class SkipGramObjective(Forgetful):
    """Binary cross-entropy of the tokens around a token against drawn ones, summed over a pair's tokens, in nats.

    A drawn token that happens to be the true one counts for nothing, as in word2vec.

    Attributes:
        frequency_scores: What a model that knows frequencies alone gives each token, (V): the loss to be compared with.
    """

    frequency_scores: Tensor

    def collate(self, samples: Sequence[Pairs]) -> Batch:
        """Returns ``centres`` (P) and ``around`` (P, 1 + K) of all samples."""
        return {
            "centres": torch.from_numpy(np.concatenate([sample.centres for sample in samples])),
            "around": torch.from_numpy(np.concatenate([sample.around for sample in samples])),
        }

    def labels(self, batch: Batch) -> Tensor:
        """Returns the tokens that stand around, (P)."""
        return batch["around"][:, 0]

    def targets(self, batch: Batch) -> int:
        """Returns P; 1 where all tokens were passed over, since a step divides by it."""
        return max(1, len(batch["centres"]))

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed loss of all pairs."""
        return self._sum(model(batch["centres"], batch["around"]), batch)

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns the loss, and that of the best scores that do not look at the centre."""
        count = float(self.targets(batch))
        scores = self.frequency_scores.to(batch["around"].device)[batch["around"]]
        return {
            "loss": (float(self.loss(model, batch)), count),
            "frequency_loss": (float(self._sum(scores, batch)), count),
        }

    def _sum(self, scores: Tensor, batch: Batch) -> Tensor:
        around = batch["around"]
        drawn = around != around[:, :1]
        scores = scores.float()
        return F.softplus(-scores[:, 0]).sum() + (F.softplus(scores) * drawn).sum()


class RecurrentLmObjective:
    """Cross-entropy of each token given those before it in its segment, and the memory of its lane.

    A micro-batch holds the same lanes in every step, so its memories are kept by its first lane; a checkpoint carries
    those of all workers, and a run resumed by another number of them finds each where it is needed.

    Args:
        token_loss: Of the tokens.
    """

    remembers = True

    def __init__(self, token_loss: TokenLoss = PLAIN) -> None:
        self._token_loss = token_loss
        self._memories: dict[str, list[Tensor]] = {}
        self._own: set[str] = set()  # those that this worker went on from since they were loaded

    def collate(self, samples: Sequence[LaneSegment]) -> Batch:
        """Returns ``ids`` (B, T+1), ``lanes`` (B) and ``fresh`` (B), True where a new stream begins."""
        return {
            "ids": pad([sample.tokens for sample in samples], 0),
            "lanes": torch.tensor([sample.lane for sample in samples]),
            "fresh": torch.tensor([sample.fresh for sample in samples]),
        }

    def labels(self, batch: Batch) -> Tensor:
        """Returns the tokens but the first, (B, T)."""
        return batch["ids"][:, 1:]

    def targets(self, batch: Batch) -> int:
        """Returns B times T."""
        return self.labels(batch).numel()

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Returns the summed cross-entropy, and goes on from here the next time."""
        key = str(int(batch["lanes"][0]))
        memories = None if bool(batch["fresh"].any()) else self._memories.get(key)
        if memories is not None:
            memories = [memory.to(batch["ids"].device) for memory in memories]
        out = model(input_ids=batch["ids"][:, :-1], memories=memories)
        self._memories[key] = [memory.detach() for memory in out.memories]
        self._own.add(key)
        return self._token_loss.sum(out.logits, batch["ids"][:, 1:], model.training)

    def measures(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        """Returns the loss."""
        return {"loss": (float(self.loss(model, batch)), float(self.targets(batch)))}

    def state(self) -> dict[str, list[Tensor]]:
        """Returns this worker's memories by the first lane of their micro-batch."""
        return {key: [memory.cpu() for memory in self._memories[key]] for key in sorted(self._own)}

    def load(self, state: dict[str, list[Tensor]]) -> None:
        """Takes over memories."""
        self._memories, self._own = dict(state), set()
