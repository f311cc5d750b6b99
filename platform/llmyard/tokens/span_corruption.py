"""Spans of the text replaced by sentinels, to be written by a decoder (T5, Raffel et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmyard.core.compiled import I64, Bools
from llmyard.core.errors import DataError, RequestError
from llmyard.core.seeds import mix, numbers
from llmyard.tokens.shards import ShardSet


@dataclass(frozen=True, slots=True)
class SpanLengths:
    """How long everything is, the same for all samples.

    Attributes:
        raw: Tokens of the text that are read.
        noise: How many of them the decoder writes.
        spans: In how many spans they lie; so many sentinels are needed.
        inputs: Ids the encoder reads, end token included.
        targets: Ids the decoder writes, end token included.
    """

    raw: int
    noise: int
    spans: int
    inputs: int
    targets: int

    @classmethod
    def of(cls, raw: int, noise_density: float, mean_span: float) -> SpanLengths:
        """Returns the lengths for so many tokens of text."""
        noise = min(max(round(raw * noise_density), 1), raw - 1)
        spans = min(max(round(noise / mean_span), 1), noise, raw - noise)
        return cls(raw, noise, spans, raw - noise + spans + 1, noise + spans + 1)

    @classmethod
    def filling(cls, input_length: int, noise_density: float, mean_span: float) -> SpanLengths:
        """Returns the lengths whose encoder input is exactly ``input_length``, as T5 computes them.

        Raises:
            RequestError: It is too short for one span.
        """
        if input_length < 3:
            raise RequestError(f"an encoder input of {input_length} has no room for a span", "take 3 at least")
        raw = 2
        while (longer := cls.of(raw + 1, noise_density, mean_span)).inputs <= input_length:
            raw = longer.raw
        return cls.of(raw, noise_density, mean_span)


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A sample: ``inputs`` for the encoder, ``targets`` for the decoder, both ended by the end token."""

    inputs: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


class SpanCorruptionView:
    """Stretches of the token stream with spans cut out; every epoch cuts out others.

    llmyard's vocabularies hold no sentinels: the *k*-th is the id ``vocab_size + k``, so a model's embedding needs
    ``vocab_size + lengths.spans`` rows. The encoder reads text, sentinel 0, text, sentinel 1 ..., and the decoder
    writes sentinel 0, its span, sentinel 1, its span ...

    Args:
        shards: Where the text is.
        input_length: Ids the encoder reads; more of the text is read, so that they are exactly so many.
        vocab_size: Of the tokenizer.
        end_id: Its end token.
        seed: Of the spans.
        noise_density: Share of the text that is cut out; up to 0.4, the input's length is met exactly.
        mean_span: Mean tokens of a span.

    Attributes:
        lengths: Of text, inputs and targets.

    Raises:
        DataError: No shard holds one whole stretch.
    """

    def __init__(
        self, shards: ShardSet, input_length: int, *, vocab_size: int, end_id: int, seed: int,
        noise_density: float = 0.15, mean_span: float = 3.0,
    ) -> None:  # fmt: skip
        self._shards, self._seed, self._vocab_size, self._end = shards, seed, vocab_size, end_id
        self.lengths = SpanLengths.filling(input_length, noise_density, mean_span)
        self.rows = [shard.tokens // self.lengths.raw for shard in shards.shards]
        if not sum(self.rows):
            raise DataError(
                f"split {shards.split!r} has {shards.tokens} tokens in {len(self.rows)} shards, fewer in each than "
                f"the {self.lengths.raw} of one sample",
                "prepare more text, or set a smaller input length",
            )

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Corrupted:
        raw = self._shards.shards[shard].read(row * self.lengths.raw, self.lengths.raw).astype(np.int64)
        cut_out = noise_mask(self.lengths, mix(self._seed, epoch, shard, row))
        return corrupt(raw, cut_out, self._vocab_size, self._end)

    def length(self, shard: int, row: int) -> int:
        """Returns the encoder's input length, the same for all."""
        return self.lengths.inputs


def noise_mask(lengths: SpanLengths, seed: int) -> Bools:
    """Returns for each token of the text whether it is cut out; the text begins with a token that stays.

    Spans, and what stays between them, are divided at random places, each division as likely as any other.
    """
    kept = _divide(lengths.raw - lengths.noise, lengths.spans, mix(seed, 0))
    noise = _divide(lengths.noise, lengths.spans, mix(seed, 1))
    runs = np.stack([kept, noise], axis=1).reshape(-1)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def corrupt(raw: I64, cut_out: Bools, first_sentinel: int, end_id: int) -> Corrupted:
    """Returns inputs and targets of a text.

    Args:
        raw: Its ids.
        cut_out: Which of them are cut out; not the first.
        first_sentinel: Stands for the first span, the next id for the next one.
        end_id: Ends both.
    """
    begins = np.flatnonzero(cut_out & ~np.append(False, cut_out[:-1]))
    sentinels = first_sentinel + np.arange(len(begins))
    inputs = raw.copy()
    inputs[begins] = sentinels
    stays = ~cut_out
    stays[begins] = True
    places = np.cumsum(cut_out)[begins] - 1  # of each span's first token among those cut out
    targets = np.insert(raw[cut_out], places, sentinels)
    return Corrupted(np.append(inputs[stays], end_id), np.append(targets, end_id))


def _divide(items: int, parts: int, seed: int) -> I64:
    """Returns the sizes of so many parts, none of them empty."""
    places = np.argsort(numbers(items - 1, seed), kind="stable")[: parts - 1] + 1
    return np.diff(np.sort(places), prepend=0, append=items)
