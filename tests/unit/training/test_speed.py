"""Rates are those of the last steps, and a token's operations are those that the formulas of the papers give."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from llmyard.models.config import Gpt2, TransformerXl
from llmyard.models.families import build
from llmyard.training.layout import Layout
from llmyard.training.objectives import CausalLmObjective, pad
from llmyard.training.pretraining import RecurrentLmObjective, RestoringObjective
from llmyard.training.speed import PEAKS, WINDOW, Meter, flops_a_token, peak_of
from llmyard.training.streams import MicroBatch

HIDDEN, LAYERS, LENGTH, VOCAB = 32, 3, 24, 50


def test_rates_are_the_mean_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    meter = Meter(flops_a_token=1e6, peak=1e9)
    for step in range(WINDOW + 20):
        clock[0] += 9.0 if step < 20 else 0.5  # the first steps compile
        meter.step(targets=100, tokens=300, waited=0.05)
    assert meter.rates() == pytest.approx(
        {"tokens_per_second": 600.0, "targets_per_second": 200.0, "data_wait_share": 0.1, "mfu": 0.6}
    )


def test_without_a_known_peak_there_is_no_share_of_it() -> None:
    meter = Meter(flops_a_token=1e6)
    meter.step(1, 1, 0)
    assert "mfu" not in meter.rates()
    assert peak_of(torch.device("cpu")) is None


def test_the_peak_is_that_of_the_longest_name_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"NVIDIA H100 80GB HBM3": "H100", "NVIDIA H100 PCIe": "H100 PCIe", "NVIDIA H200": "H200",
             "NVIDIA A100-SXM4-40GB": "A100", "NVIDIA L4": "L4", "NVIDIA L40S": "L40S"}  # fmt: skip
    for name, short in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_of(torch.device("cuda")) == PEAKS[short], name
    for name in ("Something new", "NVIDIA RTX A4000", "NVIDIA RTX A1000", "NVIDIA A10G"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_of(torch.device("cuda")) is None, name


def test_a_tokens_operations_are_six_a_weight_and_those_of_attention() -> None:
    model = build(Gpt2(layers=LAYERS, hidden_size=HIDDEN, heads=2), vocab_size=VOCAB, pad_id=0, end_id=1,
                  max_tokens=LENGTH)  # fmt: skip
    objective = CausalLmObjective()
    rows = torch.randint(2, VOCAB, (4, LENGTH + 1)).tolist()
    found = flops_a_token(Layout(model), MicroBatch(0, objective, objective.collate(rows)))
    # Kaplan et al. 2020, table 1: the weights of matrices, and of attention 2 * T * D forward (scores and values) a
    # layer; torch counts whole scores, those that the causal mask hides too.
    matrices = LAYERS * 12 * HIDDEN * HIDDEN + VOCAB * HIDDEN
    assert found == pytest.approx(3 * (2 * matrices + LAYERS * 4 * LENGTH * HIDDEN), rel=1e-6)


def test_counting_leaves_no_memory_behind_and_no_other_mode() -> None:
    torch.manual_seed(0)
    shape = TransformerXl(layers=2, hidden_size=HIDDEN, heads=2, feed_forward_size=64, memory_length=8)
    model = build(shape, vocab_size=VOCAB, pad_id=0, end_id=1, max_tokens=LENGTH).train()
    objective: Any = RecurrentLmObjective()
    batch = {"ids": torch.randint(2, VOCAB, (2, LENGTH + 1)), "lanes": torch.arange(2), "fresh": torch.zeros(2).bool()}
    assert flops_a_token(Layout(model), MicroBatch(0, objective, batch)) > 0
    assert objective.state() == {}
    assert model.training


def test_tokens_are_what_is_read_and_what_is_written() -> None:
    causal = CausalLmObjective()
    assert MicroBatch(0, causal, causal.collate([[1] * 9, [1] * 9])).tokens == 16

    restoring = RestoringObjective(0)
    batch = {"source": pad([[1] * 7] * 2, 0), "targets": pad([[1] * 3] * 2, 0)}
    assert MicroBatch(0, restoring, batch).tokens == 2 * (7 + 3)
