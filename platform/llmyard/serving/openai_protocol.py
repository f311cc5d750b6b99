"""Requests and answers of the routes that are OpenAI's; their fields that are not here are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from llmyard.serving.protocol import Request, Stops, Telling, Text, TokenLogprob, Usage

MAX_CHOICES = 8
MAX_INPUTS = 256
MAX_IDS = 100_000
Role = Literal["system", "developer", "user", "assistant"]


class TextPart(Request):
    """A part of a message; other kinds than text are not read."""

    type: Literal["text"]
    text: Text


class Message(Request):
    """One turn of a conversation."""

    role: Role
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: str | None = Field(None, description="Taken, and not used.")

    def plain(self) -> dict[str, str]:
        """Returns the turn as tasks take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Request):
    """What a stream tells beside the answer."""

    include_usage: bool = Field(False, description="A last chunk without choices counts the tokens.")


class NamedSchema(Request):
    """A JSON schema."""

    name: str = Field("answer", max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="Taken; answers always follow the schema.")


class TextFormat(Request):
    """Answers are free."""

    type: Literal["text"]


class JsonFormat(Request):
    """Answers are JSON objects."""

    type: Literal["json_object"]


class SchemaFormat(Request):
    """Answers are JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]


class Sampling(Request):
    """How answers are written."""

    model: str
    temperature: float = Field(0.0, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="So many answers, with the seeds that follow.")
    seed: int | None = Field(None, ge=0, lt=2**62, description="By default another one each time.")
    stop: Stops = Field(None, description="Texts before which the answer ends.")
    user: str | None = Field(None, description="Taken, and not used.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0
    min_tokens: int = Field(0, ge=0, description="The answer is not shorter. Not OpenAI's.")
    language: Literal["en", "zh"] | None = Field(None, description="Of the answer. Not OpenAI's.")
    forbidden_words: list[Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"\S")]] = Field(
        [], max_length=50, description="Do not stand in the answer. Not OpenAI's."
    )
    no_repeat: int = Field(0, ge=0, le=64, description="No run of so many tokens stands twice. Not OpenAI's.")
    guided_regex: str | None = Field(
        None, min_length=1, max_length=2_000, description="The whole answer matches it. Not OpenAI's."
    )
    guided_choice: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=1_000)]], Field(
        min_length=1, max_length=100
    )] | None = Field(None, description="The answer is one of these. Not OpenAI's.")  # fmt: skip

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options go with `stream: true`")
        if self.guided_regex is not None and self.guided_choice is not None:
            raise ValueError("give guided_regex or guided_choice")
        return self

    def stops(self) -> list[str]:
        """Returns the texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def counts(self) -> bool:
        """Whether a stream's last chunk counts the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampling, Telling):
    """A conversation to be answered."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, description="By default 128, or the endpoint's limit if that is less.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        is_json = self.response_format is not None and self.response_format.type != "text"
        if is_json and (self.guided_regex is not None or self.guided_choice is not None):
            raise ValueError("give response_format or one of guided_regex and guided_choice")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens")
        return self


class Reply(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str


class Logprobs(BaseModel):
    """How likely each token was."""

    content: list[TokenLogprob]


class Choice(BaseModel):
    """One answer."""

    index: int
    message: Reply
    logprobs: Logprobs | None = None
    finish_reason: str


class ChatAnswer(BaseModel):
    """An answer; with ``stream`` it comes as events, ``chat.completion.chunk`` each, then ``[DONE]``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_IDS)]
Prompt = (
    Annotated[str, StringConstraints(max_length=100_000)]
    | Annotated[list[Annotated[str, StringConstraints(max_length=100_000)]], Field(min_length=1, max_length=32)]
    | Ids
)


class CompletionRequest(Sampling):
    """Texts to be gone on with, or one as token ids."""

    prompt: Prompt
    max_tokens: int | None = Field(None, ge=1, description="By default 16, or the endpoint's limit if that is less.")
    logprobs: int | None = Field(None, ge=0, le=5, description="How likely each token was; so many of the likeliest.")
    echo: Literal[False] = False
    best_of: Literal[1] = 1
    suffix: None = None

    def prompts(self) -> list[str | list[int]]:
        """Returns the texts, each as it was given."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


class CompletionLogprobs(BaseModel):
    """How likely each token was, as the completions route tells it."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None


class CompletionAnswer(BaseModel):
    """Continuations; with ``stream`` they come as events, ``text_completion`` each, then ``[DONE]``."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


Input = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class EmbeddingRequest(Request):
    """Texts whose vectors are wanted."""

    model: str
    input: Input | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: 32-bit floats, little-endian, as OpenAI's client asks for them."
    )
    user: str | None = Field(None, description="Taken, and not used.")

    def texts(self) -> list[str]:
        """Returns the texts."""
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(BaseModel):
    """The vector of a text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    """Vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
