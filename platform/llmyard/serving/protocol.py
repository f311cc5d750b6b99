"""Requests and answers over HTTP; the chat route is OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Said = Annotated[Text, StringConstraints(pattern=r"\S")]  # more than spaces


class Request(BaseModel):
    """A request; fields we do not know are refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")


class Message(Request):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class StreamOptions(Request):
    """What a stream tells beside the answer."""

    include_usage: bool = Field(False, description="A last chunk without choices counts the tokens.")


Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class ChatRequest(Request):
    """A conversation to be answered; OpenAI's fields that are not here are refused."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, description="By default 128, or the endpoint's limit if that is less.")
    temperature: float = Field(0.0, ge=0, le=5)
    seed: int = Field(0, ge=0, lt=2**63)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="Texts before which the answer ends."
    )
    n: Literal[1] = 1
    user: str | None = Field(None, description="Taken, and not used.")
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options go with `stream: true`")
        return self

    def stops(self) -> list[str]:
        """Returns the texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Turn(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One answer; there is always one."""

    index: int = 0
    message: Turn
    finish_reason: str


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, read: int, written: int) -> Usage:
        """Returns the counts of an answer."""
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class ChatAnswer(BaseModel):
    """An answer; with ``stream`` it comes as events, ``chat.completion.chunk`` each, then ``[DONE]``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class TranslateRequest(Request):
    """A text to be translated."""

    text: Said
    target_language: Literal["en", "zh"]
    model: str | None = Field(None, description="By default the first translation model.")


class TranslateAnswer(BaseModel):
    """A translation."""

    model: str
    translation: str
    finish_reason: str


class ExtractRequest(Request):
    """A text whose entities and triples are wanted."""

    text: Said
    model: str | None = Field(None, description="By default the first model that extracts.")


class FoundEntity(BaseModel):
    """An entity, with its place in characters."""

    text: str
    type: str
    start: int
    end: int


class FoundTriple(BaseModel):
    """A fact."""

    subject: str
    relation: str
    object: str


class ExtractAnswer(BaseModel):
    """Entities and facts of a text."""

    model: str
    entities: list[FoundEntity]
    triples: list[FoundTriple]


class PredictRequest(Request):
    """Records of a model's task, each without its answer."""

    model: str
    records: list[dict[str, Any]] = Field(min_length=1, max_length=64)


class PredictAnswer(BaseModel):
    """What the model says of each record, as its task has it: a text, or what was found in each part of the record."""

    model: str
    artifact: str
    task: str
    answers: list[Any]


class Error(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer whose status is an error."""

    error: Error


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Returns an error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
