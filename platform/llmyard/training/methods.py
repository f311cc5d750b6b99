"""Which weights fine-tuning changes, and what it does against learning by heart."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config


class Full(Config):
    """All weights are trained."""

    kind: Literal["full"] = "full"
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning rate of each layer relative to the one above it (Howard and Ruder 2018)."
    )


class Frozen(Config):
    """The lower layers stay as they were pretrained."""

    kind: Literal["frozen"] = "frozen"
    layers: int = Field(ge=1, description="How many of the lowest layers, of the encoder and of the decoder each.")
    embeddings: bool = Field(True, description="The embeddings stay as they were, too.")
    layer_decay: float = Field(1.0, gt=0, le=1, description="As for `full`.")


class Lora(Config):
    """Only small matrices beside those of the layers are trained (Hu et al. 2022), and kept apart from the base."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(16.0, gt=0, description="Their product counts alpha / rank times.")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        (), description="Ends of the names of the matrices; unset: all those of attention and feed-forward."
    )
    quantize: Literal["nf4"] | None = Field(
        None, description="Keep the base's matrices in 4 bits while training (QLoRA, Dettmers et al. 2023)."
    )
    merge: bool = Field(False, description="Add them to the base's matrices at the end: one model, as large as that.")

    @model_validator(mode="after")
    def _whole_where_merged(self) -> Self:
        if self.merge and self.quantize is not None:
            raise ValueError(
                "`merge` would add to a base in 4 bits: leave it out, an adapter is merged when it is loaded"
            )
        return self


class PromptTuning(Config):
    """Only the vectors of some tokens that stand before every prompt are trained (Lester et al. 2021)."""

    kind: Literal["prompt_tuning"] = "prompt_tuning"
    tokens: int = Field(16, ge=1, le=512)


Method = Annotated[Full | Frozen | Lora | PromptTuning, Field(discriminator="kind")]


class Fgm(Config):
    """One step against the model along the gradient of its embeddings (Miyato et al. 2017)."""

    kind: Literal["fgm"] = "fgm"
    size: float = Field(1.0, gt=0, description="Norm of a text's disturbance, as a share of its embeddings' norm.")


class Pgd(Config):
    """Several smaller steps, held within a ball (Madry et al. 2018)."""

    kind: Literal["pgd"] = "pgd"
    size: float = Field(1.0, gt=0, description="Largest norm of a text's disturbance, as a share of its embeddings'.")
    step: float = Field(0.3, gt=0, description="Norm of a step, likewise.")
    steps: int = Field(3, ge=1, le=16)


Adversarial = Annotated[Fgm | Pgd, Field(discriminator="kind")]
