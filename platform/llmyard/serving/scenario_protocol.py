"""Requests and answers of the five scenarios, and of records of any task."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from llmyard.serving.protocol import Request, Said, Stops, Telling, Text, TokenLogprob, Usage

FIRST = "By default the first model that is made for this."
MAX_TOKENS = "By default what the model has learned, or the endpoint's limit if that is less."
TOKENS = "How likely each token was, where `logprobs` asks for it."


class Scenario(BaseModel):
    """What every answer tells: who gave it."""

    model: str
    artifact: str = Field(description="The checkpoint that answered, with its version.")


class Scripted(Scenario):
    """What answers tell of their writing."""

    finish_reason: str = Field("stop", description="`length`: it was cut.")
    usage: Usage | None = Field(None, description="None of a model that labels.")
    tokens: list[TokenLogprob] | None = Field(None, description=TOKENS)


class TranslateRequest(Telling):
    """A text to be translated."""

    text: Said
    target_language: Literal["en", "zh"]
    model: str | None = Field(None, description=FIRST)
    max_tokens: int | None = Field(None, ge=1, description=MAX_TOKENS)


class TranslateAnswer(Scripted):
    """A translation."""

    translation: str


class SummarizeRequest(Telling):
    """A text to be summarised, or asked of what a query says."""

    text: Said
    query: Said | None = None
    model: str | None = Field(None, description=FIRST)
    min_tokens: int | None = Field(None, ge=0, description="Of a model that writes: the summary is not shorter.")
    max_tokens: int | None = Field(None, ge=1, description=MAX_TOKENS)
    sentences: int | None = Field(None, ge=1, le=20, description="Of a model that chooses sentences: how many at most.")

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is more than max_tokens ({self.max_tokens})")
        return self


class SummarizeAnswer(Scripted):
    """A summary."""

    summary: str
    spans: list[tuple[int, int]] | None = Field(None, description="Places of the chosen sentences, in characters.")


class AnswerRequest(Telling):
    """A question about a text, or about all that the endpoint's index holds."""

    question: Said
    context: Said | None = Field(None, description="By default passages are found in the endpoint's index.")
    passages: int | None = Field(None, ge=1, le=20, description="So many are found; by default 5.")
    model: str | None = Field(None, description=FIRST)
    max_tokens: int | None = Field(None, ge=1, description=MAX_TOKENS)

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.context is not None and self.passages is not None:
            raise ValueError("with a `context` no passages are searched")
        return self


class FoundPassage(BaseModel):
    """A passage of the index."""

    id: str
    document: str
    text: str


class AnswerAnswer(Scripted):
    """An answer to a question."""

    answer: str = Field(description='"" where there is none.')
    start: int | None = Field(None, description="Where it stands in the context, or in the cited passage; characters.")
    end: int | None = None
    score: float | None = Field(None, description="How much likelier it is than that there is none, in nats.")
    cited: str | None = Field(None, description="Id of the passage that it was taken from.")
    passages: list[FoundPassage] = []


class Turn(Request):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ConverseRequest(Telling):
    """A conversation to be gone on with."""

    messages: list[Turn] = Field(min_length=1, max_length=1000)
    model: str | None = Field(None, description=FIRST)
    max_tokens: int | None = Field(None, ge=1, description=MAX_TOKENS)
    temperature: float = Field(0.0, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**63)
    stop: Stops = None
    stream: bool = Field(False, description="Events as of /v1/chat/completions.")


class ConverseAnswer(Scripted):
    """A reply."""

    reply: str
    slots: dict[str, str] | None = Field(None, description="What the user wants so far, of a model that follows it.")


class ExtractRequest(Request):
    """A text whose entities and triples are wanted."""

    text: Said
    model: str | None = Field(None, description=FIRST)


class FoundEntity(BaseModel):
    """An entity, with its place in characters; -1 where it was written so, and does not stand in the text."""

    text: str
    type: str
    start: int
    end: int


class FoundTriple(BaseModel):
    """A fact, with where its entities stand first."""

    subject: str
    relation: str
    object: str
    subject_span: tuple[int, int] | None = None
    object_span: tuple[int, int] | None = None


class ExtractAnswer(Scenario):
    """Entities and facts of a text."""

    entities: list[FoundEntity]
    triples: list[FoundTriple]


class PredictRequest(Request):
    """Records of a model's task, each without its answer."""

    model: str
    records: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=64)]


class PredictAnswer(Scenario):
    """What the model says of each record, as its task has it: a text, or what was found in each part of the record."""

    task: str
    answers: list[Any]
