"""A checkpoint ready to answer: its engine and its task, so that serving and the command line prompt alike."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from llmyard.core.artifacts import Artifact
from llmyard.generation.engine import Delta, Engine, GenerateRequest, Unsupported
from llmyard.generation.torch_engine import TorchEngine
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Task as TaskConfig
from llmyard.tasks.task import Annotation, Decoding, Record, Task
from llmyard.tasks.translation import LANGUAGE_TOKENS
from llmyard.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint.

    Attributes:
        reference: ``checkpoint/name@version``.
        name: As requests name it.
        task: What it was tuned for; None for a base model.
    """

    reference: str
    name: str
    engine: Engine
    tokenizer: Tokenizer
    task: Task | None

    @classmethod
    def load(cls, artifact: Artifact, threads: int | None = None) -> Model:
        """Returns the model of a checkpoint; its files are verified first."""
        engine = TorchEngine(artifact.local(), artifact.reference, threads)
        return cls(artifact.reference, artifact.name, engine, engine.tokenizer, task_of_checkpoint(artifact))

    def translate(self, text: str, target: str, decoding: Decoding | None = None) -> AsyncGenerator[Delta]:
        """Yields the translation of a text into ``target`` (en or zh).

        Raises:
            Unsupported: The model does not translate, not into that language, or not a text so long.
        """
        prompt = self._translation_prompt(text, target)
        return self.answer(prompt, decoding or (self.task.decoding if self.task else Decoding()))

    async def extract(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of texts."""
        return await self.engine.annotate(texts)

    def summarise(self, text: str, decoding: Decoding | None = None) -> AsyncGenerator[Delta]:
        """Yields a summary of a text, in its own language.

        Raises:
            Unsupported: The model does not summarise, or not a text so long.
        """
        prompt = self._summary_prompt(text)
        return self.answer(prompt, decoding or (self.task.decoding if self.task else Decoding()))

    def complete(self, text: str, decoding: Decoding) -> AsyncGenerator[Delta]:
        """Yields what a base model says after a text."""
        return self.answer(self._completion_prompt(text), decoding)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Returns the tokens that ask for an answer to the last user message.

        These models are not tuned to converse: a translation model translates the message into the other language,
        another summarises it, a base model goes on writing after it; what was said before is not read.

        Raises:
            Unsupported: There is no user message, or the model does not take this one.
        """
        text = next((message["content"] for message in reversed(messages) if message["role"] == "user"), None)
        if text is None:
            raise Unsupported("there is no message of the user", 'send one with "role": "user"')
        if self.task is None:
            return self._completion_prompt(text)
        if self.task.name == "summarization":
            return self._summary_prompt(text)
        return self._translation_prompt(text, "en" if mostly_chinese(text) else "zh")

    def answer(self, prompt: Sequence[int], decoding: Decoding) -> AsyncGenerator[Delta]:
        """Yields what the model writes after a prompt."""
        request = GenerateRequest(
            uuid.uuid4().hex,
            prompt,
            decoding.max_new_tokens,
            decoding.temperature,
            decoding.seed,
            decoding.top_p,
        )
        return self.engine.generate(request)

    def _completion_prompt(self, text: str) -> list[int]:
        return self.tokenizer.encode(text) or [self.tokenizer.end_id]

    def _translation_prompt(self, text: str, target: str) -> list[int]:
        if self.task is None or self.task.name != "translation":
            raise Unsupported(f"{self.name} does not translate", "choose a translation model")
        if target not in LANGUAGE_TOKENS:
            raise Unsupported(f"cannot translate into {target!r}", f"supported: {', '.join(LANGUAGE_TOKENS)}")
        return self._whole_prompt(text, {"source": text, "target_language": target}, "translates")

    def _summary_prompt(self, text: str) -> list[int]:
        if self.task is None or self.task.name != "summarization":
            raise Unsupported(f"{self.name} does not summarise", "choose a summarisation model")
        language = "zh" if mostly_chinese(text) else "en"
        return self._whole_prompt(text, {"text": text, "language": language}, "summarises")

    def _whole_prompt(self, text: str, record: Record, does: str) -> list[int]:
        assert self.task is not None
        prompt, source = self.task.prompt(record, self.tokenizer), self.tokenizer.encode(text)
        # The task cuts a text that is too long; half of one answered in silence is worse than a refusal.
        if prompt[1:-1] != source:
            raise Unsupported(
                f"the text has {len(source)} tokens; {self.name} {does} {len(prompt) - 2} at once", "split it"
            )
        return prompt


def task_of_checkpoint(artifact: Artifact) -> Task | None:
    """Returns the task that a checkpoint was tuned for."""
    config = artifact.details.get("task_config")
    if not config:
        return None
    return task_of(TypeAdapter(TaskConfig).validate_python(config))


def mostly_chinese(text: str) -> bool:
    """Returns whether at least a third of a text's letters are Chinese characters."""
    han = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return han * 3 >= max(1, sum(character.isalpha() for character in text))


async def whole(deltas: AsyncIterator[Delta]) -> tuple[str, str, int]:
    """Returns (text, finish, tokens) of an answer."""
    parts, finish, tokens = [], "stop", 0
    async for delta in deltas:
        parts.append(delta.text)
        tokens += len(delta.token_ids)
        finish = delta.finish or finish
    return "".join(parts), finish, tokens
