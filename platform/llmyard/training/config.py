"""How a model is trained; shared by every stage that trains."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config, Inert


class Optimizer(Config):
    """AdamW (Loshchilov and Hutter 2019)."""

    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1, description="On matrices only, not on biases and norms.")
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = Field(1.0, gt=0)


class Schedule(Config):
    """Linear warm-up, then a fall to ``final_share`` of the learning rate at the last step."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    final_share: float = Field(0.05, ge=0, le=1)


class Batch(Config):
    """What one optimizer step sees. The micro-batch does not depend on the number of workers: that makes runs equal."""

    size: int = Field(32, ge=1, description="Sequences or examples an optimizer step.")
    micro_batch: int = Field(16, ge=1, description="Sequences or examples a forward pass on one worker.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.size % self.micro_batch:
            raise ValueError(f"batch size {self.size} is not a multiple of the micro_batch {self.micro_batch}")
        return self


class Resources(Config):
    """What the workers get; none of it changes the result beyond float rounding."""

    workers: int = Field(2, ge=1, le=10_000)
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    max_failures: int = Field(3, ge=0, description="Worker group restarts before the stage fails.")


class Training(Config):
    """Fields of a stage that trains."""

    steps: int = Field(ge=1)
    batch: Batch = Batch()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device computes in it, else float32; weights stay float32."
    )
    checkpoint_every_steps: Annotated[int, Inert(), Field(ge=1)] = 100
    log_every_steps: Annotated[int, Inert(), Field(ge=1)] = 1
    resources: Annotated[Resources, Inert()] = Resources()

    @model_validator(mode="after")
    def _workers_divide(self) -> Self:
        micro_batches = self.batch.size // self.batch.micro_batch
        if micro_batches % self.resources.workers:
            raise ValueError(
                f"batch size {self.batch.size} is {micro_batches} micro-batches of {self.batch.micro_batch}, which "
                f"{self.resources.workers} workers cannot share evenly"
            )
        return self
