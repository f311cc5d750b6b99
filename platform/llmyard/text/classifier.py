"""A learned judge of quality: a linear model over hashed words and pairs of words, as fastText's (Joulin et al. 2017).

FineWeb-Edu, GPT-3 and others sort the web by such a model, trained on texts that people trust against raw ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmyard.core.compiled import F32, F64, I64, U64, Number, compiled
from llmyard.core.errors import DataError
from llmyard.text.config import Classifier
from llmyard.text.units import Units, mix, units_of

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """Attributes:
    weights: One for each bucket of units and pairs of units (a power of two).
    bias: Of a text without any.
    """

    weights: F32
    bias: float

    def save(self, file: str | Path) -> None:
        """Writes the model as a numpy archive."""
        np.savez_compressed(file, format_version=FORMAT, weights=self.weights, bias=self.bias)

    @classmethod
    def load(cls, file: str | Path) -> Model:
        """Returns the model that :meth:`save` wrote.

        Raises:
            DataError: It is of another format.
        """
        with np.load(file, allow_pickle=False) as data:
            if int(data["format_version"]) != FORMAT:
                raise DataError(
                    f"{file} has format {data['format_version']}, this version reads {FORMAT}", "train the model anew"
                )
            return cls(data["weights"], float(data["bias"]))


def train(positive: Units, negative: Units, config: Classifier) -> Model:
    """Returns the model that tells good texts from bad ones, by logistic regression; equal seeds give equal models.

    Both sides weigh the same, however many examples each has.

    Raises:
        DataError: A side has no text with units.
    """
    for name, side in (("positive", positive), ("negative", negative)):
        if not len(side.hashes):
            raise DataError(f"the {name} examples hold no words", f"check the files of `{name}`")
    hashes = np.concatenate([positive.hashes, negative.hashes])
    offsets = np.append(positive.offsets, negative.offsets[1:] + positive.offsets[-1])
    good, bad = len(positive.offsets) - 1, len(negative.offsets) - 1
    truth = np.repeat([1.0, 0.0], [good, bad])
    shares = np.repeat([0.5 / good, 0.5 / bad], [good, bad]) * (good + bad)
    draw = np.random.default_rng(config.seed)
    order = np.concatenate([draw.permutation(good + bad) for _ in range(config.epochs)])
    weights = np.zeros(1 << config.bits, np.float32)
    bias = _learn(hashes, offsets, truth, shares, order, config.learning_rate, config.bits, weights)
    return Model(weights, float(bias))


@cache
def model_of(config: Classifier) -> Model:
    """Returns the model of the examples at the config's paths; that of a process stays in memory.

    Raises:
        RequestError: A file cannot be read.
        DataError: A side has no words.
    """
    from llmyard.text.examples import texts_of

    return train(units_of(texts_of(config.positive)), units_of(texts_of(config.negative)), config)


def score(units: Units, model: Model) -> F64:
    """Returns for each text the probability that it is like the good ones."""
    return _score(units.hashes, units.offsets, model.weights, model.bias, len(model.weights).bit_length() - 1)


def judge_classifier(units: Units, model: Model, config: Classifier) -> Any:
    """Returns for each text ``low_quality``, or null."""
    failed = score(units, model) < config.min_probability
    return pa.array(np.where(failed, "low_quality", ""), pa.string(), mask=~failed)


@compiled
def _pair(first: Number, second: Number) -> Number:
    return mix(first * np.uint64(0x9E3779B97F4A7C15) + second)


@compiled
def _sum(hashes: U64, low: Number, high: Number, weights: F32, shift: Number) -> Number:
    """Returns the weights of a text's units and pairs over the square root of their number.

    A mean would leave long texts undecided, and a sum would be ruled by them.
    """
    total = 0.0
    for at in range(low, high):
        total += weights[hashes[at] >> shift]
        if at > low:
            total += weights[_pair(hashes[at - 1], hashes[at]) >> shift]
    return total / np.sqrt(max(2.0 * (high - low) - 1.0, 1.0))


@compiled
def _chance(value: Number) -> Number:
    return 1.0 / (1.0 + np.exp(-value))


@compiled
def _learn(
    hashes: U64, offsets: I64, truth: F64, shares: F64, order: I64, rate: float, bits: int, weights: F32
) -> float:
    shift = np.uint64(64 - bits)
    bias = 0.0
    for step in range(len(order)):
        text = order[step]
        low, high = offsets[text], offsets[text + 1]
        wrong = truth[text] - _chance(_sum(hashes, low, high, weights, shift) + bias)
        change = rate * (1.0 - step / len(order)) * shares[text] * wrong
        bias += 0.1 * change
        part = np.float32(change / np.sqrt(max(2.0 * (high - low) - 1.0, 1.0)))
        for at in range(low, high):
            weights[hashes[at] >> shift] += part
            if at > low:
                weights[_pair(hashes[at - 1], hashes[at]) >> shift] += part
    return bias


@compiled
def _score(hashes: U64, offsets: I64, weights: F32, bias: float, bits: int) -> F64:
    shift = np.uint64(64 - bits)
    result = np.empty(len(offsets) - 1, np.float64)
    for text in range(len(offsets) - 1):
        result[text] = _chance(_sum(hashes, offsets[text], offsets[text + 1], weights, shift) + bias)
    return result
