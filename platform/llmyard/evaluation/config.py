"""What is asked of a model beside its task."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config, Inert, SourcePath


class BiasProbes(Config):
    """Pairs of texts that differ in who is spoken of: which a model that writes finds likelier, or to which one that
    labels gives a label the sooner.
    """

    probes: tuple[str, ...] = Field(
        (), description="Names; none: all that ship. smallworld: those of smallworld's planted bias."
    )
    languages: tuple[Literal["en", "zh"], ...] = Field(("en", "zh"), min_length=1)
    label: str | None = Field(None, description="Of a model that labels: the label whose probability is compared.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        from llmyard.evaluation.bias import probes  # it needs numpy, which reading a job does not

        unknown = [name for name in self.probes if name not in probes()]
        if unknown:
            raise ValueError(f"there is no bias probe {unknown[0]!r}: {', '.join(probes())}")
        return self

    def names(self) -> tuple[str, ...]:
        """Returns the probes that are asked: those named, or all of other people's making."""
        from llmyard.evaluation.bias import PLANTED, probes

        return self.probes or tuple(name for name in probes() if name != PLANTED)


class Harness(Config):
    """Tasks of the lm-evaluation-harness (the extra `harness`), from files of one's own."""

    folder: SourcePath = Field(description="Of the task files; code that they name (`!function`) is run.")
    tasks: tuple[str, ...] = Field(min_length=1, description="Their names, or those of groups.")
    shots: int | None = Field(None, ge=0, le=64, description="Solved examples in prompts; unset, as the files say.")
    limit: int | None = Field(None, ge=1, description="Examples of each task at most.")


class Merging(Config):
    """What makes names one entity, where all triples that were found become one graph; spellings always are."""

    aliases: SourcePath | None = Field(None, description="A table: alias, tab, name; a pair a line.")
    alias_relations: tuple[str, ...] = Field(
        (), description="Relations that say that two names are one entity, such as 又名; they are no triples then."
    )


class Retrieval(Config):
    """Questions are asked without their texts: what is read is found in an index."""

    index: str = Field(description="Name of an index.")
    passages: int = Field(5, ge=1, le=50, description="How many are read for a question.")
    without: bool = Field(True, description="Ask everything again without any text, to see what finding is worth.")


class Endpoint(Config):
    """A model that answers over HTTP: of `llmyard serve`, or another that speaks OpenAI's protocol."""

    url: str = Field(pattern=r"^https?://[^@]+$", description="Without `/v1`, and without a password.")
    model: str = Field(min_length=1, description="As its /v1/models lists it.")
    key_env: str = Field("LLMYARD_API_KEY", description="The environment variable that holds the key.")
    streams: Annotated[int, Inert(), Field(ge=1, le=256, description="Requests at once.")] = 8
    timeout_seconds: Annotated[float, Inert(), Field(gt=0)] = 120.0
