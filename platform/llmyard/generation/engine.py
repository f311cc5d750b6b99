"""The engine protocol: what answers requests, free of Ray and HTTP. Every engine passes the same contract tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.tasks.task import Annotation, Choice, Marked

Finish = Literal["stop", "length", "aborted", "content_filter"]


class EngineClosed(LlmyardError):
    """The engine is draining or closed and takes no more requests."""


class Unanswering(RequestError):
    """No engine here answers with a model of this kind."""


class Unsupported(RequestError):
    """The model cannot do what was asked."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do.

    Attributes:
        model: Its reference.
        family: Its architecture.
        generates: Answers :meth:`Engine.generate`.
        annotates: Answers :meth:`Engine.annotate`.
        max_prompt_tokens: Longer prompts are refused.
        max_total_tokens: Prompt and answer together; an answer ends there with ``length``. One more than the model has
            positions, because the last token is written and never read. None: no such end.
        classifies: Answers :meth:`Engine.classify`.
        engine: What computes.
    """

    model: str
    family: str
    generates: bool
    annotates: bool
    max_prompt_tokens: int
    max_total_tokens: int | None = None
    classifies: bool = False
    engine: str = "torch"

    @property
    def does(self) -> str:
        """What the model does, for error messages."""
        return "writes" if self.generates else "tags" if self.annotates else "labels"

    @property
    def route(self) -> str:
        """What answers with the model, for error messages."""
        return "generate route" if self.generates else "annotate route" if self.annotates else "classify route"


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt to be answered.

    Attributes:
        id: Unique among the requests under way; names the request to :meth:`Engine.abort`.
        prompt: Token ids.
        max_new_tokens: At least 1; the answer is cut there, with finish ``length``.
        temperature: 0 takes the likeliest token each time.
        seed: Of the sampling; equal requests with equal seeds give equal answers.
        top_p: Tokens are drawn from the likeliest ones that have this probability together (Holtzman et al. 2020).
        json_schema: The answer is JSON that follows it, unless it is cut; None leaves it free.
        min_new_tokens: The answer does not end before.
        language: ``en`` has no Chinese characters in the answer, ``zh`` no Latin letters.
        forbidden: Words that do not stand in the answer, whatever their case.
        no_repeat: No run of so many tokens stands in the answer twice; 0 lets them.
        end_tokens: Names of tokens that end the answer, beside llmyard's own.
        regex: The answer matches this regular expression as a whole, unless it is cut; not beside ``json_schema``.
        top_logprobs: How likely each token was is told, and which so many were the likeliest; None tells nothing.
        begun: Is called, in the engine's thread, when the request need wait no longer; it must not fail.
    """

    id: str
    prompt: Sequence[int]
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    json_schema: str | None = None
    min_new_tokens: int = 0
    language: str | None = None
    forbidden: tuple[str, ...] = ()
    no_repeat: int = 0
    end_tokens: tuple[str, ...] = ()
    regex: str | None = None
    top_logprobs: int | None = None
    begun: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Likely:
    """How likely a token was, before anything that the answer is held to.

    Attributes:
        token_id: The token that was taken.
        logprob: Its log-probability, in nats.
        top: The likeliest tokens at this place with their log-probabilities, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer; the last one has ``finish``.

    The texts add up to the decoding of all token ids. A character is in one piece: a piece may be empty while its bytes
    are being written. The token that ends an answer is not part of it. ``likely`` holds an entry for each token where
    the request asked for that.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: Finish | None = None
    likely: tuple[Likely, ...] = ()


@dataclass(slots=True)
class Stats:
    """What an engine has done since it was loaded.

    Attributes:
        requests: Calls taken so far.
        running: Answers being written now.
        waiting: Calls taken and not begun.
        prompt_tokens: Read, in prompts that were begun.
        generated_tokens: Written into answers.
        aborted: Answers that ended early because their reader left or they were aborted.
        failed: Answers that ended because the model failed.
        kv_cache_bytes: Held for the keys and values of answers.
        alive: Whether it still computes; one that has ended by a fault answers nothing any more.
    """

    requests: int = 0
    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    aborted: int = 0
    failed: int = 0
    kv_cache_bytes: int = 0
    alive: bool = True


class Engine(Protocol):
    """A loaded model that answers requests concurrently."""

    def capabilities(self) -> Capabilities:
        """Returns what the model can do."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        """Yields the answer as it is written; leaving the iterator early stops the work.

        Raises:
            Unsupported: The model does not generate, or the prompt is empty, too long or not of its vocabulary.
            EngineClosed: The engine is draining.
            LlmyardError: The model failed; later requests are not touched.
        """

    async def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of each text.

        Raises:
            Unsupported: The model does not annotate, or a text is too long.
            EngineClosed: The engine is draining.
        """

    async def classify(self, texts: Sequence[Marked]) -> list[Choice]:
        """Returns the label of each text.

        Raises:
            Unsupported: The model does not classify, or a text is too long.
            EngineClosed: The engine is draining.
        """

    async def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector for each text: the mean of the encoder's last hidden states."""

    def abort(self, request_id: str) -> None:
        """Ends a request; its iterator finishes with ``aborted``. Unknown ids are ignored."""

    def stats(self) -> Stats:
        """Returns counts for monitoring, as they are now."""

    async def drain(self) -> None:
        """Takes no more requests and returns when those under way are answered."""
