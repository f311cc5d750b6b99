"""The numbers of the recommendations, read from ``rules.yaml``, which names the source of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llmyard.core.config import Config
from llmyard.models.config import ModelChoice

FILE = Path(__file__).with_name("rules.yaml")


class Line(Config):
    """A value up to a limit; without one for all above."""

    upto: float = math.inf
    value: float

    model_config = Config.model_config | {"allow_inf_nan": True}


Table = tuple[Line, ...]


class TaskRules(Config):
    """What is usual for a task."""

    examples: int
    tokens: int
    smallworld: bool
    answer_share: float
    encoder: bool
    own: str


class Devices(Config):
    """A number for CPUs and one for GPUs."""

    cpu: float
    gpu: float

    def of(self, has_gpus: bool) -> float:
        """Returns the one that counts."""
        return self.gpu if has_gpus else self.cpu


class Merit(Config):
    """Points for ranking."""

    hub: Table
    own_base: Table
    scratch: Table
    tenfold_size: float
    own_language: float
    convert: float
    gated: float
    doubled_time: float
    no_fit: float
    writer_for_labels: float
    writes_structure: float
    open_domain_size: float
    open_domain_small: float
    open_domain_reader: float
    slow_on_cpu: float
    short_context: float
    prompt_only: float


class Warmup(Config):
    """Shares of the steps."""

    finetune: float
    pretrain: float


class Rules(Config):
    """All of ``rules.yaml``; what each number means stands there."""

    tokens_a_parameter: float
    worthwhile_epochs: float
    tokens_a_small_weight: float
    memory_share: Devices
    activation_margin: float
    hours: Devices
    flops: Devices
    seconds_a_pass: Devices
    validation_share: float
    test_share: float
    tasks: dict[str, TaskRules]
    epochs: dict[str, Table]
    batch: Table
    rates: dict[str, dict[str, float]]
    own_base_rate: float
    scratch_rate: float
    small_model: int
    warmup: Warmup
    lora_from: int
    lora_rank: int
    lora_alpha: int
    frozen_below: int
    prompt_tokens: int
    apt: dict[str, tuple[str, ...]]
    micro_batch: Devices
    micro_batch_tokens: Devices
    pretrain_batch: Table
    pretrain_steps: int
    vocabulary: Table
    vocabulary_a_width: int
    sequence: Table
    adversarial_upto: int
    smoothing_upto: int
    smoothing: float
    augment_upto: int
    few: int
    some: int
    merit: Merit
    shapes: dict[str, tuple[ModelChoice, ...]]
    objectives: dict[str, dict[str, Any]]


@cache
def rules() -> Rules:
    """Returns the rules that come with llmyard."""
    import yaml

    return TypeAdapter(Rules).validate_python(yaml.safe_load(FILE.read_text(encoding="utf-8")))


@cache
def shapes_as_written() -> dict[str, list[dict[str, Any]]]:
    """Returns the shapes as a job file may hold them, presets by their names."""
    import yaml

    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["shapes"]
    return found


def upto(table: Sequence[Line], amount: float) -> float:
    """Returns the value of the first line whose limit an amount does not pass."""
    return next(line.value for line in table if amount <= line.upto)


def rate_by_size(parameters: int) -> float:
    """Returns the learning rate for pretraining a model of a size (Kaplan et al. 2020, appendix D.6), two digits."""
    rate = max(5e-5, 0.003239 - 0.0001395 * math.log(parameters))
    return float(f"{rate:.1e}")
