"""A checkpoint ready to answer: its engine and its task, so that serving and the command line prompt alike."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from llmyard.core.artifacts import Artifact
from llmyard.generation.engine import Delta, Engine, GenerateRequest, Unsupported
from llmyard.generation.torch_engine import TorchEngine
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import KnowledgeGraph, Translation
from llmyard.tasks.task import Annotation, Decoding, Task
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

    def translate(self, text: str, target: str, decoding: Decoding | None = None) -> AsyncIterator[Delta]:
        """Yields the translation of a text into ``target`` (en or zh).

        Raises:
            Unsupported: The model does not translate, or not into that language.
        """
        if self.task is None or self.task.name != "translation":
            raise Unsupported(f"{self.name} does not translate", "choose a translation model")
        if target not in ("en", "zh"):
            raise Unsupported(f"cannot translate into {target!r}", "supported: en, zh")
        record = {"source": text, "target_language": target}
        return self._generate(self.task.prompt(record, self.tokenizer), decoding or self.task.decoding)

    async def extract(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of texts."""
        return await self.engine.annotate(texts)

    def complete(self, text: str, decoding: Decoding) -> AsyncIterator[Delta]:
        """Yields what a base model says after a text."""
        ids = self.tokenizer.encode(text) or [self.tokenizer.end_id]
        limit = self.engine.capabilities().max_prompt_tokens
        # What is read and written must fit the positions that the model has.
        room = max(1, limit - decoding.max_new_tokens)
        return self._generate(ids[-room:], decoding)

    def chat(self, messages: Sequence[dict[str, str]], decoding: Decoding) -> AsyncIterator[Delta]:
        """Yields the answer to the last user message; a translation model translates it into the other language."""
        text = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
        if self.task is not None and self.task.name == "translation":
            return self.translate(text, "en" if mostly_chinese(text) else "zh", decoding)
        return self.complete(text, decoding)

    def _generate(self, prompt: list[int], decoding: Decoding) -> AsyncIterator[Delta]:
        request = GenerateRequest(
            uuid.uuid4().hex, prompt, decoding.max_new_tokens, decoding.temperature, decoding.seed
        )
        return self.engine.generate(request)


def task_of_checkpoint(artifact: Artifact) -> Task | None:
    """Returns the task that a checkpoint was tuned for."""
    config = artifact.details.get("task_config")
    if not config:
        return None
    kinds = {"translation": Translation, "knowledge_graph": KnowledgeGraph}
    return task_of(kinds[config["kind"]].model_validate(config))


def mostly_chinese(text: str) -> bool:
    """Returns whether at least a third of a text's letters are Chinese characters."""
    han = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return han * 3 >= max(1, sum(character.isalpha() for character in text))


async def whole(deltas: AsyncIterator[Delta]) -> tuple[str, str, int]:
    """Returns (text, finish, tokens) of an answer."""
    text, finish, tokens = "", "stop", 0
    async for delta in deltas:
        text, tokens = text + delta.text, tokens + len(delta.token_ids)
        finish = delta.finish or finish
    return text, finish, tokens
