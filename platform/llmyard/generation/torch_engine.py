"""Our own engine on torch: causal decoders, encoder-decoders, and encoders that label.

One thread computes. Answers are written together, a token of each at a time; a request that arrives joins them before
the next token, and an answer that ends or is aborted leaves (Yu et al. 2022, "Orca").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmyard.compression.loading import load
from llmyard.generation.capable import ANSWERING, capabilities_of, why_not
from llmyard.generation.decoders import Decoder, decoder_of
from llmyard.generation.engine import Unanswering, Unsupported
from llmyard.generation.likelihoods import MAX_BATCH, Likelihood, likelihoods, vectors_of
from llmyard.generation.queued import Sequenced
from llmyard.generation.requests import QueueingEngine
from llmyard.generation.tagging import choose, tag
from llmyard.models.span_tagger import SpanTagger
from llmyard.models.text_classifier import TextClassifier
from llmyard.tasks.task import Annotation, Choice, Marked
from llmyard.tokens.tokenizer import FILE, Tokenizer
from llmyard.training.adapting import load_adapted

KEPT_BYTES = 1 << 28  # of keys and values that an engine holds on to while it is idle


class TorchEngine(QueueingEngine):
    """Answers with one model in this process.

    Args:
        model: To answer with.
        tokenizer: Of the model.
        name: Reference shown in :meth:`capabilities`.
        threads: CPU threads to compute with; None leaves torch's setting, which all engines of a process share.
        device: Where to compute.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, name: str = "model", threads: int | None = None, device: str = "cpu"
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._model = model.to(self._device)
        fault = why_not(self._model)
        if fault:
            raise Unanswering(f"{name}: {fault}", f"it answers with {ANSWERING}")
        self._decoder: Decoder | None = None
        super().__init__(tokenizer, capabilities_of(self._model, name), self._model.config.vocab_size)

    @classmethod
    def load(
        cls, folder: str | Path, name: str = "model", threads: int | None = None, base: str | Path | None = None
    ) -> TorchEngine:
        """Returns an engine with a saved model.

        Args:
            folder: The model with its ``tokenizer.json``.
            name: As above.
            threads: As above.
            base: The model that the folder holds an adapter of; None where it holds a whole one.
        """
        tokenizer = Tokenizer.load(Path(folder, FILE))
        model = load(folder) if base is None else load_adapted(Path(base), Path(folder))
        return cls(model, tokenizer, name, threads)

    @property
    def model(self) -> Any:
        """The model, for those who look into it while nothing is asked."""
        return self._model

    @torch.inference_mode()
    def _write(self, sequences: list[Sequenced]) -> None:
        if self._decoder is None:
            self._decoder = decoder_of(self._model, self.tokenizer.pad_id, self._device)
        decoder, new = self._decoder, sequences
        self._decoder = None  # until all has ended well: a row that a failure left behind would be another's
        running: list[Sequenced] = []
        while new or running:
            if new:
                running += self._admitted(decoder, new)
            if running:
                tokens_B = torch.tensor([sequence.ids[-1] for sequence in running], device=self._device)
                self._taken(decoder, running, decoder.step(tokens_B), 0)
            self._stats.kv_cache_bytes = decoder.bytes
            new = self._arrived(MAX_BATCH - len(running)) if decoder.joins or not running else []
        if decoder.bytes <= KEPT_BYTES:
            self._decoder = decoder
        else:
            self._stats.kv_cache_bytes = 0

    def _admitted(self, decoder: Decoder, new: list[Sequenced]) -> list[Sequenced]:
        """Returns those of the new answers that go on behind their first token."""
        before = len(decoder)
        try:
            logits_BV = decoder.admit([sequence.request.prompt for sequence in new])
        except Exception as error:  # those that are being written are not touched
            self._fail(new, error)
            return []
        going = list(new)
        self._taken(decoder, going, logits_BV, before)
        return going

    def _taken(self, decoder: Decoder, sequences: list[Sequenced], logits_BV: torch.Tensor, first: int) -> None:
        """Takes a token into each answer, and those that end out of the list and of the decoder's rows.

        Args:
            decoder: Whose last rows they are.
            sequences: The answers; changed in place.
            logits_BV: Of their next tokens.
            first: Row of the first.
        """
        chosen = self._choose(logits_BV, sequences)
        with self._outbox.together():
            ended = [at for at, sequence in enumerate(sequences) if not self._advance(sequence, chosen[at])]
        for at in reversed(ended):  # the last one takes the place of each
            decoder.remove(first + at)
            sequences[at] = sequences[-1]
            sequences.pop()

    @torch.inference_mode()
    def _annotate(self, texts: Sequence[str]) -> list[Annotation]:
        if not isinstance(self._model, SpanTagger):
            raise Unsupported(f"{self._able.model} does not tag, it {self._able.does}", f"use its {self._able.route}")
        encoded, tokens_BT = self._encoded(texts)
        return tag(self._model, texts, encoded, tokens_BT.to(self._device))

    @torch.inference_mode()
    def _classify(self, texts: Sequence[Marked]) -> list[Choice]:
        if not isinstance(self._model, TextClassifier):
            able = self._able
            raise Unsupported(f"{able.model} chooses no labels, it {able.does}", f"use its {able.route}")
        encoded, tokens_BT = self._encoded([each.text for each in texts])
        return choose(self._model, texts, encoded, tokens_BT.to(self._device))

    @torch.inference_mode()
    def _score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        return likelihoods(self._model, prompts, answers, self.tokenizer.pad_id, self._device)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> list[list[float]]:
        _, tokens_BT = self._encoded(texts)
        rows: list[list[float]] = vectors_of(self._model, tokens_BT.to(self._device), self.tokenizer.pad_id).tolist()
        return rows
